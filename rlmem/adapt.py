"""How well agents adapt: trials on tasks of one split, episode by episode, beside references.

Everything plays the same tasks with the same seeds. Sums over a trial are what is compared; the
curve over its episodes is what shows adaptation. Numbers come with the intervals of `rlmem.stats`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from omegaconf import DictConfig, OmegaConf

from rlmem import evaluate, stats, tasks, train
from rlmem.envs.base import VecEnv, inside
from rlmem.envs.meta.reference import references
from rlmem.envs.meta.splits import TRAIN, Splits
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError, unknown

RANDOM, ORACLE = "random", "oracle"


class Scores(NamedTuple):
    """Returns [R, M, K] of R runs in the K episodes of M trials."""

    name: str
    returns: Float[ndarray, "R M K"]

    @property
    def trials(self) -> Float[ndarray, "R M"]:
        """The return of every whole trial."""
        return self.returns.sum(axis=-1)


def run(cfg: DictConfig) -> str:
    """`rlmem eval split=...`: writes a report (JSON) and a plot; returns the table.

    Raises `UsageError` where a run knows no such split, or was trained with other ones.
    """
    runs = [evaluate.load(path, cfg.checkpoint, cfg.device) for path in paths(cfg.run)]
    baseline = [evaluate.load(path, "last", cfg.device) for path in paths(cfg.baseline)]
    splits = _common_splits([*runs, *baseline], cfg.split)
    seed = runs[0].cfg.seed if cfg.seed is None else cfg.seed
    seeds = eval_seeds(seed, cfg.trials)
    # Agents that explore by chance must be let to.
    greedy = bool(cfg.deterministic)
    torch.manual_seed(seed)

    found = [Scores("agent", _play_runs(runs, cfg, seeds, greedy))]
    if baseline:
        found.append(Scores("baseline", _play_runs(baseline, cfg, seeds, greedy)))
    if cfg.references:
        found += _play_references(runs[0], cfg, seeds)
    about = {
        "split": cfg.split,
        "splits": splits.fingerprint(),
        "env": runs[0].cfg.env.name,
        "runs": [str(each.run_dir) for each in runs],
        "baseline": [str(each.run_dir) for each in baseline],
        "steps": [each.step for each in runs],
        "trials": cfg.trials,
        "episodes": found[0].returns.shape[-1],
        "trained_episodes": runs[0].cfg.env.episodes,
        "seed": seed,
        "deterministic": greedy,
    }
    report = about | {
        "scores": {each.name: describe(each, found) for each in found},
        "kinds": by_kind(found, _kinds(_maker(runs[0], cfg), seeds)),
    }
    folder = Path(cfg.out) if cfg.out else _folder([each.run_dir for each in runs])
    return _leave(report, found, folder, f"eval-{cfg.split}")


def paths(given: Any) -> list[str]:
    """One path or a list of them, as a list; none for null."""
    if given is None:
        return []
    return [str(path) for path in ([given] if isinstance(given, str) else given)]


def describe(scores: Scores, others: Sequence[Scores], seed: int = 0) -> dict[str, Any]:
    """What the report says of one player, beside `others`."""
    trials, episodes = scores.trials, scores.returns
    first, last = episodes[..., 0], episodes[..., -1]
    told: dict[str, Any] = {
        "mean": stats.estimate(stats.mean, trials, seed),
        "iqm": stats.estimate(stats.iqm, trials, seed),
        "worst_20_percent": stats.estimate(stats.worst, trials, seed),
        "mean_of_each_run": stats.spread(stats.mean, trials),
        "first_episode": stats.estimate(stats.mean, first, seed),
        "last_episode": stats.estimate(stats.mean, last, seed),
        "last_minus_first": stats.estimate(stats.mean, last - first, seed),
        "curve": [
            stats.estimate(stats.mean, episodes[..., k], seed) for k in range(episodes.shape[-1])
        ],
        "probability_of_improvement": {
            other.name: stats.improvement(trials, other.trials, seed)
            for other in others
            if other.name != scores.name
        },
    }
    bounds = {other.name: other.trials for other in others}
    if ORACLE in bounds:
        told["regret"] = stats.estimate(stats.mean, bounds[ORACLE] - trials, seed)
        if RANDOM in bounds:
            low, high = bounds[RANDOM].mean(), bounds[ORACLE].mean()
            share = (trials - low) / (high - low) if high > low else np.zeros_like(trials)
            told["share_of_oracle"] = stats.estimate(stats.mean, share, seed)
    return told


def by_kind(found: Sequence[Scores], kinds: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Of the tasks of each kind: how many trials, and every player's mean return of one."""
    told = {}
    for kind in sorted(set(kinds)):
        rows = np.array([each == kind for each in kinds])
        told[kind] = {"trials": int(rows.sum())} | {
            each.name: stats.estimate(stats.mean, each.trials[:, rows], seed) for each in found
        }
    return told


