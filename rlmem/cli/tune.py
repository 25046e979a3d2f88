"""`rlmem tune`: a search for options with Optuna, and the best ones as a file of tuned settings."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from rlmem.cli import plain
from rlmem.cli.third_party import CONFIGS
from rlmem.errors import UsageError, need, positive
from rlmem.files import atomic_write, expanded
from rlmem.runs.table import Table
from rlmem.runs.tune import Trial, Tuning, as_text

OBJECTIVES = ("return", "mean")
RESULTS = "trials.csv"
# Groups: they choose a file of options, so they are no options of a tuned setting.
CHOICES = ("env", "core", "algo")
SHOWN = 10


def run_tune(arguments: Sequence[str]) -> int:
    """Search, then print the best trials; 2 if no trial ran to its end."""
    need("optuna", "rlmem tune", "tune")
    names, options, others = plain.parse("tune", arguments, others=True)
    if names:
        raise UsageError(f"rlmem tune takes KEY=VALUE, not {names[0]!r} (rlmem tune --help)")
    for key in ("trials", "jobs", "seeds"):
        positive(key, options[key])
    if options["objective"] not in OBJECTIVES:
        raise UsageError(
            f"objective must be {' or '.join(OBJECTIVES)}, not {options['objective']!r}"
        )
    fixed, space = search_space(others)
    chosen = dict(each.split("=", 1) for each in fixed)
    _check(fixed, space)
    default = f"runs/tune-{_plain(chosen['env'])}-{chosen['algo']}"
    tuning = Tuning(
        expanded(options["dir"] or default),
        fixed,
        space,
        seeds=range(options["seeds"]),
        objective=options["objective"],
        prune=options["prune"],
    )
    tuning.run(options["trials"], options["jobs"], _Progress(tuning, options["trials"]).changed)
    finished = tuning.finished()
    for name, reason in tuning.failed.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    if not finished:
        print("no trial has ended: there are no results", file=sys.stderr)
        return 2
    print(_results(tuning, finished, chosen))
    return 0


def search_space(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The fixed options, and Optuna's distribution of each option with a range.

    Without a range, the space of the algorithm (`configs/tune/ALGO.yaml`) is searched.
    """
    fixed, ranges = {"env": "popgym-repeat", "core": "ffm", "algo": "ppo"}, {}
    for each in _parsed(overrides):
        key, _, value = str(each.input_line).partition("=")
        if key == "seed":
            raise UsageError("seed cannot be given: seeds=N has the seeds 0, 1, ... of each trial")
        if each.is_sweep_override():
            ranges[key] = each
            fixed.pop(key, None)
        else:
            fixed[key] = value
    if "algo" in ranges or "env" in ranges:
        raise UsageError("env and algo need one value each: rlmem bench compares several")
    if not ranges:
        path = CONFIGS / "tune" / f"{fixed['algo']}.yaml"
        if not path.exists():
            raise UsageError(f"algo={fixed['algo']} has no search space: give a range to an option")
        space = yaml.safe_load(path.read_text(encoding="utf-8"))
        lines = [f"{key}={value}" for key, value in space.items() if key not in fixed]
        ranges = {each.key_or_group: each for each in _parsed(lines)}
    return (
        [f"{key}={value}" for key, value in fixed.items()],
        {key: _distribution(key, each) for key, each in ranges.items()},
    )


def _parsed(overrides: Sequence[str]) -> list[Override]:
    from rlmem.cli.overrides import check, readable

    check(overrides)
    try:
        return OverridesParser.create().parse_overrides(readable(overrides))
    except HydraException as error:
        line = str(error).splitlines()[0]
        raise UsageError(f"cannot read the options: {line}") from error


