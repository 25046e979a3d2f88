"""Help and lists: complete, taken from the comments of the YAML files, without slow imports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlmem import __version__
from rlmem.cli.help import CONFIGS
from rlmem.cli.main import main
from tests.cli.common import python


def test_list_has_one_line_per_yaml_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = dict(re.findall(r"^  (\S+)  +(\S.*)$", capsys.readouterr().out, re.M))
    for group in ("core", "env", "algo"):
        for path in (CONFIGS / group).glob("*.yaml"):
            assert listed.pop(path.stem) == path.read_text().splitlines()[0].removeprefix("# ")
    assert not listed


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
    process = python("-c", code, *arguments.split())
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_python_m_rlmem_runs_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert python("-m", "rlmem", "--version").communicate()[0] == f"rlmem {__version__}\n"
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
