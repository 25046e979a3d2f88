"""Results of run folders, read from their files without torch: options, curve and evaluation."""

from __future__ import annotations

import csv
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from rlmem.errors import UsageError, reading
from rlmem.files import expanded, read_text
from rlmem.runs import manifest, run_files, sealed, system
from rlmem.runs.scores import REFERENCES, Reference

# Steps of a rollout in POPGym's benchmark: 64 environments x 1024 steps.
EPOCH_STEPS = 65_536
TAIL_BYTES = 8192
METRICS = "metrics.csv"
PART = 1024
NOTED = ("torch", "python", "commit")
# Logs of this size are read by several processes, whose start takes half a second.
PARALLEL_BYTES = 32 * 2**20
RETURN = "episode_return"


class Curve(NamedTuple):
    """The training returns of a run: for each iteration its last step, and the mean return of the
    episodes that ended in it. Iterations without an ended episode are left out.
    """

    steps: Int[ndarray, " I"]
    returns: Float[ndarray, " I"]
    episodes: Float[ndarray, " I"]


class Evaluations(NamedTuple):
    """The evaluations of a run during its training: steps, mean returns, standard errors."""

    steps: Int[ndarray, " E"]
    means: Float[ndarray, " E"]
    errors: Float[ndarray, " E"]


class Record(NamedTuple):
    """What a run folder tells about a run. `evaluation` is None before its evaluation."""

    path: Path
    options: dict[str, Any]
    curve: Curve
    steps: int
    seconds: float
    evaluation: dict[str, Any] | None

    @property
    def env(self) -> str:
        """The environment with its difficulty, such as `popgym-repeat/hard`."""
        difficulty = self.options.get("env.difficulty")
        return f"{self.options['env.name']}" + (f"/{difficulty}" if difficulty else "")

    @property
    def score(self) -> float | None:
        """The mean greedy return of the evaluation; before it, the newest training return."""
        if self.evaluation is not None:
            return float(self.evaluation["return_mean"])
        return float(self.curve.returns[-1]) if len(self.curve.returns) else None

    @property
    def speed(self) -> float:
        """Trained steps per second."""
        return self.steps / self.seconds if self.seconds else 0.0

    @property
    def reference(self) -> Reference | None:
        """Memoryless score and optimum of a POPGym task, None for other environments."""
        levels = REFERENCES.get(self.options["env.name"], {})
        return levels.get(str(self.options.get("env.difficulty")))

    @property
    def memoryless(self) -> float | None:
        """The best known score without memory, for the observations of this run."""
        if self.reference is None:
            return None
        if self.options.get("env.previous_action"):
            return self.reference.memoryless_with_previous_action
        return self.reference.memoryless


def find(paths: Iterable[str | Path]) -> list[Path]:
    """The run folders among `paths` and below them, sorted and without duplicates.

    Raises `UsageError` for a path that is no folder, or has no run.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = expanded(given)
        if not path.is_dir():
            raise UsageError(f"{given}: there is no such folder")
        below = sorted(_runs(path))
        if not below:
            raise UsageError(f"{given}: there is no run in this folder (rlmem train writes one)")
        found |= dict.fromkeys(below)
    return list(found)


def _runs(path: Path) -> Iterator[Path]:
    if (path / "config.yaml").is_file():
        yield path
        return
    for child in path.iterdir():
        if child.is_dir() and not child.name.startswith("."):
            yield from _runs(child)


def read(path: Path) -> Record:
    """The results of a run folder; a `UsageError` if a file cannot be read."""
    options = dict(flat(read_config(path)))
    if not {"env.name", "core.name", "algo.name"} <= options.keys():
        raise UsageError(f"{path / 'config.yaml'} is not the configuration of a run")
    steps, seconds, curve = _read_metrics(path / METRICS)
    return Record(path, options, curve, steps, seconds, _read_evaluation(path / "eval.json"))


def read_all(paths: Sequence[Path], processes: int = 1) -> list[Record]:
    """`read` for many runs; large logs in several `processes`, which import the main program."""
    size = sum(each.stat().st_size for path in paths if (each := path / METRICS).is_file())
    workers = min(len(paths), processes)
    if size < PARALLEL_BYTES or workers < 2:
        return [read(path) for path in paths]
    # Ctrl-C is an error of one line in this process, and nothing in the others.
    ignore = signal.SIGINT, signal.SIG_IGN
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, ignore) as pool:
        return list(pool.map(read, paths))


def read_evaluations(path: Path) -> Evaluations | None:
    """The evaluations during the training of a run folder; None without any."""
    table = _table(path / "evaluations.csv")
    names = ("step", "return_mean", "return_std", "episodes")
    if not set(names) <= set(table.header) or not (table.lines or table.parsed):
        return None
    step, *others = table.columns(*names)
    try:
        steps = np.array([int(cell) for cell in step])
        means, stds, counts = (np.array([float(cell) for cell in cells]) for cells in others)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{path / 'evaluations.csv'} is damaged: {error}") from error
    return Evaluations(steps, means, stds / np.sqrt(np.maximum(counts, 1)))


def systems(path: Path) -> list[dict[str, str]]:
    """The systems that have trained a run, one for each process (see `rlmem.runs.system`).

    For a run of an older version, the versions that its files name: of rlmem, and in a benchmark
    also of torch and Python. Without a readable file, an empty dict.
    """
    return system.read(path) or [_versions(path)]


def _versions(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, key in (("agent.json", "rlmem"), ("bench.json", "version")):
        try:
            content = sealed.read(path / name)
        except (OSError, ValueError):
            continue
        known = {"rlmem": content.get(key), **{k: content.get(k) for k in NOTED}}
        found |= {k: str(value) for k, value in known.items() if value is not None}
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run folder, nested; a `UsageError` if it is not one."""
    try:
        config = run_files.plain_yaml(run_files.config_text(path))
    except ValueError as error:
        raise UsageError(f"cannot read {path / 'config.yaml'}: {error}") from error
    if not isinstance(config, dict) or not {"env", "core", "algo"} <= set(config):
        raise UsageError(f"{path / 'config.yaml'} is not the configuration of a run")
    return config


