"""The cells of a benchmark: one training run each, with a name and the options of `rlmem train`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import yaml

from rlmem.errors import UsageError, reading, unknown

BENCHMARKS = Path(__file__).parents[1] / "configs" / "bench"
# Options that every name has, in this order; others only if their line has several values.
NAMED = ("env", "env.difficulty", "core")


class Cell(NamedTuple):
    """One run: the name of its folder, and its options as KEY=VALUE."""

    name: str
    overrides: tuple[str, ...]

    @property
    def options(self) -> dict[str, str]:
        """The options by key."""
        return dict(override.split("=", 1) for override in self.overrides)


class Benchmark(NamedTuple):
    """A named grid: lines of options, each one or more cells, and the number of seeds."""

    lines: list[list[str]]
    seeds: str


def load(name: str) -> Benchmark:
    """The benchmark of a YAML file, or one of the package by its name."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else BENCHMARKS / f"{name}.yaml"
    if not path.is_file():
        raise unknown("benchmark", name, [file.stem for file in BENCHMARKS.glob("*.yaml")])
    try:
        with reading(path):
            text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text)
        lines = [str(line).split() for line in found["cells"]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UsageError(f"{path} has no list `cells` of options: {error}") from error
    return Benchmark(lines, str(found.get("seeds", 1)))


def cells(lines: Iterable[Sequence[str]]) -> list[Cell]:
    """All cells of lines of KEY=VALUE, where values with commas are dimensions.

    Raises `UsageError` for text without `=`, and for two cells of the same name.
    """
    found: dict[str, Cell] = {}
    for options, varying in (each for line in lines for each in _expand(line)):
        name = _name(options, varying)
        overrides = tuple(f"{key}={value}" for key, value in options.items())
        if name in found:
            raise UsageError(f"two cells have the name {name}: give a line of options only once")
        found[name] = Cell(name, overrides)
    return list(found.values())


def seeds(text: str | Sequence[str]) -> str:
    """The seeds as values of a dimension: of their number, or of a list."""
    if not isinstance(text, str):
        return ",".join(text)
    if "," in text:
        return text
    if not re.fullmatch(r"[1-9]\d*", text):
        raise UsageError(f"seeds must be a number of seeds or a list like [0,1,2], not {text!r}")
    return ",".join(map(str, range(int(text))))


def _expand(line: Sequence[str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The options of each cell of a line, and the keys that have several values in it."""
    dimensions: dict[str, list[str]] = {}
    for each in line:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise UsageError(f"cannot read {each!r}: write options as KEY=VALUE")
        # A comma inside brackets or quotes belongs to the value.
        plain = not re.search(r"[\[\](){}'\"]", value)
        dimensions[key] = value.split(",") if plain else [value]
    varying = [key for key, values in dimensions.items() if len(values) > 1]
    for chosen in product(*dimensions.values()):
        yield dict(zip(dimensions, chosen, strict=True)), varying


def _name(options: dict[str, str], varying: Sequence[str]) -> str:
    parts = [options[key] for key in NAMED if key in options]
    more = [key for key in varying if key not in (*NAMED, "seed")]
    parts += [f"{key.rpartition('.')[2]}={options[key]}" for key in more]
    parts.append(f"seed{options.get('seed', '0')}")
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))
