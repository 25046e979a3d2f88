"""The snippets of README and docs run, and their commands are the ones that are run elsewhere."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = "\n".join([TEXT, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))])
BLOCK = r"^<!-- {marker} -->\n```(bash|python)\n(.*?)^```$"
SNIPPETS = re.findall(BLOCK.format(marker="run"), PAGES, re.M | re.S)


@pytest.mark.parametrize(("language", "snippet"), SNIPPETS)
def test_snippets_run(language: str, snippet: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "rlmem"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rlmem "$@"\n')
    program.chmod(0o755)
    command = {
        "bash": ["bash", "-euo", "pipefail", "-c", snippet],
        "python": [sys.executable, "-c", snippet],
    }[language]
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        # The tests share the machine.
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_snippet_is_marked_as_a_command_or_to_be_run() -> None:
    fences = len(re.findall(r"^```(?:bash|python)$", PAGES, re.M))
    marked = len(SNIPPETS) + sum(len(_commands(name)) for name in ("main", "test"))
    not_run = len(re.findall(r"^<!-- not run: .+ -->\n```(?:bash|python)$", PAGES, re.M))
    assert fences == marked + not_run
    assert {language for language, _ in SNIPPETS} == {"bash", "python"}


@pytest.mark.parametrize("name", ["main", "test"])
def test_a_command_is_one_line_that_sets_everything_up(name: str) -> None:
    (command,) = _commands(name)
    assert command.count("\n") == 1
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert "-c constraints.txt" in command


def test_continuous_integration_runs_the_very_test_command() -> None:
    printed = subprocess.run(
        [ROOT / ".ci" / "run", "--print"], capture_output=True, text=True, check=True
    )
    assert [printed.stdout] == _commands("test")


def _commands(name: str) -> list[str]:
    return [
        text for _, text in re.findall(BLOCK.format(marker=f"command: {name}"), TEXT, re.M | re.S)
    ]


def test_tables_are_those_that_the_scripts_wrote() -> None:
    tables = re.findall(r"^<!-- results: (\S+) -->\n(.*?)\n<!-- end -->$", PAGES, re.M | re.S)
    assert tables
    for name, text in tables:
        assert text == (ROOT / "docs" / "results" / f"{name}.md").read_text().strip(), name


def named_in(section: str) -> set[str]:
    """What the first column of a section's table names."""
    table = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| `.*?\|", table, re.M))))


def yaml(group: str) -> set[str]:
    return {path.stem for path in (ROOT / "rlmem/configs" / group).glob("*.yaml")}


def test_every_core_is_in_the_table_of_cores() -> None:
    assert named_in("Memory cores") == yaml("core") - {"s4"}


def test_every_algorithm_is_in_the_table_of_algorithms() -> None:
    assert named_in("Algorithms") == yaml("algo")


def test_every_environment_is_in_the_table_of_environments() -> None:
    named, there = named_in("Environments"), yaml("env")
    found = {pattern: fnmatch.filter(there, pattern) for pattern in named}
    assert all(found.values())
    assert set().union(*found.values()) == there
