"""Decides when a run saves a checkpoint, and how often something happens."""

from __future__ import annotations

import re
import time
from pathlib import Path

from omegaconf import DictConfig

from rlmem.algos import Algorithm
from rlmem.errors import UsageError
from rlmem.runs import checkpoint

# Checkpoints at a percentage of a run may take this fraction of its time, and these seconds.
MAX_COST = 0.01
FREE_SECONDS = 0.3


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
    """Saves checkpoints of a run that starts at `step`; `score` is the newest return of episodes.

    `seeds_used` counts the seeds of all environments of the run so far. At a percentage of the
    run, a checkpoint waits while all of them together would take more than `MAX_COST` of the time.
    """

    def __init__(
        self, cfg: DictConfig, run_dir: Path, algo: Algorithm, step: int, seeds_used: int
    ) -> None:
        every = cfg.checkpoint_every
        self.every = interval("checkpoint_every", every, cfg.total_steps)
        self.cheap = isinstance(every, str) and "%" in every
        self.keep: int = cfg.checkpoint_keep
        self.run_dir = run_dir
        self.algo = algo
        self.score: float | None = None
        self.saved = step
        self.seeds_used = seeds_used
        self._begin_time = time.monotonic()
        self._spent = self._last = 0.0  # seconds of all checkpoints and of the last one

    def after_iteration(self, step: int) -> Path | None:
        """Save a checkpoint at `step` if one is due; returns its folder, or None."""
        if self.every is None or step - self.saved < self.every:
            return None
        allowed = MAX_COST * (time.monotonic() - self._begin_time) + FREE_SECONDS
        if not self.cheap or self._spent + self._last <= allowed:
            return self.save(step)
        return None

    def save(self, step: int) -> Path | None:
        """Save a checkpoint at `step`, unless there is one; returns its folder, or None."""
        if step == self.saved:
            return None
        start = time.monotonic()
        state = {"algo": self.algo.state_dict(), "seeds_used": self.seeds_used}
        try:
            path = checkpoint.save(
                self.run_dir, step, self.algo.policy, state, keep=self.keep, score=self.score
            )
        except OSError as error:
            raise UsageError(
                f"cannot save a checkpoint at step {step:,}: {error.strerror}; "
                + last_checkpoint(self.run_dir)
            ) from error
        self.saved = step
        self._last = time.monotonic() - start
        self._spent += self._last
        return path


def last_checkpoint(run_dir: Path) -> str:
    """The place of the newest checkpoint, as a part of an error message."""
    last = checkpoint.last(run_dir)
    return f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
