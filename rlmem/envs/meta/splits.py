"""What tasks may be: domains of their parameters, for training and held out from it."""

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

from rlmem.envs import streams
from rlmem.envs.streams import Draws
from rlmem.errors import UsageError, unknown

TRAIN, HELDOUT = "train", "heldout"


class Domain(ABC):
    """What one parameter of a task may be."""

    @abstractmethod
    def overlaps(self, other: Domain) -> bool:
        """Whether a task of each could have this parameter in common."""

    @abstractmethod
    def data(self) -> Any:
        """All that defines it, as JSON can hold it."""


@dataclass(frozen=True)
class Values(Domain):
    """A finite set: numbers, or equally long tuples of numbers; each is drawn equally often."""

    values: tuple[Any, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Values:
        """The set of what a list from YAML holds."""
        return cls(_tuples(values))

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("a set of values for tasks is empty")
        if len(set(self.values)) < len(self.values):
            raise UsageError(f"values for tasks are not all different: {_short(self.values)}")

    def overlaps(self, other: Domain) -> bool:
        """Whether a value is in both."""
        if isinstance(other, Ranges):
            return other.overlaps(self)
        return isinstance(other, Values) and not set(self.values).isdisjoint(other.values)

    def data(self) -> Any:
        """The values in order, as the index of each is what is drawn."""
        return ["values", *self.values]

    def draw(self, draws: Draws) -> Tensor:
        """One of them for each environment, [M, ...], float32 or int64."""
        table = self._table.to(draws.device)
        return table.index_select(0, draws.below(len(self.values), 1)[0])

    def contains(self, drawn: Tensor) -> Bool[Tensor, "M"]:
        """Which of `drawn` [M, ...] are in it."""
        same = self._table.to(drawn.device)[None] == drawn[:, None]
        return same.flatten(2).all(-1).any(1) if same.dim() > 2 else same.any(1)

    @cached_property
    def _table(self) -> Tensor:
        # Integers are int64, floats float32, as torch has it.
        return torch.tensor(self.values)


@dataclass(frozen=True)
class Ranges(Domain):
    """Numbers of some intervals [low, high), uniformly over all of them."""

    intervals: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, intervals: Sequence[Any]) -> Ranges:
        """The intervals of a list of pairs from YAML."""
        bounds = pairs("ranges for tasks are pairs [low, high]", intervals)
        return cls(tuple((float(low), float(high)) for low, high in bounds))

    def __post_init__(self) -> None:
        # As they are drawn: a range may be too narrow for float32.
        bounds = torch.tensor(self.intervals).float()
        if not len(bounds) or (bounds[:, 0] >= bounds[:, 1]).any():
            raise UsageError(f"ranges for tasks need low < high, not {_short(self.intervals)}")
        if any(b[0] < a[1] for a, b in pairwise(sorted(self.intervals))):
            raise UsageError(f"ranges for tasks overlap: {_short(self.intervals)}")

    def overlaps(self, other: Domain) -> bool:
        """Whether a number is in both."""
        if isinstance(other, Values):
            return any(low <= v < high for v in other.values for low, high in self.intervals)
        return isinstance(other, Ranges) and any(
            max(a[0], b[0]) < min(a[1], b[1]) for a in self.intervals for b in other.intervals
        )

    def data(self) -> Any:
        """The bounds."""
        return ["ranges", *self.intervals]

    def draw(self, draws: Draws) -> Tensor:
        """One number for each environment, float32 [M]."""
        low, high = torch.tensor(self.intervals, device=draws.device).unbind(1)
        ends = (high - low).cumsum(0)
        way = draws.uniform(1)[0] * ends[-1]
        part = torch.searchsorted(ends, way, right=True).clamp(max=len(ends) - 1)
        number = high[part] - (ends[part] - way)
        # Rounding must not lead out of the interval.
        return torch.minimum(number.maximum(low[part]), torch.nextafter(high, low)[part])

    def contains(self, drawn: Tensor) -> Bool[Tensor, "M"]:
        """Which of `drawn` [M] are in it."""
        low, high = torch.tensor(self.intervals, device=drawn.device).unbind(1)
        return ((drawn[:, None] >= low) & (drawn[:, None] < high)).any(1)


@dataclass(frozen=True)
class Instances(Domain):
    """A distribution so wide that no two tasks are alike: splits differ in the tasks' ids.

    `name` and `parameters` say which distribution it is; the environment draws from it.
    """

    name: str
    parameters: tuple[Any, ...] = field(default=())

    def overlaps(self, other: Domain) -> bool:
        """Never: a task is a function of its id, and no two splits have one in common."""
        return False

    def data(self) -> Any:
        """The distribution."""
        return ["instances", self.name, *self.parameters]


def hold_out(values: Sequence[Any], share: float, seed: int) -> tuple[Values, Values]:
    """Some values for training and, of all, a `share` that is held out, chosen by `seed`.

    Raises `UsageError` where one of the two would be empty.
    """
    cut = round(share * len(values))
    if not 0 < cut < len(values):
        raise UsageError(
            f"a share of {share} held out of {len(values)} tasks leaves none on one of the sides"
        )
    order = Draws(streams.keys([seed]), torch.zeros(1, dtype=torch.int64)).shuffle(len(values))
    chosen = set(order[:cut, 0].tolist())
    parts = [[v for i, v in enumerate(values) if (i in chosen) == out] for out in (False, True)]
    return Values.of(parts[0]), Values.of(parts[1])


Domains = Mapping[str, Domain]


class Splits:
    """The domains of training tasks, and what held-out ones have instead.

    A held-out split changes the domains of some parameters, and none that it changes may overlap
    with training's. One that changes nothing holds out instances: there must be a parameter that
    tells them apart. Raises `UsageError` for a split that overlaps with training.
    """

    def __init__(self, train: Domains, heldout: Domains | None = None, **others: Domains) -> None:
        changes = {HELDOUT: heldout or {}, **others}
        self.domains = {TRAIN: dict(train)}
        for keyword, changed in changes.items():
            # Names of splits are words of a command line.
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
        """All that defines them, as JSON can hold it."""
        return {
            split: {name: domain.data() for name, domain in domains.items()}
            for split, domains in self.domains.items()
        }

    def fingerprint(self) -> str:
        """16 hexadecimal digits: the same just where all splits are defined the same."""
        text = json.dumps(self.data(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def splits_of(env: Any) -> Splits | None:
    """The splits of an environment, or of the one that it wraps; None if it draws no tasks."""
    while env is not None and not isinstance(getattr(env, "splits", None), Splits):
        env = getattr(env, "env", None)
    return None if env is None else env.splits


def pairs(what: str, values: Sequence[Any]) -> tuple[tuple[Any, Any], ...]:
    """A list of pairs from YAML as tuples; if it is none, a `UsageError` says `what` they are."""
    found = _tuples(values)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in found):
        raise UsageError(f"{what}, not {_short(found)}")
    return found


def _tuples(values: Any) -> Any:
    return tuple(each if isinstance(each, int | float) else _tuples(each) for each in values)


def _short(values: tuple[Any, ...]) -> str:
    text = ", ".join(map(str, values[:4]))
    return text + (", .." if len(values) > 4 else "")
