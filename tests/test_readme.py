"""README and docs: snippets run, commands match the continuous integration, tables match results.

Every Python or bash block has a comment before it: `<!-- run -->` (run here), `<!-- run by night
-->` (run here as a slow test), `<!-- run with MODULE -->` (the same, if MODULE is installed),
`<!-- file: NAME -->` (a file for the snippets), `<!-- command: NAME -->` (run elsewhere) or
`<!-- not run: REASON -->`.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
TEXT = (ROOT / "README.md").read_text()
PAGES = "\n".join([TEXT, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))])


def blocks(marker: str) -> list[tuple[str, ...]]:
    """Groups of `marker` (a pattern), language and text of the marked blocks."""
    pattern = rf"^<!-- {marker} -->\n```(bash|python)\n(.*?)^```$"
    return re.findall(pattern, PAGES, re.M | re.S)


SNIPPETS = [("", *block) for block in blocks("run")]
NIGHT = [("", *block) for block in blocks("run by night")] + blocks(r"run with (\w+)")
RUN = [*SNIPPETS, *(pytest.param(*each, marks=pytest.mark.slow) for each in NIGHT)]
FILES = {name: text for name, _, text in blocks(r"file: (\S+)")}


@pytest.mark.parametrize(("module", "language", "snippet"), RUN, ids=range(len(RUN)))
def test_snippets_run(module: str, language: str, snippet: str, tmp_path: Path) -> None:
    if module and find_spec(module) is None:
        pytest.skip(f"needs {module}")
    python = shlex.join(warm_python())
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("rlmem", "-m rlmem"), ("python", "")):
        command = f'PYTHONPATH="{ROOT}:$PYTHONPATH" exec {python} {module} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{command}\n")
        (programs / name).chmod(0o755)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    arguments = {
        "bash": ["bash", "-euo", "pipefail", "-c", snippet],
        "python": [*warm_python(), "-c", snippet],
    }[language]
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        # Other tests run at the same time.
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_is_marked() -> None:
    fences = len(re.findall(r"^```(?:bash|python)$", PAGES, re.M))
    kinds = r"(run|run with \w+|run by night|file: \S+|command: \S+|not run: [^\n]+)"
    assert fences == len(blocks(kinds))
    assert {language for _, language, _ in SNIPPETS} == {"bash", "python"}


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
    return [text for _, text in blocks(f"command: {name}")]


def test_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_links_lead_to_files() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        prose = re.sub(r"```.*?```|`[^`]+`", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_tables_equal_the_recorded_results() -> None:
    tables = re.findall(r"^<!-- results: (\S+) -->\n(.*?)\n<!-- end -->$", PAGES, re.M | re.S)
    assert tables
    for name, text in tables:
        assert text == (RESULTS / f"{name}.md").read_text().strip(), name


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
