"""Logs of a run: `metrics.csv`, `evaluations.csv`, progress on stderr."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rlmem.files import read_text, replacing, set_aside, sync
from rlmem.runs import manifest, sealed
from rlmem.runs.callbacks import Callback, Training
from rlmem.runs.progress import Progress

METRICS, EVALUATIONS = "metrics.csv", "evaluations.csv"


class MetricsFile:
    """A CSV file of metrics, which gains a row per `append` and a column per new metric.

    A new column rewrites the file with a wider header and empty cells in earlier rows, so that all
    rows always have the same columns. `append` flushes its row.
    """

    def __init__(self, path: Path, last_step: int, wanted: Mapping[str, Any] | None = None) -> None:
        """Open `path` to append rows after `last_step`; drops existing rows of later steps.

        `wanted` is the `describe()` at that step. A line on stderr says if the rows are other ones;
        a file that is not a table is kept under another name.
        """
        self.path = path
        self.columns: list[str] = []
        rows: list[dict[str, str]] = []
        if os.path.lexists(path):
            self.columns, rows = self._read_checked()
            rows = [row for row in rows if int(row["step"]) <= last_step]
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        self._digest, self._rows = sealed.digest_rows(rows), len(rows)
        if wanted is not None and self.describe() != wanted:
            manifest.note_log(path, last_step, len(rows), wanted)
        self._write(rows)

    def describe(self) -> dict[str, Any]:
        """The number of rows and their hash, for a checkpoint; everything is on the disk then."""
        if hasattr(self, "_file"):
            sync(self.path)
        return {"rows": self._rows, sealed.SEAL: self._digest.hexdigest()}

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row."""
        if new := [column for column in row if column not in self.columns]:
            self._file.close()
            _, rows = self._read() if self.columns else ([], [])
            self.columns += new
            self._write(rows)
        self._writer.writerow(row)
        self._file.flush()
        # As the file has them.
        text = {key: str(row[key]) for key in self.columns if row.get(key) is not None}
        sealed.digest_rows([text], self._digest)
        self._rows += 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_checked(self) -> tuple[list[str], list[dict[str, str]]]:
        """Columns and rows of a table of unknown origin; rows that are no numbers are dropped."""
        try:
            columns, rows = self._read()
            if columns and not {"step", "seconds"} <= set(columns):
                raise ValueError("it has no column 'step'")
        except (OSError, ValueError, csv.Error) as error:
            aside = set_aside(self.path)
            manifest.note(f"{self.path} cannot be read: {error}; it is now {aside.name}")
            return [], []
        return columns, [row for row in rows if _is_whole(row)]

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        reader = csv.DictReader(read_text(self.path).splitlines())
        # A killed process may leave an incomplete last row; its missing cells are None.
        rows = [row for row in reader if None not in row.values() and None not in row]
        return list(reader.fieldnames or []), rows

    def _write(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            if self.columns:
                writer.writeheader()
            writer.writerows(rows)
        self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self.columns, restval="")


class RunLogger(Callback):
    """Context manager that logs the metrics of a run to its folder, and shows its progress.

    `start_step` > 0 resumes a run: metrics of later steps are dropped, and `logs` are those that
    its checkpoint describes. With `evaluations`, the evaluations are logged too.
    """

    def __init__(
        self,
        run_dir: str | Path,
        total_steps: int,
        *,
        start_step: int = 0,
        logs: Mapping[str, Any] | None = None,
        evaluations: bool = False,
        progress: bool = True,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.total_steps = total_steps
        self.start_step = self.step = start_step
        self._open = ExitStack()
        logs = logs or {}
        self._metrics = MetricsFile(self.run_dir / METRICS, start_step, logs.get(METRICS))
        self._open.callback(self._metrics.close)
        self._evaluations: MetricsFile | None = None
        if evaluations or (self.run_dir / EVALUATIONS).exists():
            self._evaluations = MetricsFile(
                self.run_dir / EVALUATIONS, start_step, logs.get(EVALUATIONS)
            )
            self._open.callback(self._evaluations.close)
        self._row: dict[str, int | float] = {}
        self._return = "return -"
        self._progress = Progress("steps", total_steps, start_step, shown=progress)
        self._open.enter_context(self._progress)
        self._begin_time = self._last_time = time.monotonic()

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """The rows of all logs, for the manifest of a checkpoint."""
        files = {METRICS: self._metrics, EVALUATIONS: self._evaluations}
        return {name: file.describe() for name, file in files.items() if file is not None}

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Write a row of metrics, which is `training.row` then."""
        self.log(training.step, metrics)
        training.row = self._row

    def on_evaluation(self, training: Training, result: Mapping[str, Any]) -> None:
        """Write a row of the evaluations: `step`, `seconds` of training, then the numbers."""
        if self._evaluations is None:
            return
        row = {"step": training.step, "seconds": round(self._seconds(self._last_time), 3)}
        self._evaluations.append(row | numbers(result))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the training's time."""
        begun = time.monotonic()
        try:
            yield
        finally:
            passed = time.monotonic() - begun
            self._begin_time += passed
            self._last_time += passed

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Write a row: `step`, `seconds` of training, `steps_per_second`, then `values`.

        The progress shows the value `episode_return`.
        """
        now = time.monotonic()
        speed = (step - self.step) / max(now - self._last_time, 1e-9)
        row = {
            "step": step,
            "seconds": round(self._seconds(now), 3),
            "steps_per_second": round(speed, 1),
            **{key: float(value) for key, value in values.items()},
        }
        self._metrics.append(row)
        self._row = row
        if "episode_return" in values:
            self._return = f"return {values['episode_return']:.3f}"
        self._progress.show(step, self._return)
        self.step, self._last_time = step, now

    def end_progress(self) -> None:
        """End the progress of the training."""
        self._progress.__exit__()

    def finish(self, outcome: str, following: str) -> None:
        """Close everything, then print the run's only line on stdout.

        Its time is the training time, from the start to the last row; `following` is a command.
        """
        self.close()
        seconds = max(self._last_time - self._begin_time, 1e-9)
        speed = (self.step - self.start_step) / seconds
        more = self.step - self.total_steps
        overshoot = f", {more:,} more than total_steps" if more > 0 else ""
        print(
            f"{outcome} after {self.step:,} steps{overshoot} ({seconds:,.0f} s, "
            f"{speed:,.0f} steps/s); next: {following}",
            flush=True,
        )

    def close(self) -> None:
        """End the progress and close all files."""
        self._open.close()

    def _seconds(self, now: float) -> float:
        """The training time until `now`, with that of earlier parts of a resumed run."""
        return self._metrics.seconds + now - self._begin_time


def numbers(result: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers that an evaluation has measured."""
    kept = {key: value for key, value in result.items() if _is_number(value)}
    return {key: value for key, value in kept.items() if key not in ("step", "seed")}


def _is_whole(row: Mapping[str, str]) -> bool:
    """Whether a row has a step and a time."""
    try:
        return int(row["step"]) >= 0 and float(row["seconds"]) >= 0
    except ValueError:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_columns(path: Path) -> dict[str, list[float]]:
    """The columns of a file of metrics; NaN for empty cells, no columns without a file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else {})}
