"""Results of run folders, read from their files without torch: options, curve and evaluation."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from rlmem.errors import UsageError
from rlmem.files import expanded, read_text
from rlmem.runs import manifest, run_files, sealed
from rlmem.runs.scores import REFERENCES, Reference

# Steps of a rollout in POPGym's benchmark: 64 environments x 1024 steps.
EPOCH_STEPS = 65_536
TAIL_BYTES = 8192


class Curve(NamedTuple):
    """The training returns of a run: for each iteration its last step, and the mean return of the
    episodes that ended in it. Iterations without an ended episode are left out.
    """

    steps: Int[ndarray, " I"]
    returns: Float[ndarray, " I"]
    episodes: Float[ndarray, " I"]


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
    config = read_config(path)
    steps, seconds, curve = _read_metrics(path / "metrics.csv")
    return Record(path, dict(flat(config)), curve, steps, seconds, _read_json(path / "eval.json"))


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
    rows: list[tuple[float, float, float]] = []
    steps, seconds = 0, 0.0
    table, header = _table(path)
    if header and not {"step", "seconds"} <= set(header):
        raise UsageError(f"{path} is not a metrics file: it has no column 'step'")
    if header:
        manifest.check_log(path, (dict(zip(header, row, strict=True)) for row in table))
    for cells in table:
        row = dict(zip(header, cells, strict=True))
        try:
            steps, seconds = int(row["step"]), float(row["seconds"])
            if row.get("episode_return"):
                ended = float(row.get("episodes") or 1)
                rows.append((steps, float(row["episode_return"]), ended))
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}") from error
    found = np.array(rows, dtype=float).reshape(-1, 3)
    return steps, seconds, Curve(found[:, 0].astype(np.int64), found[:, 1], found[:, 2])


def _table(path: Path) -> tuple[list[list[str]], list[str]]:
    """The whole rows of a table, and its header; both empty without a file."""
    if not path.exists():
        return [], []
    try:
        lines = list(csv.reader(read_text(path).splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    header = lines[0] if lines else []
    return [row for row in lines[1:] if len(row) == len(header)], header


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


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return sealed.read(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
