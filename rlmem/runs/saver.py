"""Decides when a run saves a checkpoint, and how often something happens."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rlmem.errors import UsageError
from rlmem.ranks import group
from rlmem.runs import checkpoint, ranks
from rlmem.runs.resume import Start, settings

# Checkpoints at a percentage of a run may take this fraction of its time; the one at its end comes
# on top, so all of them stay below 1 %.
MAX_COST = 0.008


def interval(name: str, every: str | int | None, total_steps: int) -> int | None:
    """The steps in the option `name`: `every` is a number of steps, a percentage, or None."""
    if every is None:
        return None
    text = str(every).strip()
    if match := re.fullmatch(r"(\d+(?:\.\d*)?) ?%", text):
        steps = total_steps * float(match[1]) / 100
        if 0 < steps <= total_steps:
            return max(1, round(steps))
    elif re.fullmatch(r"\d+(\.0*)?(e\+?\d+)?", text) and float(text) >= 1:
        return int(float(text))
    raise UsageError(
        f"{name} must be a number of steps, a percentage like 10% or null, not {every!r}"
    )


class Saver:
    """Saves checkpoints of a run that starts at `start`; `score` is the newest return of episodes.

    `evaluated` is the step of the last evaluation. `whole` is False inside of an iteration: a state
    saved there is not one from which a run goes on exactly. At a percentage of the run, a
    checkpoint waits while all of them together would take more than `MAX_COST` of the time. All
    ranks save together, and rank 0 writes.
    """

    def __init__(self, cfg: DictConfig, run_dir: Path, start: Start) -> None:
        every = cfg.checkpoint_every
        self.every = interval("checkpoint_every", every, cfg.total_steps)
        self.cheap = isinstance(every, str) and "%" in every
        self.keep: int = cfg.checkpoint_keep
        self.run_dir = run_dir
        self.algo = start.algo
        self.score = start.score
        self.evaluated = start.evaluated
        self.whole = True
        self.saved = start.step
        self.seeds_used = start.seeds_used
        self.settings = settings(cfg)
        self.describe_logs: Callable[[], Mapping[str, Any]] = dict
        self._begin_time = time.monotonic()
        self._spent = self._last = 0.0  # seconds of all checkpoints and of the last one
        self._count = self._bytes = 0  # of all checkpoints; of the last one

    def after_iteration(self, step: int) -> Path | None:
        """Save a checkpoint at `step` if one is due; returns its folder, or None."""
        return self.save(step) if self.due(step) else None

    def due(self, step: int) -> bool:
        """Whether it is time for a checkpoint at `step`."""
        if self.every is None or step - self.saved < self.every:
            return False
        if not self.cheap:
            return True
        allowed = MAX_COST * (time.monotonic() - self._begin_time)
        return bool(group.of_first(self._spent + self._last <= allowed))

    def save(self, step: int) -> Path | None:
        """Save a checkpoint at `step`, unless there is one; returns its folder, or None."""
        if step == self.saved:
            return None
        begun = time.monotonic()
        state = ranks.gathered(
            {
                "algo": self.algo.state_dict(),
                "seeds_used": self.seeds_used,
                "settings": self.settings,
                "whole": self.whole,
                "evaluated": self.evaluated,
                "score": self.score,
            }
        )
        if group.number():
            self.saved = step
            return None
        try:
            path = checkpoint.save(
                self.run_dir,
                step,
                self.algo.policy,
                state,
                keep=self.keep,
                score=self.score,
                logs=self.describe_logs(),
            )
        except OSError as error:
            raise UsageError(
                f"cannot save a checkpoint at step {step:,}: {error.strerror or error}; "
                + last_checkpoint(self.run_dir)
            ) from error
        self.saved = step
        self._last = time.monotonic() - begun
        self._spent += self._last
        self._count += 1
        self._bytes = sum(file.stat().st_size for file in path.iterdir())
        return path

    @property
    def cost(self) -> str | None:
        """The time and size of the checkpoints in words; None if there were none."""
        if not self._count:
            return None
        share = 100 * self._spent / max(time.monotonic() - self._begin_time, 1e-9)
        return (
            f"checkpoints: {self._count}, {self._spent / self._count * 1000:.0f} ms each "
            f"({share:.1f} % of the time), the last one {self._bytes / 2**20:.1f} MiB"
        )


def last_checkpoint(run_dir: Path) -> str:
    """The place of the newest checkpoint, as a part of an error message."""
    last = checkpoint.last(run_dir)
    return f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
