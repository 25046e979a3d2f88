"""Progress on stderr: a bar on a terminal, else a line every 30 seconds."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from rlmem.errors import need

# Seconds between lines.
INTERVAL = 30.0


class Progress:
    """Context manager that shows how many of `total` units (steps, episodes) are done."""

    def __init__(self, unit: str, total: int, start: int = 0, shown: bool = True) -> None:
        self._unit = unit
        self._total = total
        self._start = start
        self._state = start, ""
        self._shown = shown
        self._begin_time = time.monotonic()
        self._bar: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        self._begin_time = time.monotonic()
        if self._shown and sys.stderr.isatty():
            self._bar = self._open.enter_context(self._make_bar())
            self._task = self._bar.add_task("", total=self._total, **self._fields(*self._state))
        elif self._shown:
            self._end = threading.Event()
            thread = threading.Thread(target=self._print_lines, daemon=True)
            thread.start()
            self._open.callback(thread.join)
            self._open.callback(self._end.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._bar = None

    def show(self, done: int, detail: str = "") -> None:
        """Update the number of finished units and a short text."""
        self._state = done, detail
        if self._bar is not None:
            self._bar.update(self._task, **self._fields(done, detail))

    def line(self) -> str:
        """The progress as a line of text."""
        done, detail = self._state
        seconds = max(time.monotonic() - self._begin_time, 1e-9)
        speed = (done - self._start) / seconds
        parts = [f"{done:,}/{self._total:,} {self._unit} after {seconds:,.0f} s"]
        if speed:
            parts.append(f"{speed:,.{0 if speed > 10 else 2}f} {self._unit}/s")
            parts.append(f"about {max(self._total - done, 0) / speed:,.0f} s left")
        return ", ".join([*parts, *filter(None, [detail])])

    def _print_lines(self) -> None:
        # A thread, because a single iteration may take longer than the interval.
        while not self._end.wait(INTERVAL):
            try:
                print(self.line(), file=sys.stderr, flush=True)
            except (OSError, ValueError):  # stderr is closed
                return

    def _fields(self, done: int, detail: str) -> dict[str, Any]:
        speed = self._bar.tasks[0].speed if self._bar is not None and self._bar.tasks else None
        return {
            "completed": done,
            "done": f"{done:,}/{self._total:,} {self._unit}",
            "speed": f"{speed or 0:,.0f} {self._unit}/s",
            "detail": detail,
        }

    def _make_bar(self) -> Any:
        need("rich", "log.progress=true", "train")
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        return Progress(
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[detail]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=4,
            redirect_stdout=False,
        )