def mmer(curve: Curve, epoch_steps: int = EPOCH_STEPS) -> float | None:
    """POPGym's metric MMER: the maximum over epochs of the mean training return of an epoch.

    An epoch is `epoch_steps` steps (the benchmark's rollout); the mean counts every episode that
    ended in it once. The last epoch counts if it is at least half as long. None without episodes.
    """
    if not len(curve.steps):
        return None
    epoch = (curve.steps - 1) // epoch_steps
    if curve.steps[-1] % epoch_steps < epoch_steps / 2 and epoch[-1] > 0:
        kept = epoch < epoch[-1] if curve.steps[-1] % epoch_steps else slice(None)
        curve, epoch = Curve(*(column[kept] for column in curve)), epoch[kept]
    episodes = np.bincount(epoch, curve.episodes)
    totals = np.bincount(epoch, curve.episodes * curve.returns)
    return float((totals[episodes > 0] / episodes[episodes > 0]).max())


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_metrics(path: Path) -> tuple[int, float, Curve]:
    """The last step, the seconds of training, and the curve; a torn last row is left out.

    A line on stderr says if the rows are not those that the newest checkpoint has described.
    """
    table = _table(path)
    if table.header and not {"step", "seconds"} <= set(table.header):
        raise UsageError(f"{path} is not a metrics file: it has no column 'step'")
    if not table.lines and not table.parsed:
        return 0, 0.0, Curve(np.array([], np.int64), np.array([]), np.array([]))
    manifest.check_log(path, table.header, table.rows)
    step, second, returned, ended_episodes = table.columns("step", "seconds", RETURN, "episodes")
    try:
        steps = np.array([int(cell) for cell in step], np.int64)
        seconds = [float(cell) for cell in second]
        returns = np.array([float(cell or "nan") for cell in returned])
        episodes = np.array([float(cell or 1) for cell in ended_episodes])
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    ended = np.array([cell != "" for cell in returned])
    return int(steps[-1]), seconds[-1], Curve(steps[ended], returns[ended], episodes[ended])


class _Table(NamedTuple):
    """The header of a table, and its whole rows: lines without quotes, or lists of cells.

    Cells are made a thousand rows at a time: those of a long log would need much memory.
    """

    header: list[str]
    lines: list[str]
    parsed: list[list[str]]

    def _parts(self) -> Iterator[list[str]]:
        """All cells, row by row."""
        for first in range(0, len(self.lines), PART):
            yield ",".join(self.lines[first : first + PART]).split(",")
        if self.parsed:
            yield list(chain.from_iterable(self.parsed))

    def columns(self, *names: str) -> list[list[str]]:
        """The cells of some columns; empty ones if there is none of a name."""
        width, count = len(self.header), len(self.lines) + len(self.parsed)
        places = {name: self.header.index(name) for name in names if name in self.header}
        found: dict[str, list[str]] = {name: [] for name in names}
        for cells in self._parts():
            for name, place in places.items():
                found[name] += cells[place::width]
        return [found[name] if name in places else [""] * count for name in names]

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The cells of each row."""
        for cells in self._parts():
            yield from zip(*[iter(cells)] * len(self.header), strict=True)


def _table(path: Path) -> _Table:
    """The whole rows of a table; empty without a file."""
    if not path.exists():
        return _Table([], [], [])
    try:
        text = read_text(path)
        if '"' in text:
            header, *rows = list(csv.reader(text.splitlines()))
            return _Table(header, [], [row for row in rows if len(row) == len(header)])
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    first, *lines = text.splitlines() or [""]
    commas = first.count(",")
    header = first.split(",") if first else []
    return _Table(header, [line for line in lines if line and line.count(",") == commas], [])


def newest(path: Path) -> tuple[int, str, float]:
    """Step, return (as text, empty before an episode has ended) and steps/s of the last row."""
    try:
        with path.open("rb") as file:
            header = file.readline().decode().strip().split(",")
            file.seek(max(file.tell(), path.stat().st_size - TAIL_BYTES))
            rows = [line.split(",") for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return 0, "", 0.0
    whole = [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]
    if not whole or not whole[-1]["step"].isdigit():
        return 0, "", 0.0
    returns = [row["episode_return"] for row in whole if row.get("episode_return")]
    value = f"{float(returns[-1]):.3f}" if returns else ""
    return int(whole[-1]["step"]), value, float(whole[-1]["steps_per_second"] or 0)


def _read_evaluation(path: Path) -> dict[str, Any] | None:
    """The content of `eval.json`, with numbers as its returns; None without one."""
    if not path.exists():
        return None
    with reading(path):
        found = sealed.read(path)
        np.asarray([found["return_mean"], *found.get("returns", [])], float)
        return found
