"""TensorBoard events: all metrics in four groups, and the hyper-parameters for its HParams tab."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from rlmem.errors import need
from rlmem.runs.callbacks import Training
from rlmem.runs.log import numbers
from rlmem.runs.loggers.base import Logger, Run

# What the HParams tab shows beside the hyper-parameters: the newest values of these.
RESULTS = ("eval/return_mean", "eval/memory_score", "episode/return")
TIMES = ("seconds", "steps_per_second")


def _quiet_threads() -> None:
    """Print no traceback of TensorBoard's thread on a full disk: the next event says it again."""
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        tensorboard = type(failed.thread).__module__.startswith("tensorboard")
        if not (tensorboard and isinstance(failed.exc_value, OSError)):
            before(failed)

    if getattr(before, "__module__", "") != __name__:
        threading.excepthook = hook


def tag(metric: str) -> str:
    """The name of a column of `metrics.csv` in TensorBoard: `GROUP/NAME`.

    Groups are `episode` (of the training's episodes), `time`, and `loss` for everything else that
    an algorithm reports; evaluations are in `eval`.
    """
    if metric in TIMES:
        return f"time/{metric}"
    if metric == "episodes" or metric.startswith("episode_"):
        return f"episode/{metric.removeprefix('episode_')}"
    return f"loss/{metric}"


class TensorBoardLogger(Logger):
    """Writes events into the run folder."""

    def __init__(self, run: Run) -> None:
        self.require()
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # `purge_step` hides events that an interrupted run wrote after its last checkpoint.
        purge = run.step + 1 if run.step else None
        _quiet_threads()
        self._writer: Any = SummaryWriter(str(run.run_dir), purge_step=purge)
        settings = {key: _plain(value) for key, value in run.flat_settings.items()}
        experiment, begin, self._end = hparams(settings, dict.fromkeys(RESULTS, 0.0))
        # `SummaryWriter.add_hparams` would write a run of its own, without the curves.
        self._add(experiment)
        self._add(begin)

    @staticmethod
    def require() -> None:
        """Raise a `UsageError` if TensorBoard is missing."""
        need("tensorboard", "log.tensorboard=true", "train")

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Write the row of metrics."""
        for key, value in training.row.items():
            if key != "step":
                self._writer.add_scalar(tag(key), value, training.step)

    def on_evaluation(self, training: Training, result: Mapping[str, Any]) -> None:
        """Write the numbers of the evaluation."""
        for key, value in numbers(result).items():
            self._writer.add_scalar(f"eval/{key}", value, training.step)

    def close(self, failed: bool) -> None:
        """Mark the end of a run that was not interrupted, and close the file."""
        if not failed:
            self._add(self._end)
        self._writer.close()

    def _add(self, summary: Any) -> None:
        self._writer.file_writer.add_summary(summary)


def _plain(value: Any) -> bool | int | float | str:
    """A value that the plugin takes."""
    return value if isinstance(value, bool | int | float | str) else str(value)
