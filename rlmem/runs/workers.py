"""Training runs in processes of their own, one thread each, that go on where they were killed.

Runs train in legs (see `legs` of `rlmem train`): a killed one goes on from the end of its last leg
with the results of an undisturbed run.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rlmem import __version__
from rlmem.errors import UsageError
from rlmem.files import atomic_write
from rlmem.runs import folder, sealed
from rlmem.runs.grid import Cell
from rlmem.runs.records import read_config
from rlmem.runs.system import commit

MANIFEST = "bench.json"
LOG = "log.txt"
# Seconds between looks at the processes, and the longest wait for a killed one to disappear.
POLL = 0.5
PATIENCE = 10.0
PR_SET_PDEATHSIG = 1


class Job(NamedTuple):
    """A cell that trains in a process of its own."""

    cell: Cell
    process: subprocess.Popen[bytes]
    began: float


class Workers:
    """The processes of runs in folder `root`, with the options `fixed` before those of each cell.

    `jobs` are running, `failed` has the last line of each failed run; both by the cell's name.
    """

    def __init__(self, root: Path, fixed: Sequence[str]) -> None:
        self.root, self.fixed = root, list(fixed)
        self.jobs: dict[str, Job] = {}
        self.failed: dict[str, str] = {}

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the lock of the folder; at the end all processes are killed."""
        self.root.mkdir(parents=True, exist_ok=True)
        _wait_until_free(self.root)
        with folder.lock(self.root):
            try:
                yield
            finally:
                self.kill(list(self.jobs))

    def start(self, cell: Cell) -> None:
        """Begin, go on with or evaluate the run of a cell, in a process of its own."""
        path = self.root / cell.name
        path.mkdir(parents=True, exist_ok=True)
        _wait_until_free(path)
        command = [sys.executable, "-m", "rlmem", *self._command(cell, path)]
        if not (path / MANIFEST).exists():
            atomic_write(path / MANIFEST, json.dumps(manifest(cell, self.fixed), indent=1) + "\n")
        with (path / LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                preexec_fn=_begin_job,
            )
        self.jobs[cell.name] = Job(cell, process, time.monotonic())

    def _command(self, cell: Cell, path: Path) -> list[str]:
        """The arguments that begin, go on with or evaluate a cell."""
        last = last_step(path)
        if last is None:
            # What an interrupted run has left before its first checkpoint cannot be resumed.
            for left in path.iterdir():
                if left.name not in (MANIFEST, LOG):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            return ["train", *self.fixed, "log.progress=false", *cell.overrides, f"run_dir={path}"]
        config = read_config(path)
        # Code that the user names in the grid is trusted.
        named = any(re.match(r"(env|policy\.encoder)=.*:", o) for o in cell.overrides)
        trusted = ["trust=true"] if named else []
        if last >= config["total_steps"]:
            return ["eval", f"run={path}", f"episodes={config['eval_episodes']}", *trusted]
        return ["train", f"resume={path}", *trusted]

    def ended(self) -> list[tuple[Cell, str]]:
        """The cells whose processes have ended since the last call, with `done` or `failed`."""
        over = [job for job in self.jobs.values() if job.process.poll() is not None]
        for job in over:
            del self.jobs[job.cell.name]
        return [(job.cell, self._result(job)) for job in over]

    def kill(self, names: Iterable[str]) -> None:
        """End the processes of these cells; their runs can go on later."""
        jobs = [self.jobs.pop(name) for name in names]
        for job in jobs:
            job.process.kill()
        for job in jobs:
            job.process.wait()

    def _result(self, job: Job) -> str:
        path = self.root / job.cell.name
        if job.process.returncode == 0 and is_done(path):
            return "done"
        lines = (path / LOG).read_text(errors="replace").strip().splitlines()
        code = job.process.returncode
        self.failed[job.cell.name] = lines[-1] if lines else f"exit code {code}"
        return "failed"


def manifest(cell: Cell, fixed: Sequence[str]) -> dict[str, Any]:
    """The options of a cell, its command with the `fixed` ones, and the versions that train it."""
    from importlib.metadata import version

    return {
        "command": " ".join(["rlmem train", *fixed, *cell.overrides]),
        "options": list(cell.overrides),
        "version": __version__,
        "commit": commit(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": version("torch"),
    }


def is_done(path: Path) -> bool:
    """Whether a run is trained to its end and evaluated there."""
    last = last_step(path)
    if last is None or not (path / "eval.json").exists():
        return False
    try:
        evaluated = sealed.read(path / "eval.json")
    except (OSError, ValueError):  # it is evaluated again
        return False
    return last >= read_config(path)["total_steps"] and evaluated.get("step") == last


def last_step(path: Path) -> int | None:
    """The step of a run's newest checkpoint, None without one (or without a configuration)."""
    if not (path / "config.yaml").exists():
        return None
    names = (each.name for each in (path / "checkpoints").glob("step-*"))
    return max((int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name)), default=None)


def _wait_until_free(path: Path) -> None:
    """Wait for a process that has just been killed; then the caller's own lock explains itself."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with folder.lock(path):
                return
        except UsageError:
            time.sleep(POLL)


def end_with_parent() -> None:
    """Let this process end when the one that has started it is killed (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _begin_job() -> None:
    """In a new process, before it runs its program."""
    end_with_parent()
    # Ctrl-C is for the benchmark, which then ends its processes.
    os.setpgid(0, 0)
