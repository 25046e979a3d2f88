"""A search for options: Optuna chooses them, training runs in processes of their own answer.

The study is a SQLite file beside the run folders, so the same command goes on with an interrupted
search. Runs of its unfinished trials go on from their checkpoints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlmem.errors import UsageError, need
from rlmem.runs import folder, records
from rlmem.runs.grid import Cell
from rlmem.runs.workers import POLL, Workers, is_done

STUDY = "study.db"
# A running trial is compared with others at each of these parts of its first run.
PARTS = 20
# Trials that always run to their end, and the parts of a run that are never compared.
STARTUP, WARMUP = 5, 4

Objective = Literal["return", "mean"]
Changed = Callable[["Trial", str], None]


@dataclass
class Trial:
    """A choice of options with a run for each seed. `value` is known at its end."""

    number: int
    options: dict[str, Any]
    cells: list[Cell]
    values: list[float] = field(default_factory=list)
    handle: Any = None  # Optuna's trial, None for one of an interrupted search
    total: int = 0  # steps of a run, 0 until its configuration is read
    parts: int = 0

    @property
    def cell(self) -> Cell:
        """The run that comes next, or is running."""
        return self.cells[len(self.values)]

    @property
    def value(self) -> float:
        """The mean over the seeds that are done."""
        return float(np.mean(self.values))


class Tuning:
    """A search in folder `root` over `space` (Optuna's distributions by option).

    `options` are the other options of every run. `objective` is the greedy `return` at the end, or
    the `mean` return of training, which rewards fast learning. Raises `UsageError` if the folder
    has a search with other options.
    """

    def __init__(
        self,
        root: Path,
        options: Sequence[str],
        space: Mapping[str, Any],
        *,
        seeds: Sequence[int] = (0,),
        objective: Objective = "return",
        prune: bool = True,
        sampler_seed: int = 0,
    ) -> None:
        need("optuna", "rlmem tune", "tune")
        self.root = folder.require_usable("dir", root)
        self.options, self.space, self.seeds = list(options), dict(space), list(seeds)
        self.objective, self.prune = objective, prune
        self.workers = Workers(self.root, ["legs=1"])
        self.root.mkdir(parents=True, exist_ok=True)
        self.study = _study(self.root / STUDY, sampler_seed)
        self._require_same()

    @property
    def failed(self) -> dict[str, str]:
        """The last line of each failed run, by its name."""
        return self.workers.failed

    def run(self, trials: int, jobs: int, changed: Changed) -> None:
        """Search until the study has `trials` trials; `jobs` runs at once.

        `changed(trial, state)` is called with `running`, `done`, `pruned` or `failed`.
        """
        with self.workers.claimed():
            waiting = [self._unfinished(each) for each in self._in_state("RUNNING")]
            active: dict[str, Trial] = {}
            while True:
                while len(self.workers.jobs) < jobs and (waiting or self._count() < trials):
                    trial = waiting.pop(0) if waiting else self._ask()
                    self.workers.start(trial.cell)
                    active[trial.cell.name] = trial
                    changed(trial, "running")
                if not active:
                    return
                time.sleep(POLL)
                for cell, state in self.workers.ended():
                    trial = active.pop(cell.name)
                    if (after := self._ended(trial, state)) == "next seed":
                        waiting.insert(0, trial)
                    else:
                        changed(trial, after)
                for name in [name for name, trial in active.items() if self._hopeless(trial)]:
                    trial = active.pop(name)
                    self.workers.kill([name])
                    self._tell(trial, "PRUNED")
                    changed(trial, "pruned")

    def finished(self) -> list[Trial]:
        """The trials that ran to their end, best first."""
        found = []
        for each in self._in_state("COMPLETE"):
            trial = self._trial(each.number, each.params)
            trial.values = [float(each.value)]
            found.append(trial)
        return sorted(found, key=lambda trial: -trial.value)

    def counts(self) -> dict[str, int]:
        """The number of trials by state."""
        names = [each.state.name.lower() for each in self.study.get_trials(deepcopy=False)]
        return {name: names.count(name) for name in names}

    def _count(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def _in_state(self, state: str) -> list[Any]:
        from optuna.trial import TrialState

        return list(self.study.get_trials(deepcopy=False, states=(TrialState[state],)))

    def _ask(self) -> Trial:
        handle = self.study.ask(fixed_distributions=self.space)
        trial = self._trial(handle.number, handle.params)
        trial.handle = handle
        return trial

    def _trial(self, number: int, options: dict[str, Any]) -> Trial:
        chosen = [f"{key}={as_text(value)}" for key, value in options.items()]
        cells = [
            Cell(f"trial{number:04d}-seed{seed}", (*self.options, *chosen, f"seed={seed}"))
            for seed in self.seeds
        ]
        return Trial(number, options, cells)

    def _unfinished(self, frozen: Any) -> Trial:
        """A trial of an interrupted search: seeds that are done stay done."""
        trial = self._trial(frozen.number, frozen.params)
        while len(trial.values) < len(trial.cells) - 1 and is_done(self.root / trial.cell.name):
            trial.values.append(self._score(trial.cell))
        return trial

    def _ended(self, trial: Trial, state: str) -> str:
        if state == "failed":
            self._tell(trial, "FAIL")
            return "failed"
        trial.values.append(self._score(trial.cell))
        if len(trial.values) < len(trial.cells):
            return "next seed"
        self.study.tell(trial.number, trial.value)
        return "done"

    def _tell(self, trial: Trial, state: str) -> None:
        from optuna.trial import TrialState

        self.study.tell(trial.number, state=TrialState[state])

    def _score(self, cell: Cell) -> float:
        record = records.read(self.root / cell.name)
        if self.objective == "mean":
            return float(np.average(record.curve.returns, weights=record.curve.episodes))
        return float(record.evaluation["return_mean"]) if record.evaluation else float("nan")

    def _hopeless(self, trial: Trial) -> bool:
        """Whether the first run of a trial is below the median of others at the same step."""
        if not self.prune or trial.handle is None or trial.values:
            return False
        path = self.root / trial.cell.name
        if not (path / "config.yaml").exists() or not (path / "metrics.csv").exists():
            return False
        trial.total = trial.total or int(records.read_config(path)["total_steps"])
        # The end of the file tells whether there is a new part: only then is all of it read.
        newest = PARTS * records.newest(path / "metrics.csv")[0] // trial.total
        if min(newest, PARTS - 1) <= trial.parts:
            return False
        curve = records.read(path).curve
        parts = np.minimum(PARTS * curve.steps // trial.total, PARTS - 1)
        # The newest part may still grow.
        for part in range(trial.parts, int(parts.max(initial=0))):
            here = parts == part
            if part >= WARMUP and here.any():
                value = np.average(curve.returns[here], weights=curve.episodes[here])
                trial.handle.report(float(value), part)
            trial.parts = part + 1
            if part >= WARMUP and trial.handle.should_prune():
                return True
        return False

    def _require_same(self) -> None:
        wanted = {
            "options": " ".join(sorted(self.options)),
            "space": json.dumps({key: repr(self.space[key]) for key in sorted(self.space)}),
            "seeds": self.seeds,
            "objective": self.objective,
        }
        before = self.study.user_attrs
        for key, value in wanted.items():
            if before.get(key, value) != value:
                raise UsageError(
                    f"{self.root} has a search with other {key} ({before[key]} instead of "
                    f"{value}): give another dir, or delete that folder"
                )
            if key not in before:
                self.study.set_user_attr(key, value)


def as_text(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _study(path: Path, seed: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name="rlmem",
        storage=f"sqlite:///{path.absolute()}",
        load_if_exists=True,
        direction="maximize",
        # Trials that run at the same time count as bad ones, so their neighbours are avoided.
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP - 1),
    )
