"""Runs the steps of `gpu_check.py`, each in a process of its own, within a time budget.

A child reports by messages (see `gpu_check_worker.py`). One that crashes or hangs is replaced by
another one that goes on with the next case. While a step runs, the child of the next one already
imports its modules; it does not use the device before it is told to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_check_report import Report

ROOT = Path(__file__).resolve().parents[1]
POLL = 0.05  # seconds
TAIL = 12_000  # characters of a child's output that are kept
MOST_RESTARTS = 6  # of a step
SHORTEST = 5.0  # seconds; with less time left no child is started

Message = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A part of the check: a module with its arguments, and its share of the time in seconds.

    `patience` is the time between two messages after which the child counts as hanging. A child
    with cases waits for a line on its input, and takes the option `--first`.
    """

    section: str
    name: str
    command: Sequence[str]
    seconds: float
    patience: float = 60.0
    has_cases: bool = True


class Child:
    """A process that runs a step from case `first` on."""

    def __init__(self, step: Step, folder: Path, first: int = 0) -> None:
        self.step = step
        self.place = Path(tempfile.mkdtemp(dir=folder))
        self.messages_file = self.place / "messages"
        self.messages_file.touch()
        self.position = 0
        self.case = first - 1
        self.cases = 0
        self.title = f"{step.name}: start"
        self.failures = 0
        self.done = False
        command = [sys.executable, *step.command]
        if step.has_cases:
            command += ["--first", str(first)]
        with (self.place / "output").open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(self.messages_file),
                cwd=ROOT,
                start_new_session=True,
            )

    def go(self, seconds: float) -> None:
        """Tell the child to use the device, for some seconds."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it may have ended already
            self.process.stdin.write(f"go {seconds:.1f}\n".encode())
            self.process.stdin.flush()

    def messages(self) -> Iterator[Message]:
        """The messages since the last call; remembers the current case."""
        with self.messages_file.open() as file:
            file.seek(self.position)
            while (line := file.readline()).endswith("\n"):
                self.position = file.tell()
                message = json.loads(line)
                kind = message["kind"]
                if kind == "case":
                    self.case, self.cases = message["index"], message["of"]
                    self.title, self.failures = message["title"], 0
                self.failures += kind == "failure"
                self.done |= kind == "done"
                yield message

    def output(self) -> str:
        """The end of everything that the child has printed."""
        return (self.place / "output").read_text(errors="replace")[-TAIL:]

    def ask_for_stack(self) -> None:
        """Let the child print where it is, if it can."""
        if self.process.poll() is None and self.step.has_cases:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)

    def stop(self) -> None:
        """End the child and its own children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.wait()


def environment(messages: Path) -> dict[str, str]:
    """The environment of a child: it finds the package, these scripts and the file of messages."""
    paths = [str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
    ours = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "GPU_CHECK_MESSAGES": str(messages),
        "PYTHONUNBUFFERED": "1",
        # Plugins of pytest are named on its command line; others may fail here.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return {**os.environ, **ours}


class Runner:
    """Runs steps one after the other; `end` is the time (monotonic) when all must be over."""

    def __init__(self, report: Report, end: float, folder: Path) -> None:
        self.report = report
        self.end = end
        self.folder = folder
        self.children: list[Child] = []

    def run(self, steps: Sequence[Step]) -> None:
        """Run all steps; a step gets its share of the time that is left."""
        waiting: Child | None = None
        for index, step in enumerate(steps):
            left = self.end - time.monotonic()
            if left < SHORTEST:
                self.report.unfinished(step.name, "not started")
                continue
            allowed = left * step.seconds / sum(each.seconds for each in steps[index:])
            child = waiting or self._start(step)
            following = steps[index + 1] if index + 1 < len(steps) else None
            waiting = self._start(following) if following and following.has_cases else None
            self._run_step(child, time.monotonic() + allowed)
        self.stop()

    def stop(self) -> None:
        """End every child that still runs."""
        for child in self.children:
            child.stop()
        self.children.clear()

    def _start(self, step: Step, first: int = 0) -> Child:
        child = Child(step, self.folder, first)
        self.children.append(child)
        return child

    def _run_step(self, child: Child, end: float) -> None:
        """Run a child and its replacements until the step is done or the time is over."""
        step = child.step
        print(f"{time.strftime('%H:%M:%S')} {step.name}", flush=True)
        for restarts in range(MOST_RESTARTS + 1):
            self._follow(child, end)
            child.stop()
            self.children.remove(child)
            if child.failures and not step.has_cases:
                self.report.keep_output(step.name, child.output())
            following = child.case + 1
            if child.done or 0 < child.cases <= following:
                return
            if time.monotonic() > end - SHORTEST or restarts == MOST_RESTARTS:
                left = f"{child.cases - child.case} of {child.cases} cases from "
                self.report.unfinished(step.name, (left if child.case >= 0 else "") + child.title)
                return
            if not step.has_cases or child.case < 0:
                return
            child = self._start(step, following)

    def _follow(self, child: Child, end: float) -> None:
        """Read the messages of a child until it ends, hangs or has no time left."""
        child.go(end - time.monotonic())
        heard = time.monotonic()
        while True:
            ended = child.process.poll() is not None
            for message in child.messages():
                heard = time.monotonic()
                self.report.add(child.step, message)
            self.report.flush()
            if ended:
                break
            now = time.monotonic()
            if now > end:
                return
            if now - heard > child.step.patience:
                child.ask_for_stack()
                self._fail(child, f"hangs: no message for {child.step.patience:.0f} s")
                return
            time.sleep(POLL)
        # A child that reports an error may end on purpose: the device is unusable then.
        if not child.done and not child.failures:
            self._fail(child, f"ended with status {child.process.returncode}")

    def _fail(self, child: Child, error: str) -> None:
        where = {"title": child.title, "error": error, "traceback": child.output()}
        self.report.add(child.step, {"kind": "failure", "minor": False, **where})
