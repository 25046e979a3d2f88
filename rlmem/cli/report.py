"""`rlmem report`: the runs of folders as one page of HTML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rlmem.cli import plain
from rlmem.errors import UsageError
from rlmem.files import expanded
from rlmem.runs import report


def run_report(arguments: Sequence[str]) -> int:
    """Write the report of the runs in the given folders."""
    folders, options, _ = plain.parse("report", arguments)
    if not folders:
        raise UsageError("rlmem report needs folders: rlmem report DIR ... [out=FILE]")
    folder = expanded(folders[0]) if len(folders) == 1 else Path()
    out = expanded(options["out"] or folder / "report.html")
    if out.is_dir():
        raise UsageError(f"out={out} is a folder: give a file, such as {out / 'report.html'}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(report.write(folders, out, plain.as_list(options["by"]), cores or 1))
    return 0
