"""README and docs: snippets run, commands match the continuous integration, tables match results.

Every Python or bash block has a comment before it: `<!-- run -->` (run here), `<!-- run by night
-->` (run here as a slow test), `<!-- run with MODULE -->` (the same, if MODULE is installed), `<!--
run by night: 600000 as 8192; seeds=3 as seeds=1 -->` (with a smaller budget), `<!-- file: NAME -->`
(a file for the snippets), `<!-- command: NAME -->` (run elsewhere) or `<!-- not run: REASON -->` (a
reason of `NOT_RUN`).
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlmem.cli.main import COMMANDS
from tests.documented import FILES, PAGES, ROOT, Block, blocks, run, shortened
from tests.warm_python import warm_python

RESULTS = ROOT / "docs" / "results"
TEXT = PAGES["README.md"]

NIGHT = [*blocks("run by night[^\n]*"), *blocks(r"run with \w+")]
RUN = [*blocks("run"), *(pytest.param(each, marks=pytest.mark.slow) for each in NIGHT)]
# The bash blocks that no test runs.
NOT_RUN = {
    "benchmarks.md": {
        "half an hour of training", "minutes of training", "minutes to hours of training",
        "minutes of measuring", "needs a GPU", "for a machine without a network",
        "needs JAX, and an idle machine", "three minutes, and needs an idle machine",
    },
    "claims.md": {"minutes of measuring"},
    "install.md": {"downloads all packages"},
    "popgym.md": {"hours of training"},
    "sweeps.md": {"needs SLURM"},
    "torchrl.md": {"tests/torchrl/test_pipelines.py runs them"},
}  # fmt: skip


@pytest.mark.parametrize("block", RUN, ids=range(len(RUN)))
def test_snippets_run(block: Block, tmp_path: Path) -> None:
    module = block.marker.removeprefix("run with ")
    if module != block.marker and find_spec(module) is None:
        pytest.skip(f"needs {module}")
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    words = {
        "bash": ["bash", "-euo", "pipefail", "-c"],
        "python": [*warm_python(), "-c"],
    }[block.language]
    done = run([*words, shortened(block)], tmp_path, {"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_named_commands_are_not_run() -> None:
    found: dict[str, set[str]] = {}
    for each in blocks(r"not run: [^\n]+"):
        if each.language == "bash":
            found.setdefault(each.page, set()).add(each.marker.removeprefix("not run: "))
    assert found == NOT_RUN
    assert {each.marker for each in blocks(r"command: [^\n]+")} == {
        "command: main",
        "command: test",
    }


@cache
def flags(script: Path) -> set[str]:
    """The options of a script, and of those that it imports."""
    text = script.read_text()
    found = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', text)) | {"--help"}
    for name in re.findall(r"^(?:from|import) (\w+)", text, re.M):
        if (script.parent / f"{name}.py").is_file():
            found |= flags(script.parent / f"{name}.py")
    return found


def written_commands() -> list[str]:
    """Commands in bash blocks, and those in a line of text that begin with a program."""
    lines = "\n".join(each.text for each in blocks() if each.language == "bash")
    found = [line.partition(" #")[0] for line in lines.replace("\\\n", " ").splitlines()]
    prose = [re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S) for text in PAGES.values()]
    return found + re.findall(r"`((?:rlmem|python scripts/)[^`\n]*)`", "\n".join(prose))


def test_all_written_commands_exist() -> None:
    scripts = 0
    for line in written_commands():
        for command in re.findall(r"(?:^|&& |-m |srun |\(|bin/)rlmem ([a-z]+)", line):
            assert command in COMMANDS, line
        for name, rest in re.findall(r"python (scripts/[\w/]+\.py)([^&|]*)", line):
            assert (ROOT / name).is_file(), line
            assert set(re.findall(r"(?<!\S)--[\w-]+", rest)) <= flags(ROOT / name), line
            scripts += 1
    assert scripts > 15


def test_every_block_is_marked() -> None:
    fences = len(re.findall(r"^```(?:bash|python)$", "\n".join(PAGES.values()), re.M))
    kinds = r"run|run with \w+|run by night(?:: [^\n]+)?|file: \S+|command: \S+|not run: [^\n]+"
    assert fences == len(blocks(f"(?:{kinds})"))


@pytest.mark.parametrize("name", ["main", "test"])
def test_commands_are_one_line_and_set_everything_up(name: str) -> None:
    (command,) = commands(name)
    assert command.count("\n") == 1
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert "-c constraints.txt" in command


def test_continuous_integration_runs_the_test_command() -> None:
    printed = subprocess.run(
        [ROOT / ".ci" / "run", "--print"], capture_output=True, text=True, check=True
    )
    assert [printed.stdout] == commands("test")


def commands(name: str) -> list[str]:
    return [each.text for each in blocks(f"command: {name}")]


def test_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_links_lead_to_files() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        prose = re.sub(r"```.*?```|`[^`]+`", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_tables_equal_the_recorded_results() -> None:
    text = "\n".join(PAGES.values())
    tables = re.findall(r"^<!-- results: (\S+) -->\n(.*?)\n<!-- end -->$", text, re.M | re.S)
    assert tables
    for name, text in tables:
        assert text == (RESULTS / f"{name}.md").read_text().strip(), name


def test_recorded_results_name_their_command() -> None:
    """In their own text, or as `--page NAME` on a page; one script may write several pages."""
    text = "\n".join(PAGES.values())
    written = set(re.findall(r"--page ([\w-]+)", text))
    for path in sorted(RESULTS.glob("*.md")):
        named = {path.stem, path.stem.rpartition("-")[0]} & written
        own = f"scripts/{path.stem}_page.py" in text
        assert named or own or re.search(r"scripts/\w+\.py|`rlmem \w+", path.read_text()), path


def test_means_over_seeds_equal_the_recorded_runs() -> None:
    command = [sys.executable, "scripts/average_seeds.py", "popgym-repeat", "popgym-repeat-more"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert printed.stdout.strip() == (RESULTS / "popgym-repeat-means.md").read_text().strip()


def named_in(section: str) -> set[str]:
    """The names in the first column of a section's table in the README."""
    table = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| `.*?\|", table, re.M))))


def yaml(group: str) -> set[str]:
    return {path.stem for path in (ROOT / "rlmem/configs" / group).glob("*.yaml")}


def test_every_core_is_in_the_table_of_cores() -> None:
    # `s4` is another name of `s4d`.
    assert named_in("Cores") == yaml("core") - {"s4"}


def test_every_algorithm_is_in_the_table_of_algorithms() -> None:
    assert named_in("Algorithms") == yaml("algo")


def test_every_environment_is_in_the_table_of_environments() -> None:
    named, there = named_in("Environments"), yaml("env")
    found = {pattern: fnmatch.filter(there, pattern) for pattern in named}
    assert all(found.values())
    assert set().union(*found.values()) == there
