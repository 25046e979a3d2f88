"""The code blocks of README and docs, and programs to run them as a reader does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
PAGES = {
    page.name: page.read_text() for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}
# `srun` of SLURM starts its arguments; `torchrun` is a module of torch.
PROGRAMS = {
    "rlmem": ("PYTHON", "-m", "rlmem"),
    "python": ("PYTHON",),
    "torchrun": (sys.executable, "-m", "torch.distributed.run"),
    "srun": (),
}


class Block(NamedTuple):
    """A Python or bash block of a page, with the comment before it (see `test_readme.py`)."""

    page: str
    marker: str
    language: str
    text: str


def blocks(marker: str = ".*?") -> list[Block]:
    """The blocks whose comment matches a pattern."""
    pattern = rf"^<!-- ({marker}) -->\n```(bash|python)\n(.*?)^```$"
    return [
        Block(page, *found)
        for page, text in PAGES.items()
        for found in re.findall(pattern, text, re.M | re.S)
    ]


# Files that snippets import or run, by name.
FILES = {each.marker.removeprefix("file: "): each.text for each in blocks(r"file: \S+")}


def shortened(block: Block) -> str:
    """The text of a block for a test: `<!-- run by night: A as B; C as D -->` replaces A and C."""
    text, (_, _, changes) = block.text, block.marker.partition(": ")
    for change in filter(None, changes.split("; ")):
        before, _, after = change.partition(" as ")
        assert before in text, f"{block.page}: no {before!r} in its block"
        text = text.replace(before, after)
    return text


def run(
    words: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder in which `rlmem` and `python` start the warm Python."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, command in PROGRAMS.items():
        start = " ".join(shlex.join(warm_python()) if w == "PYTHON" else w for w in command)
        path = f'PYTHONPATH="{ROOT}:$PYTHONPATH" exec {start} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{path}\n")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        # Other tests run at the same time.
        "OMP_NUM_THREADS": "1",
        **(variables or {}),
    }
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
