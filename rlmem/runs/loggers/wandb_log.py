"""Weights & Biases: the columns of `metrics.csv`, evaluations, and the configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmem.errors import need
from rlmem.runs.callbacks import Training
from rlmem.runs.log import numbers
from rlmem.runs.loggers.base import Logger, Run

SYSTEM = "wandb"
# Seconds that the end of a run waits for its upload, for example without a network.
UPLOAD_SECONDS = 120.0


class WandbLogger(Logger):
    """Logs to a run of `project`, whose id is kept in the run folder; a resumed run goes on in it.

    The environment variables of wandb apply, such as `WANDB_MODE=offline` and `WANDB_ENTITY`. Its
    files are in `wandb` in the run folder. Rows cannot be taken back: if a killed run has logged
    more than it has saved, its rows of those steps stay.
    """

    def __init__(self, run: Run, project: str) -> None:
        self.require()
        import wandb

        known = run.saved_id(SYSTEM)
        wait = {"finish_timeout": UPLOAD_SECONDS, "finish_timeout_raises": True}
        given = {key: value for key, value in wait.items() if key in wandb.Settings.model_fields}
        self._run = wandb.init(
            project=project,
            id=known,
            name=run.name,
            dir=str(run.run_dir.absolute()),
            resume="allow" if known else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", **given),
        )
        self._run.config.update(run.settings, allow_val_change=True)
        run.save_id(SYSTEM, self._run.id)
        folder = run.run_dir / SYSTEM / Path(self._run.dir).parent.name
        place = f"offline (wandb sync {folder})" if self._run.offline else self._run.url
        print(f"log.wandb: run {self._run.id}, {place}", file=sys.stderr)

    @staticmethod
    def require() -> None:
        """Raise a `UsageError` if wandb is missing."""
        need("wandb", "log.wandb=true", "wandb")

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Log the row of metrics."""
        self._log(training.step, training.row)

    def on_evaluation(self, training: Training, result: Mapping[str, Any]) -> None:
        """Log the numbers of the evaluation, as `eval/NAME`."""
        found = numbers(result)
        self._log(training.step, {f"eval/{key}": value for key, value in found.items()})

    def close(self, failed: bool) -> None:
        """End the run, as failed or as finished."""
        self._run.finish(exit_code=int(failed))

    def _log(self, step: int, row: Mapping[str, Any]) -> None:
        if step >= self._run.starting_step:
            self._run.log(dict(row), step=step)
