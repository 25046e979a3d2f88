"""Random malformed command lines, and options at and beyond their ranges.

    python scripts/fuzz_commands.py [--lines 2000] [--options 1000] [--folders 300] [--seed 0]
        [--seconds 20] [--show 20]

Every command runs in this process, in a temporary folder, and must end with exit code 0, or with
code 2 and one line on stderr, within `--seconds`. A training ends after its first iteration. Three
kinds: random command lines; one option of a core, environment, algorithm or command with a value at
or beyond its range; run folders whose files are cut or changed. The script prints the counts of
tracebacks, commands without an end, errors of several lines, and exit codes, and the first
`--show` problems; its exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fuzz_command_cases import broken_folders, command_lines, options, setup

from rlmem.cli.main import main as rlmem
from rlmem.diagnose import suite
from rlmem.runs import train as training
from rlmem.runs.callbacks import Callback, Training

MEMORY = (
    24 * 2**30
)  # bytes of addresses, so that a huge request fails instead of filling the machine
ALLOWED = (0, 2)


class OneIteration(Callback):
    """Stops a training after its first iteration."""

    def on_iteration(self, training: Training, metrics: dict[str, float]) -> None:
        training.stop("enough")


class Outcome(NamedTuple):
    """The exit code of a command, or None; `problem` is empty if it ended as it must."""

    code: int | None
    kind: str
    problem: str


class NoEnd(BaseException):
    """A command takes too long. No `Exception`, so that no handler catches it."""


def run(arguments: list[str], seconds: int) -> Outcome:
    """Run one command."""

    def stop(*_: Any) -> None:
        raise NoEnd

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = rlmem(arguments)
    except NoEnd:
        place = traceback.format_exc().splitlines()[-5:]
        return Outcome(None, "no end", " | ".join(map(str.strip, place)))
    except BaseException as error:  # also SystemExit
        place = [line.strip() for line in traceback.format_exc().splitlines() if "File" in line]
        text = str(error).split("\n")[0][:200]
        return Outcome(None, "traceback", f"{type(error).__name__}: {text} at {place[-1]}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    text = err.getvalue().strip()
    if "Traceback" in text:
        return Outcome(code, "traceback", text[-300:])
    if code not in ALLOWED:
        return Outcome(code, "exit code", str(code))
    # Notes may come before the error.
    if code == 2 and not text.split("\n")[-1].startswith("rlmem: "):
        return Outcome(code, "lines", text[-300:])
    return Outcome(code, "", "")


@contextlib.contextmanager
def short_trainings() -> Iterator[None]:
    """Let `rlmem train` end after its first iteration, and `rlmem diagnose` ask no question."""
    before, asking = training.run, suite.run

    def nothing(tasks: Any, folder: Path, *_: Any) -> list[dict[str, Any]]:
        folder.mkdir(parents=True, exist_ok=True)
        return []

    def once(cfg: Any, unique: bool = False) -> float:
        return training.train(cfg, unique, callbacks=[OneIteration()]).return_mean

    training.run = once
    suite.run = nothing
    try:
        yield
    finally:
        training.run, suite.run = before, asking


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """A temporary folder as the current one."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def clean(folder: Path) -> None:
    """Remove the results of commands, but not what `setup` made."""
    for path in folder.iterdir():
        if path.name in ("runs", "multirun", "comparison") or not path.name.startswith("given"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def fuzz(counts: dict[str, int], seed: int, seconds: int) -> list[str]:
    """Run so many cases of each kind, print their counts, and return the problems."""
    problems: list[str] = []
    makers = {"lines": command_lines, "options": options, "folders": broken_folders}
    with working_folder() as folder, short_trainings():
        setup(folder)
        for kind, count in counts.items():
            rng, codes, kinds = random.Random(seed), Counter[Any](), Counter[str]()
            cases = makers[kind](rng, folder)
            for _ in range(count):
                arguments = next(cases)
                outcome = run(arguments, seconds)
                codes[outcome.code] += 1
                if outcome.kind:
                    kinds[outcome.kind] += 1
                    problems.append(f"{outcome.kind}: {outcome.problem}, by {' '.join(arguments)}")
                clean(folder)
            print(
                f"{count} {kind}: {kinds['traceback']} tracebacks, {kinds['no end']} without an "
                f"end, {kinds['lines']} errors of several lines, exit codes {dict(codes)}",
                flush=True,
            )
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lines", type=int, default=2000, help="number of command lines")
    parser.add_argument("--options", type=int, default=1000, help="number of options out of range")
    parser.add_argument("--folders", type=int, default=300, help="number of broken run folders")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--seconds", type=int, default=20, help="limit of one command")
    parser.add_argument("--show", type=int, default=20, help="number of problems to print")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts = {"lines": given.lines, "options": given.options, "folders": given.folders}
    problems = fuzz(counts, given.seed, given.seconds)
    for problem in problems[: given.show]:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
