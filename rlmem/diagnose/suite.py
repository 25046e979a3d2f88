"""The suite: every question to every core with every seed, by several processes, resumable.

A result is a file per core, question and seed; what is there is not done again.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from rlmem import __version__, cores
from rlmem.diagnose import capacity, duration, rates, rewriting, tracking
from rlmem.diagnose.cost import cost
from rlmem.diagnose.question import Question
from rlmem.diagnose.reader import Reader, accuracy, fit
from rlmem.errors import UsageError, unknown
from rlmem.files import atomic_write, read_text

QUESTIONS: dict[str, Question] = {
    question.name: question
    for module in (capacity, duration, tracking, rewriting, rates)
    for question in module.QUESTIONS
}
COST = "cost"
WIDTH = 64
# Delays of the curve of an input's influence.
INFLUENCE = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_000]
TEST_SEED = 2**31


@dataclass(frozen=True)
class Task:
    """One question to one core with one seed. `effort` multiplies the steps of training."""

    core: str
    question: str
    seed: int
    width: int = WIDTH
    effort: float = 1.0

    @property
    def file(self) -> str:
        """The name of the result's file."""
        return f"{self.core}-{self.question}-seed{self.seed}.json"

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on."""
        return asdict(self) | {"version": __version__}


def all_cores() -> list[str]:
    """The names of all cores, but for the one without a memory and for stacks of others."""
    return [name for name in cores.names() if name not in ("none", "stack")]


def chosen(given: Sequence[str]) -> list[str]:
    """The names of questions for names and families; all, and the costs, for none."""
    names = [*QUESTIONS, COST]
    if not given:
        return names
    families = {question.family for question in QUESTIONS.values()}
    for each in given:
        if each not in names and each not in families:
            raise unknown("question", each, [*names, *sorted(families - set(names))])
    wanted = set(given)
    return [name for name in names if wanted & {name, name.partition("-")[0]}]


def tasks(
    names: Sequence[str], questions: Sequence[str], seeds: Sequence[int], width: int, effort: float
) -> list[Task]:
    """All tasks, core by core; raises `UsageError` for a core of another name or width."""
    for name in names:
        cores.make(name, input_size=width)
    found = [Task(c, q, s, width, effort) for c in names for q in questions for s in seeds]
    return [task for task in found if task.question != COST or task.seed == seeds[0]]


def answer(task: Task) -> dict[str, Any]:
    """Train and test a core on a question, in one thread: the content of its file."""
    torch.set_num_threads(1)
    begun = time.process_time()
    result: dict[str, Any] = dict(task.settings)
    if task.question == COST:
        return result | {"cost": cost(task.core)._asdict()}
    question = QUESTIONS[task.question]
    torch.manual_seed(task.seed)
    model = Reader(
        task.core, question.inputs, question.answers, task.width, continuous=question.continuous
    )
    if task.question == "delay":
        result["influence_before"] = duration.influence(model, INFLUENCE)
    generator = torch.Generator().manual_seed(task.seed)
    steps = max(1, round(question.steps * task.effort))
    fit(model, lambda: question.train(question.rows, generator), steps)
    if task.question == "delay":
        result["influence_after"] = duration.influence(model, INFLUENCE)
    found = {}
    for name, draw in question.tests.items():
        tested = rates.rescaled(model, name) if question.continuous else model
        assert isinstance(tested, Reader)
        batch = draw(question.test_rows, torch.Generator().manual_seed(TEST_SEED))
        found[name] = accuracy(tested, batch)
    result["accuracy"] = found
    result["score"] = mean(question.score(each) for each in found.values())
    return result | {"steps": steps, "cpu_seconds": round(time.process_time() - begun, 1)}


def run(
    all_tasks: Sequence[Task],
    folder: Path,
    jobs: int,
    report: Callable[[Task, dict[str, Any], int], None] | None = None,
) -> list[dict[str, Any]]:
    """The results of all tasks, from their files or by `jobs` processes (1: this one).

    `report(task, result, left)` is called after each new one. Raises `UsageError` if a file in
    `folder` has other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {task.file: found for task in all_tasks if (found := read(folder, task)) is not None}
    missing = [task for task in all_tasks if task.file not in results]
    if not missing:
        return [results[task.file] for task in all_tasks]

    def keep(task: Task, result: dict[str, Any]) -> None:
        atomic_write(folder / task.file, json.dumps(result, indent=1) + "\n")
        results[task.file] = result
        if report is not None:
            report(task, result, len(all_tasks) - len(results))

    if jobs == 1:
        threads = torch.get_num_threads()
        try:
            for task in missing:
                keep(task, answer(task))
        finally:
            torch.set_num_threads(threads)
        return [results[task.file] for task in all_tasks]
    others = set(active_children())
    # New processes, because a fork of one with threads of torch may hang.
    with ProcessPoolExecutor(
        min(jobs, len(missing)),
        get_context("spawn"),
        signal.signal,
        (signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        waiting: dict[Future[dict[str, Any]], Task] = {}
        try:
            for task in missing:
                waiting[pool.submit(answer, task)] = task
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    keep(waiting.pop(future), future.result())
        except BaseException:
            # Questions take minutes, and their results would be lost anyway.
            for process in set(active_children()) - others:
                process.kill()
            raise
    return [results[task.file] for task in all_tasks]


def read(folder: Path, task: Task) -> dict[str, Any] | None:
    """The result in a task's file; None without one."""
    path = folder / task.file
    if not path.exists():
        return None
    try:
        found = json.loads(read_text(path))
        before = {key: found[key] for key in asdict(task)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a result of rlmem diagnose: delete it") from error
    for key, value in asdict(task).items():
        if before[key] != value:
            raise UsageError(
                f"{folder} has results with {key}={before[key]}, not {value}: give another dir"
            )
    return dict(found)
