"""The end, or the continuation, of a training whose numbers are not finite any more."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from omegaconf import DictConfig

from rlmem.algos import Algorithm, NonFiniteLoss
from rlmem.algos.nonfinite import nonfinite_part, nonfinite_weight
from rlmem.errors import UsageError, unknown
from rlmem.runs.callbacks import Training
from rlmem.runs.saver import last_checkpoint

# Values of the option `on_nonfinite`.
MODES = ("stop", "skip", "rollback")
MOST_SKIPS, MOST_ROLLBACKS = 10, 5  # in a row; in a run
SMALLER = 0.5  # factor of the step sizes after a rollback
STEP_SIZES = ("learning_rate", "alpha_learning_rate")


class NotFinite(UsageError):
    """The training cannot go on from here; `where` is the step, `reason` its cause."""

    def __init__(self, where: int, reason: str, rest: str) -> None:
        super().__init__(f"training stopped at step {where:,}: {reason}; {rest}")
        self.where, self.reason = where, reason


class NumberGuard:
    """Decides about updates and metrics that are not finite, by the option `on_nonfinite`."""

    def __init__(self, mode: str) -> None:
        self.mode = check(mode)
        self.skipped = 0  # iterations in a row

    def check(self, algo: Algorithm, metrics: Mapping[str, float]) -> None:
        """Raise `NonFiniteLoss` if a metric of an iteration is not finite."""
        found = [f"{name} is {x:g}" for name, x in metrics.items() if not math.isfinite(x)]
        if found:
            rollout = getattr(getattr(algo, "collector", None), "rollout", None)
            # Other than those of a batch, the rows of a rollout are its environments, in order.
            raise NonFiniteLoss(f"the metric {found[0]}", rollout, "environment")
        self.skipped = 0

    def check_weights(self, algo: Algorithm) -> None:
        """Raise `NonFiniteLoss` if a weight is not finite: before a checkpoint."""
        if name := nonfinite_weight(algo.policy):
            raise NonFiniteLoss(f"the weight {name} is not finite")

    def handle(self, error: NonFiniteLoss, training: Training) -> None:
        """Say that the update is skipped, if it is; else raise `NotFinite`.

        The details are searched only now.
        """
        part = nonfinite_part(training.algo)
        reason = str(error) if part is None or part in str(error) else f"{error}: {part}"
        self.skipped += 1
        broken = nonfinite_weight(training.algo.policy) is not None
        if self.mode == "skip" and self.skipped <= MOST_SKIPS and not broken:
            print(f"skipped the update at step {training.step:,}: {reason}", file=sys.stderr)
            return
        advice = [last_checkpoint(training.run_dir), _advice(error, part)]
        if self.mode == "skip":
            skips = f"{MOST_SKIPS} were skipped in a row"
            advice.insert(0, "a weight is lost" if broken else skips)
        raise NotFinite(training.step, reason, "; ".join(filter(None, advice))) from error


def check(mode: str) -> str:
    """`mode`, one of `MODES`; else a `UsageError`."""
    if mode not in MODES:
        raise unknown("on_nonfinite", mode, MODES)
    return mode


def roll_back(cfg: DictConfig, failure: NotFinite, rollbacks: int) -> None:
    """Make the step sizes of `cfg` smaller, for a continuation from the newest checkpoint.

    Raises the failure itself if the option does not ask for it, or after `MOST_ROLLBACKS`.
    """
    if cfg.get("on_nonfinite", "stop") != "rollback" or rollbacks >= MOST_ROLLBACKS:
        raise failure
    for name in STEP_SIZES:
        if name in cfg.algo:
            cfg.algo[name] = SMALLER * cfg.algo[name]
    print(
        f"not finite at step {failure.where:,} ({failure.reason}): back to the newest checkpoint, "
        f"with algo.learning_rate={cfg.algo.learning_rate:g}",
        file=sys.stderr,
    )


def _advice(error: NonFiniteLoss, part: str | None) -> str:
    """An action for the user."""
    if not error.finite_inputs or (part is not None and "environment" in part):
        return "rlmem check env=... looks for faults in an environment"
    if error.large_rewards:
        return "rewards near 1 are needed (algo.normalize_reward=true, or a smaller unit)"
    return "a smaller algo.learning_rate may help; on_nonfinite=skip or rollback goes on"
