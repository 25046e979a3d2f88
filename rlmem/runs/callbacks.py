"""Callbacks: objects that watch a training, and may stop it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlmem.algos import Algorithm
from rlmem.errors import UsageError
from rlmem.runs.agent import Agent, AgentSpec


@dataclass
class Training:
    """A training in progress, as callbacks see it, after `step` of `total_steps` steps.

    `row` is the newest row of `metrics.csv`: `step`, `seconds` of training, `steps_per_second` and
    the algorithm's metrics. `with training.paused():` leaves the time of a block out of `seconds`.
    A reason in `stopped` ends the training after the present iteration.
    """

    run_dir: Path
    step: int
    total_steps: int
    algo: Algorithm
    spec: AgentSpec
    device: torch.device
    stopped: str | None = None
    row: Mapping[str, int | float] = field(default_factory=dict)
    paused: Callable[[], AbstractContextManager[None]] = nullcontext

    def stop(self, reason: str = "by a callback") -> None:
        """End the training after this iteration; it is saved and evaluated as at its end."""
        self.stopped = reason

    @property
    def agent(self) -> Agent:
        """A copy of the agent at this step."""
        return Agent(copy.deepcopy(self.algo.policy), self.spec, self.device)


class Callback:
    """Watches a training; a subclass overrides some of these methods, which do nothing.

    They are called between iterations, in the order of the callbacks. `training.stop(reason)` ends
    the training. An exception ends it too, after a checkpoint.
    """

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """After each iteration, with the algorithm's metrics."""

    def on_evaluation(self, training: Training, result: Mapping[str, Any]) -> None:
        """After an evaluation (of `eval_every`, and the last one), with the content of its file."""

    def on_checkpoint(self, training: Training, path: Path) -> None:
        """After a checkpoint was saved in the folder `path`."""


def check(callbacks: Any) -> list[Callback]:
    """The list `callbacks`; a `UsageError` if it is none, or has something else in it."""
    if not isinstance(callbacks, list | tuple):
        raise UsageError(f"callbacks must be a list, not {type(callbacks).__name__}")
    for each in callbacks:
        if not isinstance(each, Callback):
            given = each.__name__ if isinstance(each, type) else type(each).__name__
            raise UsageError(
                f"callbacks must be objects of classes derived from rlmem.Callback, not {given}"
                + (" (a class: write its name with parentheses)" if isinstance(each, type) else "")
            )
    return list(callbacks)
