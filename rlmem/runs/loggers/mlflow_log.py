"""MLflow: the columns of `metrics.csv`, evaluations, and the configuration as parameters."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from rlmem.errors import need
from rlmem.runs.callbacks import Training
from rlmem.runs.log import numbers
from rlmem.runs.loggers.base import Logger, Run

SYSTEM = "mlflow"
# Parameters are cut to this length, which all of MLflow's stores take.
MAX_LENGTH = 500
# Seconds between requests: one for each row would take a tenth of a fast training (40 ms, SQLite).
WRITE_EVERY = 2.0
# MLflow 3 asks for this variable before it writes to a folder.
ALLOW_FOLDER = "MLFLOW_ALLOW_FILE_STORE"


class MlflowLogger(Logger):
    """Logs to a run of an experiment, whose id is kept in the run folder; a resumed run goes on.

    `uri` is the store: `sqlite:///FILE.db`, `file:FOLDER` or a server; None is that of MLflow's
    environment variables, else `sqlite:///mlflow.db`.
    """

    def __init__(self, run: Run, experiment: str, uri: str | None) -> None:
        self.require()
        if uri is not None and uri.startswith("file:"):
            os.environ.setdefault(ALLOW_FOLDER, "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._waiting: list[Any] = []
        self._written = 0.0
        self._client = MlflowClient(tracking_uri=uri)
        known = run.saved_id(SYSTEM)
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self._client.create_experiment(experiment)
        self._id = self._client.create_run(place, run_name=run.name).info.run_id
        run.save_id(SYSTEM, self._id)
        settings = [Param(key, str(v)[:MAX_LENGTH]) for key, v in run.flat_settings.items()]
        for first in range(0, len(settings), 100):  # the most in one request
            self._client.log_batch(self._id, params=settings[first : first + 100])

    @staticmethod
    def require() -> None:
        """Raise a `UsageError` if MLflow is missing."""
        need("mlflow", "log.mlflow=true", "mlflow")

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Log the row of metrics."""
        self._log(training.step, {key: v for key, v in training.row.items() if key != "step"})

    def on_evaluation(self, training: Training, result: Mapping[str, Any]) -> None:
        """Log the numbers of the evaluation, as `eval/NAME`."""
        found = numbers(result)
        self._log(training.step, {f"eval/{key}": value for key, value in found.items()})

    def close(self, failed: bool) -> None:
        """End the run, as failed or as finished."""
        self._write()
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")

    def _log(self, step: int, row: Mapping[str, int | float]) -> None:
        now = time.time()
        stamp = int(now * 1000)
        self._waiting += [
            self._metric(key, float(value), stamp, step) for key, value in row.items()
        ]
        if now - self._written >= WRITE_EVERY:
            self._write()

    def _write(self) -> None:
        """Send the waiting metrics, in requests of the largest size that MLflow takes."""
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), 1000):
            self._client.log_batch(self._id, metrics=waiting[first : first + 1000])
        self._written = time.time()
