"""Sweeps (`-m`): their folder, Hydra's parallel launchers, and the outcomes of their jobs.

A launcher may start a job in another process or on another machine. So every job writes its outcome
to a file in the sweep's folder, where the program finds all of them at the end.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from rlmem.cli.hydra_errors import sweep_config
from rlmem.cli.overrides import readable
from rlmem.errors import UsageError, need
from rlmem.files import atomic_write
from rlmem.runs.folder import make_unique

KEY = "hydra/launcher"
# Launchers of other packages: the package, and its module.
LAUNCHERS = {
    "joblib": ("hydra-joblib-launcher", "hydra_plugins.hydra_joblib_launcher"),
    "submitit_local": ("hydra-submitit-launcher", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_slurm": ("hydra-submitit-launcher", "hydra_plugins.hydra_submitit_launcher"),
}
# Launchers whose jobs end with this program; the others' may be on other machines.
WITH_PARENT = ("joblib",)
BASIC = "basic"
OUTCOMES = ".jobs"
LONGEST = 200


class Outcome(NamedTuple):
    """A job of a sweep: its number and folder, and its error, or None if it has ended well.

    `ended` is false for a job that has begun only.
    """

    number: int
    run_dir: str
    ended: bool = False
    error: str | None = None


class Place(NamedTuple):
    """The place of a job: the sweep's folder, its number and run folder, and the launcher."""

    sweep: Path
    number: int
    run_dir: str
    launcher: str

    def note(self, ended: bool = False, error: str | None = None) -> None:
        """Write the outcome so far."""
        (self.sweep / OUTCOMES).mkdir(parents=True, exist_ok=True)
        text = json.dumps(Outcome(self.number, self.run_dir, ended, error)._asdict())
        atomic_write(self.sweep / OUTCOMES / f"{self.number}.json", text, flush=False)


class Sweep(NamedTuple):
    """A sweep in a folder."""

    folder: Path
    launcher: str

    def options(self, overrides: Sequence[str]) -> list[str]:
        """The override of its folder, and no progress bars for jobs that run at once."""
        given = any(each.lstrip("+").startswith("log.progress=") for each in overrides)
        quiet = ["log.progress=false"] if self.parallel and not given else []
        return [*readable([f"hydra.sweep.dir={self.folder}"]), *quiet]

    @property
    def parallel(self) -> bool:
        """Whether jobs run in other processes."""
        return self.launcher != BASIC

    def outcomes(self) -> list[Outcome]:
        """The jobs that have begun, by their numbers."""
        files = (self.folder / OUTCOMES).glob("*.json")
        return sorted(Outcome(**json.loads(file.read_text("utf-8"))) for file in files)

    def again(self, command: str, arguments: Sequence[str]) -> str:
        """The command that goes on with an interrupted sweep."""
        kept = [a for a in arguments if not re.match(r"hydra\.sweep\.dir=|resume=", a)]
        return shlex.join(
            ["rlmem", command, *kept, f"hydra.sweep.dir={self.folder}", "resume=auto"]
        )


def _require_launcher(overrides: Sequence[str]) -> None:
    """Raise a `UsageError` if the overrides choose a launcher that is not installed."""
    chosen = [each.partition("=")[2] for each in overrides if each.startswith(f"{KEY}=")]
    for name in chosen:
        if name in LAUNCHERS:
            package, module = LAUNCHERS[name]
            need("hydra_plugins", f"{KEY}={name}", "sweep", package)
            need(module, f"{KEY}={name}", "sweep", package)


@contextmanager
def opened(command: str, flags: Sequence[str], overrides: Sequence[str]) -> Iterator[Sweep | None]:
    """The sweep of a command line, in a new folder unless the user has chosen one.

    None for a single run, and if Hydra cannot read the options.
    """
    _require_launcher(overrides)
    chosen = any(override.startswith("hydra.sweep.dir=") for override in overrides)
    printed = {"--cfg", "--info"} & set(flags)
    # An experiment may be a sweep by itself.
    may_sweep = "--multirun" in flags or any(
        re.match(r"\+?(experiment|hydra\.mode)=", each) for each in overrides
    )
    found = sweep_config(command, overrides) if may_sweep and not printed else None
    if found is None or ("--multirun" not in flags and found.mode != RunMode.MULTIRUN):
        yield None
        return
    wanted = Path(os.path.expanduser(found.sweep.dir))
    name = found.runtime.choices.get(KEY, BASIC)
    sweep = Sweep(wanted if chosen else make_unique(wanted), name)
    shutil.rmtree(sweep.folder / OUTCOMES, ignore_errors=True)
    try:
        yield sweep
    finally:
        shutil.rmtree(sweep.folder / OUTCOMES, ignore_errors=True)
        if not chosen and [path.name for path in sweep.folder.iterdir()] in ([], ["multirun.yaml"]):
            shutil.rmtree(sweep.folder)  # no job began


@contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """If `wanted`, one thread of OpenMP for each process that the block starts, as in a bench."""
    given = os.environ.get("OMP_NUM_THREADS")
    if wanted:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        if wanted and given is None:
            del os.environ["OMP_NUM_THREADS"]


def place_of_job() -> Place | None:
    """The place of the present job; None outside of a sweep."""
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return None
    launcher = job.runtime.choices.get(KEY, BASIC)
    if launcher in WITH_PARENT:
        from rlmem.runs.workers import end_with_parent

        end_with_parent()
    return Place(Path(job.sweep.dir), int(job.job.num), str(job.runtime.output_dir), launcher)


@contextmanager
def going_on(sweep: Sweep | None, command: str, arguments: Sequence[str]) -> Iterator[None]:
    """Add the command that goes on with a sweep to an interruption, and to a process's death."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if sweep is not None and command == "train":
            said = "".join(f"{each}\n" for each in interrupt.args if each)
            again = sweep.again(command, arguments)
            interrupt.args = (f"{said}go on with the sweep: {again}",)
        raise
    except Exception as error:
        died = isinstance(error, BrokenExecutor) or type(error).__module__.startswith("submitit.")
        if sweep is None or not died:
            raise
        jobs = [Path(each.run_dir).name for each in sweep.outcomes() if not each.ended]
        reason = " ".join(str(error).split())[:LONGEST]
        raise UsageError(
            f"a process of the sweep has died ({', '.join(jobs) or 'at its start'}): {reason}; "
            f"go on with: {sweep.again(command, arguments)}"
        ) from error
