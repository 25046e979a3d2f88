"""Evaluations during a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlmem.policies import Policy
from rlmem.runs import checkpoint, evaluate, playing
from rlmem.runs.progress import Progress
from rlmem.runs.saver import interval
from rlmem.runs.stop import Stop


class Evaluations:
    """Evaluates the policy of a run every `cfg.eval_every` steps, on the seeds of `rlmem eval`.

    The training does not notice: its random numbers are those without evaluations.
    """

    def __init__(self, trained: evaluate.Trained, evaluated: int) -> None:
        """`trained` is the run at its first step; `evaluated` is the last evaluation before."""
        cfg = trained.cfg
        self.trained = trained
        self.every = interval("eval_every", cfg.get("eval_every"), cfg.total_steps)
        self.max_steps: int = cfg.get("eval_max_steps", playing.MAX_STEPS)
        self.episodes: int = cfg.eval_episodes
        self.step = evaluated
        self.result: dict[str, Any] | None = None

    def due(self, step: int) -> bool:
        """Whether it is time for an evaluation at `step`."""
        return self.every is not None and step - self.step >= self.every

    def run(
        self, step: int, stop: Stop | None = None, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Play all episodes at `step`: the settings, a summary of the returns, and the returns.

        A signal to `stop` ends it with `LeftIteration`.
        """
        cfg = self.trained.cfg
        watch = playing.Watch(self.max_steps, progress, stop)
        settings = {"step": step, "seed": cfg.seed, "deterministic": True}
        with undisturbed(self.trained.policy):
            self.result = evaluate.measure(self.trained, settings, self.episodes, watch)
        self.step = step
        return self.result

    def write(self) -> None:
        """Write the newest evaluation to `eval.json`."""
        assert self.result is not None
        evaluate.write_report(self.trained.run_dir, self.result)


@contextmanager
def undisturbed(policy: Policy) -> Iterator[None]:
    """Restore the global random generators and the training mode of `policy` after the block."""
    random, training = checkpoint.rng_state(), policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(training)
        checkpoint.set_rng_state(random)