def table(report: Mapping[str, Any]) -> str:
    """The report in a few lines of text, for a terminal."""
    head = ("", "trial mean [95 %]", "IQM", "worst 20 %", "first", "last episode", "P(agent >)")
    wins = report["scores"]["agent"]["probability_of_improvement"]
    rows: list[tuple[str, ...]] = [head]
    for name, told in report["scores"].items():
        beats = f"{wins[name].value:.2f}" if name in wins else ""
        cells = (told[key] for key in ("iqm", "worst_20_percent", "first_episode", "last_episode"))
        rows.append((name, str(told["mean"]), *(f"{c.value:.3f}" for c in cells), beats))
    lines = _aligned(rows)
    if report["kinds"]:
        kinds: list[tuple[str, ...]] = [("trial mean of", *report["scores"])]
        for kind, told in report["kinds"].items():
            kinds.append((f"{kind} ({told['trials']})", *(str(told[k]) for k in report["scores"])))
        lines += ["", *_aligned(kinds)]
    how = "the best actions" if report["deterministic"] else "sampled actions"
    return "\n".join(
        [
            f"{report['env']}, split {report['split']}: {report['trials']} trials of "
            f"{report['episodes']} episodes (trained with {report['trained_episodes']}), {how}",
            *lines,
        ]
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _kinds(make: Callable[[int], VecEnv], seeds: list[int]) -> list[str]:
    """The kind of the task of each trial: which one it is depends on the seed alone."""
    probe = make(1)
    draws_tasks = inside(probe, TaskEnv) is not None
    probe.close()
    # Of a package's environments each is a whole simulator, and none of them has kinds.
    if not draws_tasks:
        return []
    env = make(len(seeds))
    env.reset(seeds)
    inner: TaskEnv[Any, Any] = inside(env, TaskEnv)
    kinds = inner.kinds(inner.task)
    env.close()
    return kinds


def _play_runs(
    runs: Sequence[evaluate.Trained], cfg: DictConfig, seeds: list[int], greedy: bool
) -> Float[ndarray, "R M K"]:
    return np.stack(
        [
            evaluate.play_trials(_always(each.policy), _maker(each, cfg), seeds, greedy)
            for each in runs
        ]
    )


def _always(policy: evaluate.Player) -> Callable[[VecEnv], evaluate.Player]:
    return lambda env: policy


def _reference(name: str) -> Callable[[VecEnv], evaluate.Player]:
    return lambda env: references(env)[name]


def _play_references(like: evaluate.Trained, cfg: DictConfig, seeds: list[int]) -> list[Scores]:
    """What is known to be good or bad on these tasks."""
    make = _maker(like, cfg)
    probe = make(1)
    names = list(references(probe))
    probe.close()
    return [
        Scores(name, evaluate.play_trials(_reference(name), make, seeds, True)[None])
        for name in names
    ]


def _maker(each: evaluate.Trained, cfg: DictConfig) -> Callable[[int], VecEnv]:
    """Environments as the run was trained in, but for the split and the length of trials."""
    saved = OmegaConf.merge(each.cfg, {"env": {"split": cfg.split}})
    assert isinstance(saved, DictConfig)
    if cfg.trial_episodes is not None:
        saved.env.episodes = cfg.trial_episodes
    return lambda num_envs: train.make_env(saved, num_envs, each.device)


def _common_splits(runs: Sequence[evaluate.Trained], split: str) -> Splits:
    """The splits that all runs were trained with; a `UsageError` if they are not the same."""
    splits = [_splits(each) for each in runs]
    for each, other in zip(runs, splits, strict=True):
        trained = each.cfg.env.split
        if TRAIN not in (trained, split):
            raise UsageError(
                f"{each.run_dir} was trained on the split {trained!r}: nothing is held out from it"
            )
        if split not in other.names():
            raise unknown(f"split of {each.cfg.env.name}:", split, other.names())
        same_env = each.cfg.env.name == runs[0].cfg.env.name
        if not same_env or other.fingerprint() != splits[0].fingerprint():
            raise UsageError(
                f"{runs[0].run_dir} and {each.run_dir} were trained on different tasks "
                f"({tasks.difference(splits[0].data(), other.data())}): they cannot be compared"
            )
    return splits[0]


def _splits(trained: evaluate.Trained) -> Splits:
    """The splits of a run's environment, held against those that it was trained with."""
    env = train.make_env(trained.cfg, 1, trained.device)
    try:
        return tasks.check(trained.run_dir, env)
    finally:
        env.close()


def _folder(run_dirs: Sequence[Path]) -> Path:
    """Where the report of some runs goes: into the run, or to where all of them are."""
    if len(run_dirs) == 1:
        return run_dirs[0]
    return Path(os.path.commonpath([path.absolute() for path in run_dirs]))


def _leave(report: dict[str, Any], found: Sequence[Scores], folder: Path, name: str) -> str:
    """Write the report and its plot; returns the table with where they are."""
    from rlmem.plot import curves

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.json.partial"
    returns = {each.name: each.returns.tolist() for each in found}
    partial.write_text(json.dumps(report | {"returns": returns}, indent=1) + "\n")
    partial.replace(folder / f"{name}.json")
    shown = {key: told["curve"] for key, told in report["scores"].items()}
    curves(
        shown,
        folder / f"{name}.png",
        title=f"{report['env']}: {report['split']}",
        x_label="episode of the trial",
        y_label="return (mean, 95 %)",
        mark=report["trained_episodes"],
    )
    return f"{table(report)}\n{folder / name}.json, .png"
