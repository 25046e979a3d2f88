"""The result of a training, for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmem.runs.agent import Agent
from rlmem.runs.log import EVALUATIONS, METRICS, read_columns


@dataclass(frozen=True)
class Result:
    """The trained agent, its run folder after `step` steps, and its evaluation on unseen seeds.

    `evaluation` has the content of `eval.json`. `stopped` is the reason if a callback has ended the
    training.
    """

    agent: Agent
    run_dir: Path
    step: int
    evaluation: Mapping[str, Any]
    stopped: str | None = None

    @property
    def return_mean(self) -> float:
        """The mean return of the evaluation."""
        return float(self.evaluation["return_mean"])

    @property
    def returns(self) -> list[float]:
        """The return of each episode of the evaluation."""
        return list(self.evaluation["returns"])

    @property
    def memory_score(self) -> float | None:
        """0 for the best policy without memory, 1 for the optimum; None if they are not known."""
        score: float | None = self.evaluation.get("memory_score")
        return score

    @property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of `metrics.csv`: a row for each iteration; NaN for empty cells."""
        return read_columns(self.run_dir / METRICS)

    @property
    def evaluations(self) -> dict[str, list[float]]:
        """The columns of `evaluations.csv`, with `eval_every`: a row for each evaluation."""
        return read_columns(self.run_dir / EVALUATIONS)
