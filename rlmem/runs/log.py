"""Logs of a run: `metrics.csv`, TensorBoard events, and the progress on stderr."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from rlmem.errors import UsageError, need
from rlmem.files import replacing
from rlmem.runs.progress import Progress


class MetricsFile:
    """A CSV file of metrics, which gains a row per `append` and a column per new metric.

    A new column rewrites the file with a wider header and empty cells in earlier rows, so that all
    rows always have the same columns. `append` flushes its row.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        """Open `path` to append rows after `last_step`; drops existing rows of later steps."""
        self.path = path
        self.columns: list[str] = []
        rows: list[dict[str, str]] = []
        if path.exists():
            self.columns, rows = self._read()
            rows = [row for row in rows if int(row["step"]) <= last_step]
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        self._write(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row."""
        if new := [column for column in row if column not in self.columns]:
            self._file.close()
            _, rows = self._read() if self.columns else ([], [])
            self.columns += new
            self._write(rows)
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            # A killed process may leave an incomplete last row; its missing cells are None.
            rows = [row for row in reader if None not in row.values()]
        if columns and columns[0] != "step":
            raise UsageError(f"{self.path} has no column 'step': it is not a metrics file")
        return columns, rows

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            if self.columns:
                writer.writeheader()
            writer.writerows(rows)
        self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self.columns, restval="")


class RunLogger:
    """Context manager that logs the metrics of a run to its folder, and shows its progress.

    `start_step` > 0 resumes a run: metrics of later steps are dropped.
    """

    def __init__(
        self,
        run_dir: str | Path,
        total_steps: int,
        *,
        start_step: int = 0,
        tensorboard: bool = True,
        progress: bool = True,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.total_steps = total_steps
        self.start_step = self.step = start_step
        self._open = ExitStack()
        self._metrics = MetricsFile(self.run_dir / "metrics.csv", start_step)
        self._open.callback(self._metrics.close)
        self._events = self._event_writer(start_step) if tensorboard else None
        self._return = "return -"
        self._progress = Progress("steps", total_steps, start_step, shown=progress)
        self._open.enter_context(self._progress)
        self._begin_time = self._last_time = time.monotonic()

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Write a row: `step`, `seconds` of training, `steps_per_second`, then `values`.

        The progress shows the value `episode_return`.
        """
        now = time.monotonic()
        speed = (step - self.step) / max(now - self._last_time, 1e-9)
        row = {
            "step": step,
            "seconds": round(self._metrics.seconds + now - self._begin_time, 3),
            "steps_per_second": round(speed, 1),
            **{key: float(value) for key, value in values.items()},
        }
        self._metrics.append(row)
        if self._events is not None:
            for key in row.keys() - {"step", "seconds"}:
                self._events.add_scalar(key, row[key], step)
        if "episode_return" in values:
            self._return = f"return {values['episode_return']:.3f}"
        self._progress.show(step, self._return)
        self.step, self._last_time = step, now

    def finish(self, outcome: str) -> None:
        """Close everything, then print the run's only line on stdout.

        Its time is the training time, from the start to the last row.
        """
        self.close()
        seconds = max(self._last_time - self._begin_time, 1e-9)
        speed = (self.step - self.start_step) / seconds
        more = self.step - self.total_steps
        overshoot = f", {more:,} more than total_steps" if more > 0 else ""
        print(
            f"{outcome} after {self.step:,} steps{overshoot} ({seconds:,.0f} s, "
            f"{speed:,.0f} steps/s): {self.run_dir}",
            flush=True,
        )

    def close(self) -> None:
        """End the progress and close all files."""
        self._open.close()

    def _event_writer(self, start_step: int) -> Any:
        need("tensorboard", "log.tensorboard=true", "train")
        from torch.utils.tensorboard import SummaryWriter

        # `purge_step` hides events that an interrupted run wrote after its last checkpoint.
        purge = start_step + 1 if start_step else None
        writer = SummaryWriter(str(self.run_dir), purge_step=purge)
        self._open.callback(writer.close)
        return writer
