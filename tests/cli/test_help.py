"""Help and lists: complete, taken from the comments of the YAML files, without slow imports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlmem import __version__
from rlmem.cli.commands import _parse
from rlmem.cli.help import CONFIGS
from rlmem.cli.main import main
from rlmem.policies import encoders
from tests.cli.common import python


def test_list_has_one_line_per_yaml_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = dict(re.findall(r"^  (\S+)  +(\S.*)$", capsys.readouterr().out, re.M))
    for group in ("core", "env", "algo"):
        for path in (CONFIGS / group).glob("*.yaml"):
            assert listed.pop(path.stem) == path.read_text().splitlines()[0].removeprefix("# ")
    assert listed.keys() == set(encoders.names())


def test_list_of_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "encoders"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "Encoders (policy.encoder=NAME)"
    assert [line.split()[0] for line in lines] == encoders.names()
    for line in lines:
        name, text = line.strip().split(maxsplit=1)
        docstring = encoders.registry.get(name).__doc__
        assert text == docstring.splitlines()[0].rstrip(".")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_help_lists_every_option_with_default_and_comment(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([path.stem, "--cfg", "job"]) == 0
    values = OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))
    assert isinstance(values, dict)
    assert main([path.stem, "--help"]) == 0
    text = capsys.readouterr().out
    for key, value in values.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        for name, default in nested:
            if name != "name":
                option = re.escape(f"{key}.{name}".rstrip("."))
                # The comment of a long option is on the next line.
                line = re.search(rf"^  {option}=(.*?)(?:  +|\n {{6,}})\S", text, re.M)
                assert line, option
                if option == "run_dir":
                    assert line[1] == "runs/ENV/CORE/ALGO-seedSEED-TIME"
                    continue
                assert OmegaConf.create({"x": default}) == OmegaConf.create(f"x: {line[1]}"), option


def test_help_lists_the_options_of_the_given_core(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "core=none", "--help"]) == 0
    text = capsys.readouterr().out
    assert "core=none: no memory" in text
    assert "core.memory_size" not in text


def test_help_lists_the_tuned_settings_of_the_given_environment_and_algorithm(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "env=meta-bandit", "--help"]) == 0
    out = capsys.readouterr().out
    assert "\ntuned=meta-bandit-ppo, applied unless tuned=none: " in out
    assert re.search(r"^  algo.gae_lambda=0.3 +\S", out, re.M)
    assert main(["train", "env=meta-bandit", "algo=r2d2", "--help"]) == 0
    assert "gae_lambda" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "list", "train --help", "play --help", "tarin"]
)
def test_help_and_list_import_no_slow_package(arguments: str) -> None:
    code = (
        "import sys; from rlmem.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'hydra', 'omegaconf', 'gymnasium', 'numpy', 'rich'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    process = python("-c", code, *arguments.split(), new=True)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_python_m_rlmem_runs_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert python("-m", "rlmem", "--version", new=True).communicate()[0] == f"rlmem {__version__}\n"
    assert main(["--help"]) == 0
    assert python("-m", "rlmem", "--help").communicate()[0] == capsys.readouterr().out
    failed = python("-m", "rlmem", "train", "env=popgym-repaet")
    out, err = failed.communicate()
    assert (failed.returncode, out) == (2, "")
    assert re.fullmatch(r"rlmem: unknown env 'popgym-repaet'; did you mean [^\n]*\n", err)


def test_a_closed_pipe_is_not_an_error() -> None:
    listing = python("-m", "rlmem", "list")
    assert listing.stdout is not None
    listing.stdout.close()
    _, err = listing.communicate(timeout=60)
    assert (listing.returncode, err) == (0, "")


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize(
    "arguments",
    ["--help", "train --help env=meta-wind algo=amago", "eval --help", "train --hydra-help"],
)
def test_help_breaks_lines_between_words(
    arguments: str,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = []
    for width in (columns, 10_000):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(arguments.split()) == 0
        texts.append(capsys.readouterr().out)
    narrow, wide = texts
    assert narrow.split() == wide.split()  # the same words, none of them in two parts
    longest = max(map(len, wide.split()))
    for line in narrow.splitlines():
        # A word that is longer than the line stays whole.
        assert len(line) <= max(columns, longest + 4), line


def test_without_a_terminal_help_has_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 70 < max(map(len, lines)) <= 80


def test_help_is_also_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for arguments in ("--help", "help", "-h", "train --help", "help train", "train -h"):
        assert main(arguments.split()) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert texts[3] == texts[4] == texts[5]
    assert main(["help", "train", "core=none"]) == 0
    assert "core=none: no memory" in capsys.readouterr().out


def test_help_of_several_members_and_of_other_folders(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine/core").mkdir(parents=True)
    (tmp_path / "mine/core/elephant.yaml").write_text("# never forgets\nname: x\nears: 2  # big\n")
    arguments = ["--config-dir", "mine", "core=elephant,ffm", "core.ears=3"]
    assert main(["train", "--help", "-m", *arguments]) == 0
    text = capsys.readouterr().out
    assert "core=elephant: never forgets\n  core.ears=2  big\n" in text
    assert "core.memory_size=32" in text


def test_hydra_help_shows_only_flags_that_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--hydra-help"]) == 0
    text = capsys.readouterr().out
    for name in sorted(set(re.findall(r"(?<!\S)--?[a-z-]+", text))):
        value = {"--cfg": "job", "-c": "job", "--info": "all", "-i": "all"}.get(name, "core")
        takes_value = re.search(rf"{name}(, --[a-z-]+)? [A-Z]+", text)
        with_cfg = ["--cfg", "job"] if name in ("--resolve", "--package", "-p") else []
        _parse("train", [*with_cfg, name, *([value] if takes_value else [])])
