"""The systems that have trained a run: versions, processor, threads, in `system.json`.

One entry for each process: the first one, and one for each resume. Read without torch.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlmem import __version__
from rlmem.files import atomic_write
from rlmem.ranks import group
from rlmem.runs import manifest, sealed

FILE = "system.json"
FORMAT = 1
# Entries that a file keeps: the first one and the newest others.
KEPT = 200
LONGEST = 200
LIMIT = 2**20


def note(run_dir: Path, step: int, device: str) -> None:
    """Add the system of this process, which trains the run from `step` on `device`, to its file.

    A process is added once, also if it trains several legs of a run. A damaged file is named in a
    line, and begins anew.
    """
    entries, now = read(run_dir), {"step": str(step), **_text(describe(device))}
    if entries and {**entries[-1], "step": now["step"]} == now:
        return
    entries = [*entries, now]
    kept = [*entries[:1], *entries[1:][-(KEPT - 1) :]]
    atomic_write(run_dir / FILE, sealed.seal({"format": FORMAT, "processes": kept}))


def read(run_dir: Path) -> list[dict[str, str]]:
    """The entries of a run folder, each with its `step`; empty without a file, or a damaged one."""
    path = run_dir / FILE
    if not os.path.lexists(path):
        return []
    try:
        content = sealed.read(path, required=True, limit=LIMIT)
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']}, and this rlmem {FORMAT}")
        return [_text(dict(entry)) for entry in content["processes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        manifest.note(f"cannot read {path}: {str(reason)[:LONGEST]}; it is left out")
        return []


def describe(device: str) -> dict[str, Any]:
    """The versions and the machine of this process; `device` is a device of torch."""
    import torch

    on_gpu = device.startswith("cuda")
    return {
        "time": _began(),
        "rlmem": __version__,
        "commit": commit(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "python": ".".join(map(str, sys.version_info[:3])),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "threads": torch.get_num_threads(),
        "ranks": group.count(),
    }


@cache
def _began() -> str:
    """The time (UTC) of this process, which tells its entries from those of others."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


@cache
def commit() -> str | None:
    """The commit of the checkout of this package, `-dirty` if it has changes; None without one."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@cache
def _cpu() -> str:
    """The name of the processor; its architecture if the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _text(entry: Mapping[str, Any]) -> dict[str, str]:
    """The known values of an entry as short text: a file may be a stranger's."""
    known = {key: value for key, value in entry.items() if value is not None}
    return {str(key)[:LONGEST]: str(value)[:LONGEST] for key, value in known.items()}
