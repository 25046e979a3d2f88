"""What a run says of itself: `metrics.csv`, TensorBoard events, a progress bar on a terminal."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from rlmem.errors import UsageError


class MetricsFile:
    """A CSV file that grows by rows, and by columns when a metric is new.

    A new column rewrites the file with a wider header (cells of earlier rows stay empty), so that
    it is one rectangle at any time. A row is on the disk as soon as `append` returns.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        """Open `path` for rows after `last_step`; later ones that it holds are dropped."""
        self.path = path
        self.columns: list[str] = []
        rows: list[dict[str, str]] = []
        if path.exists():
            self.columns, rows = self._read()
            rows = [row for row in rows if int(row["step"]) <= last_step]
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        self._write(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
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
            # The last row of a killed process may be cut short: its last cells are then None.
            rows = [row for row in reader if None not in row.values()]
        if columns and columns[0] != "step":
            raise UsageError(f"{self.path} has no column 'step': it is not a file of metrics")
        return columns, rows

    def _write(self, rows: list[dict[str, str]]) -> None:
        partial = self.path.with_name(f"{self.path.name}.partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            if self.columns:
                writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)
        self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, self.columns, restval="")


class RunLogger:
    """Writes the metrics of a run into its folder and shows them; a context manager.

    With `start_step` > 0 the run goes on: what was written for later steps is dropped. The bar is
    shown only when stderr is a terminal; elsewhere nothing is printed but what `finish` says.
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
        self.start_step = self.step = start_step
        self._open = ExitStack()
        self._metrics = MetricsFile(self.run_dir / "metrics.csv", start_step)
        self._open.callback(self._metrics.close)
        self._events = self._event_writer(start_step) if tensorboard else None
        self._bar = None
        if progress and sys.stderr.isatty():
            self._bar = self._open.enter_context(ProgressBar(total_steps, start_step))
        self._begun = self._then = time.monotonic()

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

        A value `episode_return` is shown in the progress bar.
        """
        now = time.monotonic()
        speed = (step - self.step) / max(now - self._then, 1e-9)
        row = {
            "step": step,
            "seconds": round(self._metrics.seconds + now - self._begun, 3),
            "steps_per_second": round(speed, 1),
            **{key: float(value) for key, value in values.items()},
        }
        self._metrics.append(row)
        if self._events is not None:
            for key in row.keys() - {"step", "seconds"}:
                self._events.add_scalar(key, row[key], step)
        if self._bar is not None:
            self._bar.show(step, values.get("episode_return"))
        self.step, self._then = step, now

    def finish(self, outcome: str) -> None:
        """Close everything, then print the one line that a run leaves on stdout.

        The time in it is that of training: from the beginning to the last row.
        """
        self.close()
        seconds = max(self._then - self._begun, 1e-9)
        speed = (self.step - self.start_step) / seconds
        print(
            f"{outcome} after {self.step:,} steps ({seconds:,.0f} s, {speed:,.0f} steps/s): "
            f"{self.run_dir}",
            flush=True,
        )

    def close(self) -> None:
        """Take the bar down, and put everything on the disk."""
        self._open.close()

    def _event_writer(self, start_step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # `purge_step` hides the events that an interrupted run wrote after its last checkpoint.
        purge = start_step + 1 if start_step else None
        writer = SummaryWriter(str(self.run_dir), purge_step=purge)
        self._open.callback(writer.close)
        return writer


class ProgressBar:
    """Steps, steps per second, return and time left, on stderr; a context manager."""

    def __init__(self, total_steps: int, start_step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.fields[all]} steps"),
            TextColumn("{task.fields[speed]} steps/s"),
            TextColumn("return {task.fields[reward]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=4,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task(
            "train",
            total=total_steps,
            completed=start_step,
            done=f"{start_step:,}",
            all=f"{total_steps:,}",
            speed="-",
            reward="-",
        )

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int, episode_return: float | None) -> None:
        """Move the bar; a return of None leaves the one before."""
        fields: dict[str, Any] = {"done": f"{step:,}"}
        if speed := self._progress.tasks[0].speed:
            fields["speed"] = f"{speed:,.0f}"
        if episode_return is not None:
            fields["reward"] = f"{episode_return:.3f}"
        self._progress.update(self._task, completed=step, **fields)
