"""Tables of results in Markdown: printed, and written to docs/results for the README."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from rlmem import __version__

RESULTS = Path(__file__).parent.parent / "docs" / "results"


def machine() -> str:
    """Versions and hardware of this machine, for captions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return f"rlmem {__version__}, torch {torch.__version__}, {device}, {os.cpu_count()} CPU cores"


def publish(caption: str, rows: Sequence[Mapping[str, str]], page: str | None) -> None:
    """`write` a table with results of this machine, which the caption names."""
    write(f"{caption}; {machine()}", rows, page)


def write(caption: str, rows: Sequence[Mapping[str, str]], page: str | None) -> None:
    """Print `caption` and a table with one column per key; also to docs/results/`page`.md.

    Pages in docs that show the table get the new one.
    """
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    cells = ["| " + " | ".join(line) + " |" for line in lines]
    text = "\n".join([caption, "", *cells, ""])
    print(text)
    if page:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{page}.md").write_text(text)
        for path in RESULTS.parent.glob("*.md"):
            shown = path.read_text()
            before, found, rest = shown.partition(f"<!-- results: {page} -->\n")
            if found:
                path.write_text(f"{before}{found}{text}{rest[rest.index('<!-- end -->') :]}")
