"""Splits of tasks: the domains of their parameters for training, and for held-out tasks."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from rlmem.envs import counter_rng
from rlmem.envs.base import VecEnv, find_wrapped
from rlmem.envs.constants import Constant
from rlmem.envs.counter_rng import RandomDraws
from rlmem.errors import UsageError, unknown

TRAIN, HELDOUT = "train", "heldout"


class Domain(ABC):
    """The possible values of one parameter of a task."""

    @abstractmethod
    def overlaps(self, other: Domain) -> bool:
        """Whether both domains contain a common value."""

    @abstractmethod
    def data(self) -> Any:
        """The complete definition, serialisable as JSON."""


@dataclass(frozen=True)
class Values(Domain):
    """A finite set of numbers, or of tuples of numbers of equal length; drawn uniformly."""

    values: tuple[Any, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Values:
        """The set of the elements of a list from YAML."""
        return cls(_tuples(values))

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("a set of values for tasks is empty")
        if len(set(self.values)) < len(self.values):
            raise UsageError(f"values for tasks are not all different: {_short(self.values)}")

    def overlaps(self, other: Domain) -> bool:
        """Whether both domains contain a common value."""
        if isinstance(other, Ranges):
            return other.overlaps(self)
        return isinstance(other, Values) and not set(self.values).isdisjoint(other.values)

    def data(self) -> Any:
        """The values in order, since tasks are drawn by index."""
        return ["values", *self.values]

    def draw(self, draws: RandomDraws) -> Tensor:
        """A random value for each environment, [M, ...], float32 or int64."""
        table = self._table.on(draws.device)
        return table.index_select(0, draws.below(len(self.values), 1)[0])

    def contains(self, drawn: Tensor) -> Bool[Tensor, "M"]:
        """Which of `drawn` [M, ...] are in the set."""
        same = self._table.on(drawn.device)[None] == drawn[:, None]
        return same.flatten(2).all(-1).any(1) if same.dim() > 2 else same.any(1)

    @cached_property
    def _table(self) -> Constant:
        return Constant(self.values)


@dataclass(frozen=True)
class Ranges(Domain):
    """A union of intervals [low, high); drawn uniformly."""

    intervals: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, intervals: Sequence[Any]) -> Ranges:
        """The union of the pairs of a list from YAML."""
        bounds = pairs("ranges for tasks are pairs [low, high]", intervals)
        return cls(tuple((float(low), float(high)) for low, high in bounds))

    def __post_init__(self) -> None:
        # In float32, as drawn: a range may be too narrow for it.
        bounds = torch.tensor(self.intervals).float()
        if not len(bounds) or (bounds[:, 0] >= bounds[:, 1]).any():
            raise UsageError(f"ranges for tasks need low < high, not {_short(self.intervals)}")
        if any(b[0] < a[1] for a, b in pairwise(sorted(self.intervals))):
            raise UsageError(f"ranges for tasks overlap: {_short(self.intervals)}")

    def overlaps(self, other: Domain) -> bool:
        """Whether both domains contain a common number."""
        if isinstance(other, Values):
            return any(low <= v < high for v in other.values for low, high in self.intervals)
        return isinstance(other, Ranges) and any(
            max(a[0], b[0]) < min(a[1], b[1]) for a in self.intervals for b in other.intervals
        )

    def data(self) -> Any:
        """The bounds."""
        return ["ranges", *self.intervals]

    def draw(self, draws: RandomDraws) -> Tensor:
        """A random number for each environment, float32 [M]."""
        low, high = self._bounds.on(draws.device).unbind(1)
        ends = (high - low).cumsum(0)
        way = draws.uniform(1)[0] * ends[-1]
        index = torch.searchsorted(ends, way, right=True).clamp(max=len(ends) - 1)
        number = high[index] - (ends[index] - way)
        # Rounding must not leave the interval.
        return torch.minimum(number.maximum(low[index]), torch.nextafter(high, low)[index])

    def contains(self, drawn: Tensor) -> Bool[Tensor, "M"]:
        """Which of `drawn` [M] are in one of the intervals."""
        low, high = self._bounds.on(drawn.device).unbind(1)
        return ((drawn[:, None] >= low) & (drawn[:, None] < high)).any(1)

    @cached_property
    def _bounds(self) -> Constant:
        return Constant(self.intervals)


@dataclass(frozen=True)
class Instances(Domain):
    """A distribution too wide for equal tasks: splits differ in the ids of tasks only.

    `name` and `parameters` identify the distribution; the environment draws from it.
    """

    name: str
    parameters: tuple[Any, ...] = field(default=())

    def overlaps(self, other: Domain) -> bool:
        """False: tasks are functions of their ids, and splits have no ids in common."""
        return False

    def data(self) -> Any:
        """The name and parameters of the distribution."""
        return ["instances", self.name, *self.parameters]


def hold_out(values: Sequence[Any], share: float, seed: int) -> tuple[Values, Values]:
    """The values for training, and the held-out ones: a fraction `share`, chosen by `seed`.

    Raises `UsageError` if one of the two is empty.
    """
    cut = round(share * len(values))
    if not 0 < cut < len(values):
        raise UsageError(
            f"holding out a fraction {share} of {len(values)} tasks leaves one side empty"
        )
    order = RandomDraws(counter_rng.keys([seed]), torch.zeros(1, dtype=torch.int64)).shuffle(
        len(values)
    )
    chosen = set(order[:cut, 0].tolist())
    sides = [[v for i, v in enumerate(values) if (i in chosen) == out] for out in (False, True)]
    return Values.of(sides[0]), Values.of(sides[1])


Domains = Mapping[str, Domain]


class Splits:
    """The domains of training tasks, and the changes of each held-out split.

    A held-out split changes the domains of some parameters. A changed domain must not overlap with
    that of training. A split without changes holds out instances, so one of the domains must be
    `Instances`. Raises `UsageError` for a split that overlaps with training.
    """

    def __init__(self, train: Domains, heldout: Domains | None = None, **others: Domains) -> None:
        changes = {HELDOUT: heldout or {}, **others}
        self.domains = {TRAIN: dict(train)}
        for keyword, changed in changes.items():
            # On the command line names of splits have hyphens.
            split = keyword.replace("_", "-")
            self.domains[split] = {**train, **changed}
            for name, domain in changed.items():
                if train[name].overlaps(domain):
                    raise UsageError(f"split {split!r} overlaps with training's in {name}")
            if not changed and not any(isinstance(d, Instances) for d in train.values()):
                raise UsageError(f"split {split!r} holds the same tasks as training")

    def __getitem__(self, split: str) -> dict[str, Domain]:
        if split not in self.domains:
            raise unknown("split", split, self.domains)
        return self.domains[split]

    def names(self) -> list[str]:
        """All splits, `train` first."""
        return list(self.domains)

    def data(self) -> dict[str, dict[str, Any]]:
        """The complete definition, serialisable as JSON."""
        return {
            split: {name: domain.data() for name, domain in domains.items()}
            for split, domains in self.domains.items()
        }

    def fingerprint(self) -> str:
        """16 hexadecimal digits of a hash of the complete definition."""
        text = json.dumps(self.data(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class DrawsTasks:
    """Base class of environments that draw tasks from a split, each for `episodes` episodes."""

    splits: Splits
    split: str
    episodes: int


def splits_of(env: VecEnv) -> Splits | None:
    """The splits of an environment, or of one that it wraps; None if it draws no tasks."""
    inner: DrawsTasks | None = find_wrapped(env, DrawsTasks)
    return None if inner is None else inner.splits


def pairs(what: str, values: Sequence[Any]) -> tuple[tuple[Any, Any], ...]:
    """A list of pairs from YAML as tuples; else a `UsageError` that starts with `what`."""
    found = _tuples(values)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in found):
        raise UsageError(f"{what}, not {_short(found)}")
    return found


def _tuples(values: Any) -> Any:
    return tuple(each if isinstance(each, int | float) else _tuples(each) for each in values)


def _short(values: tuple[Any, ...]) -> str:
    text = ", ".join(map(str, values[:4]))
    return text + (", .." if len(values) > 4 else "")
