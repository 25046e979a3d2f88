"""The results of `gpu_check.py`: three files that are always up to date, and a short summary.

`results.csv` has one line per measurement, `results.md` the same as tables, `failures.txt` the
traceback of every failure.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_check_tables import (
    KERNEL_KEYS,
    Row,
    kernel_lines,
    kernel_row,
    markdown,
    ppo_row,
    rival_row,
    table_text,
)

COLUMNS = (
    *("section", *KERNEL_KEYS, "form", "ms", "graph_ms", "gb_s", "bandwidth_pct", "tflop_s"),
    *("matrix_pct", "floor_pct", "peak_mb", "error", "grad_error"),
    *("library", "core", "envs", "graphs", "steps_s", "collect_pct", "update_pct", "collect_s"),
    *("update_s", "first_s", "waits", "goal", "seconds", "steps", "result"),
    *("file", "passed", "failed", "skipped", "name", "value", "detail"),
)
MOST_PRINTED = 11_400  # characters of the summary
MOST_FAILURES = 25  # lines of the summary
MOST_FILE = 4 * 2**20  # characters of failures.txt
PAUSE = 1.0  # seconds between two writes of the tables


class Report:
    """Collects the messages of all children and keeps the files up to date."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self.rates: dict[str, float] = {}
        self.device = ""
        self.detail = ""
        self.failures: list[tuple[str, str, bool]] = []
        self.notes: list[str] = []
        self.tests: dict[str, Counter[str]] = {}
        self.planned = 0
        self.changed = True
        self.written = 0.0
        (folder / "failures.txt").write_text("")

    def add(self, step: Any, message: Mapping[str, Any]) -> None:
        """Take in a message of a child that runs `step`."""
        kind = message["kind"]
        values = {key: value for key, value in message.items() if key != "kind"}
        self.changed = True
        if kind == "row":
            self.rows.append({"section": step.section, **values})
        elif kind == "update":
            self._update(values)
        elif kind == "device":
            self.device, self.detail = values["name"], values["detail"]
        elif kind == "rate":
            self.rates[values["name"]] = values["value"]
        elif kind == "note":
            self.notes.append(values["text"])
        elif kind == "planned":
            self.planned = max(self.planned, values["count"])
        elif kind == "test":
            counts = self.tests.setdefault(values["file"], Counter())
            counts[values["outcome"]] += 1
            counts["ms"] += round(1000 * values["seconds"])
        elif kind == "failure":
            self._fail(**values)

    def _update(self, values: Mapping[str, Any]) -> None:
        """Add values to the last row that agrees with all others."""
        for row in reversed(self.rows):
            shared = [key for key in values if key in row]
            if shared and all(row[key] == values[key] for key in shared):
                row.update(values)
                return

    def _fail(self, title: str, error: str, minor: bool, traceback: str) -> None:
        self.failures.append((title, error, minor))
        self._append(f"== {title}\n{error}\n{traceback.rstrip()}\n\n")

    def keep_output(self, step: str, output: str) -> None:
        """Add the output of a step to `failures.txt`: the stacks of tests that took too long."""
        self._append(f"== output of {step}\n{output.rstrip()}\n\n")

    def _append(self, text: str) -> None:
        path = self.folder / "failures.txt"
        if path.stat().st_size < MOST_FILE:
            with path.open("a") as file:
                file.write(text)

    def unfinished(self, step: str, text: str) -> None:
        """Note a step, or a part of it, for which there was no time."""
        self.notes.append(f"no time for {step}: {text}")
        self.changed = True

    def flush(self, now: bool = False) -> None:
        """Write the tables, at most once per second unless `now`."""
        if not now and (not self.changed or time.monotonic() < self.written + PAUSE):
            return
        self.changed, self.written = False, time.monotonic()
        rows = self._finished_rows()
        with (self.folder / "results.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        (self.folder / "results.md").write_text(self._page(rows))

    def _finished_rows(self) -> list[Row]:
        rates = [{"section": "device", "name": k, "value": v} for k, v in self.rates.items()]
        tests = [
            {"section": "tests", "file": file, "seconds": counts["ms"] / 1000, **counts}
            for file, counts in sorted(self.tests.items())
        ]
        finish = {
            "kernels": lambda row: kernel_row(row, self.rates),
            "ppo": ppo_row,
            "rivals": rival_row,
        }
        head = {"section": "device", "name": self.device, "detail": self.detail}
        return [head, *rates, *tests, *(finish[row["section"]](row) for row in self.rows)]

    def _page(self, rows: Sequence[Row]) -> str:
        parts = ["# GPU check", f"{self.device}; {self.detail}", self.ceilings()]
        parts += ["## Failures", *(f"- {line}" for line in self.failure_lines())]
        if self.notes:
            parts += ["## Notes", *(f"- {note}" for note in self.notes)]
        for section in ("tests", "kernels", "ppo", "rivals"):
            if chosen := [row for row in rows if row["section"] == section]:
                parts += [f"## {section.capitalize()}", *markdown(section, chosen)]
        return "\n\n".join(parts) + "\n"

    def ceilings(self) -> str:
        """The measured limits of the device in one line."""
        units = {"copy": (1e9, "GB/s"), "launch": (1e-6, "us")}
        words = []
        for name, value in self.rates.items():
            scale, unit = units.get(name, (1e12, "TFLOP/s"))
            words.append(f"{name} {value / scale:.4g} {unit}")
        return "measured: " + (", ".join(words) or "nothing")

    def failure_lines(self) -> list[str]:
        """One line per failure, those of our own code first."""
        ordered = sorted(self.failures, key=lambda failure: failure[2])
        lines = [f"{'(minor) ' * minor}{title}: {error}"[:240] for title, error, minor in ordered]
        return lines or ["none"]

    def test_line(self) -> str:
        """The numbers of tests in one line."""
        total: Counter[str] = sum(self.tests.values(), Counter())
        ran = sum(total[key] for key in ("passed", "failed", "skipped"))
        counts = ", ".join(f"{total[key]} {key}" for key in ("passed", "failed", "skipped"))
        return f"tests: {counts}, {max(0, self.planned - ran)} not run, of {self.planned}"

    def summary(self) -> str:
        """At most `MOST_PRINTED` characters: failures, then tables, the most valuable last."""
        rows = self._finished_rows()
        failures = self.failure_lines()
        more = [f"... and {len(failures) - MOST_FAILURES} more in failures.txt"]
        head = [
            f"device: {self.device}; {self.detail}",
            self.ceilings(),
            *(f"note: {note}"[:240] for note in self.notes[:MOST_FAILURES]),
            f"FAILURES ({len(self.failures)}; tracebacks in failures.txt)",
            *failures[:MOST_FAILURES],
            *(more if len(failures) > MOST_FAILURES else []),
        ]
        tail = [*([self.test_line()] if self.planned else [])]
        for section in ("rivals", "ppo"):
            if chosen := [row for row in rows if row["section"] == section]:
                tail += [section.upper(), *table_text(section, chosen)]
        kernels = kernel_lines([row for row in rows if row["section"] == "kernels"])
        room = MOST_PRINTED - length(head) - length(tail)
        return "\n".join([*head, *fitting(kernels, room), *tail])


def length(lines: Iterable[str]) -> int:
    """Characters of some lines."""
    return sum(len(line) + 1 for line in lines)


def fitting(lines: Sequence[str], room: int) -> list[str]:
    """The first lines that fit."""
    kept: list[str] = []
    for line in lines:
        if length(kept) + len(line) + 60 > room:
            return [*kept, f"... {len(lines) - len(kept)} more lines in results.md"]
        kept.append(line)
    return kept