def _distribution(key: str, override: Override) -> Any:
    """Optuna's distribution of a range in Hydra's grammar."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    sweep = override.value()
    try:
        if isinstance(sweep, ChoiceSweep):
            return CategoricalDistribution([_scalar(key, each) for each in sweep.list])
        if isinstance(sweep, RangeSweep):
            bounds: list[Any] = [sweep.start, sweep.stop, sweep.step]
            if all(isinstance(each, int) for each in bounds):
                return IntDistribution(bounds[0], bounds[1] - 1, step=bounds[2])
            return FloatDistribution(bounds[0], bounds[1], step=bounds[2])
        if isinstance(sweep, IntervalSweep):
            ends: list[Any] = [sweep.start, sweep.end]
            kind = IntDistribution if isinstance(ends[0], int) else FloatDistribution
            return kind(ends[0], ends[1], log="log" in sweep.tags)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{key}: {error}") from error
    raise UsageError(f"{key}={override.value()}: give interval(a,b), range(a,b) or choice(a,b)")


def _scalar(key: str, value: Any) -> Any:
    value = getattr(value, "text", value)  # quoted text
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"{key}: choose among numbers, text, true, false and null, not {value!r}")


def _check(fixed: Sequence[str], space: Mapping[str, Any]) -> None:
    """Compose the configuration of one trial for each core: wrong names fail before the search."""
    from omegaconf.errors import OmegaConfBaseException

    from rlmem.cli.hydra_errors import compose, to_usage_error
    from rlmem.cli.overrides import readable

    first = {
        key: each.choices[0] if hasattr(each, "choices") else each.low
        for key, each in space.items()
    }
    for core in space["core"].choices if "core" in space else [None]:
        options = first if core is None else first | {"core": core}
        overrides = readable([*fixed, *(f"{key}={as_text(x)}" for key, x in options.items())])
        try:
            compose("train", overrides)
        except (HydraException, OmegaConfBaseException) as error:
            raise to_usage_error(error, "train", overrides) from error


class _Progress:
    """A line for each trial that begins or ends."""

    def __init__(self, tuning: Tuning, trials: int) -> None:
        self.tuning, self.trials = tuning, trials

    def changed(self, trial: Trial, state: str) -> None:
        """Print the new state of a trial."""
        options = " ".join(f"{key}={_short(value)}" for key, value in trial.options.items())
        value = f"{self.tuning.objective} {trial.value:.3f}" if state == "done" else ""
        line = f"[{trial.number + 1}/{self.trials}] {state} {value} {options}"
        print(" ".join(line.split()), file=sys.stderr, flush=True)


def _results(tuning: Tuning, finished: Sequence[Trial], chosen: Mapping[str, str]) -> str:
    """The table of the best trials and the place of the tuned settings, which are written."""
    keys = list(tuning.space)
    rows = [
        [str(each.number), f"{each.value:.4f}", *(_short(each.options[key]) for key in keys)]
        for each in finished
    ]
    header = ["trial", tuning.objective, *keys]
    with (tuning.root / RESULTS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(
            [each.number, each.value, *(each.options[key] for key in keys)] for each in finished
        )
    name = f"{_plain(chosen['env'])}-{chosen['algo']}"
    path = tuning.root / "tuned" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    atomic_write(path, tuned_settings(tuning, finished[0]))
    counts = ", ".join(f"{count} {state}" for state, count in sorted(tuning.counts().items()))
    command = " ".join(["rlmem train", *tuning.options, *_groups(finished[0])])
    return "\n".join(
        [
            Table(header, rows[:SHOWN]).text(),
            f"trials: {counts}; all values: {tuning.root / RESULTS}",
            f"tuned settings: {path}; next: {command} --config-dir {tuning.root} tuned={name}",
        ]
    )


def tuned_settings(tuning: Tuning, best: Trial) -> str:
    """The options of a trial as a file of `configs/tuned`; groups (`core=NAME`) are a comment."""
    nested: dict[str, Any] = {}
    fixed = dict(each.split("=", 1) for each in tuning.options)
    for key, text in fixed.items():
        if key not in CHOICES:
            _put(nested, key, yaml.safe_load(text))
    for key, value in best.options.items():
        if key not in CHOICES:
            _put(nested, key, value)
    command = " ".join([*(f"{key}={fixed[key]}" for key in CHOICES if key in fixed)])
    seeds = f"{len(tuning.seeds)} seed" + ("s" if len(tuning.seeds) > 1 else "")
    comment = (
        f"best of {len(tuning.finished())} trials of rlmem tune {command} "
        f"{' '.join(_groups(best))}".rstrip()
        + f": {tuning.objective} {best.value:.4f} with {seeds}"
    )
    return f"# @package _global_\n# {comment}\n" + yaml.safe_dump(nested, sort_keys=False)


def _groups(trial: Trial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.options.items() if key in CHOICES]


def _put(nested: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        nested = nested.setdefault(part, {})
    nested[last] = value


def _plain(env: str) -> str:
    """A part of a file's name for an environment."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in env)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
