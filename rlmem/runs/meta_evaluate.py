"""`rlmem eval split=...`: adaptation of agents in trials on tasks of one split.

Agents, baselines and reference players play the same tasks with the same seeds. They are compared
by the return of a whole trial; the returns over its episodes show adaptation. Intervals are those
of `rlmem.runs.stats`.
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

from rlmem.envs.base import VecEnv, find_wrapped
from rlmem.envs.meta.reference import references
from rlmem.envs.meta.splits import TRAIN, Splits
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError, unknown
from rlmem.files import atomic_write
from rlmem.runs import build, evaluate, playing, stats, task_splits
from rlmem.runs.folder import require_usable
from rlmem.runs.progress import Progress

RANDOM, BAYES, ORACLE = "random", "bayes", "oracle"

AgentFactory = Callable[[VecEnv], playing.AgentLike]


class Scores(NamedTuple):
    """Returns [R, M, K] of R runs in the K episodes of M trials."""

    name: str
    returns: Float[ndarray, "R M K"]

    @property
    def trials(self) -> Float[ndarray, "R M"]:
        """The returns of whole trials."""
        return self.returns.sum(axis=-1)


def run(cfg: DictConfig) -> str:
    """Evaluate runs on a split; writes a report (JSON) and a plot, returns a table.

    Raises `UsageError` if a run has no such split, or was trained with other splits.
    """
    trusted = cfg.trust, cfg.environment
    runs = [
        evaluate.load_run(path, cfg.checkpoint, cfg.device, *trusted) for path in _paths(cfg.run)
    ]
    baseline = [
        evaluate.load_run(path, "last", cfg.device, *trusted) for path in _paths(cfg.baseline)
    ]
    splits = _common_splits([*runs, *baseline], cfg.split)
    seed = runs[0].cfg.seed if cfg.seed is None else cfg.seed
    seeds = eval_seeds(seed, cfg.trials)
    # By default actions are sampled: agents may explore by chance.
    deterministic = bool(cfg.deterministic)
    folder = require_usable("out", cfg.out or _report_folder([each.run_dir for each in runs]))
    scores, unfinished = _play_all(runs, baseline, cfg, seed, deterministic)
    settings = {
        "split": cfg.split,
        "splits": splits.fingerprint(),
        "env": runs[0].cfg.env.name,
        "runs": [str(trained.run_dir) for trained in runs],
        "baseline": [str(trained.run_dir) for trained in baseline],
        "steps": [trained.step for trained in runs],
        "trials": cfg.trials,
        "episodes": scores[0].returns.shape[-1],
        "trained_episodes": runs[0].cfg.env.episodes,
        "seed": seed,
        "deterministic": deterministic,
        "unfinished": unfinished,
    }
    report = settings | {
        "scores": {each.name: summarize(each, scores) for each in scores},
        "kinds": summarize_kinds(scores, _task_kinds(_env_factory(runs[0], cfg), seeds)),
    }
    return _write_report(report, scores, folder, f"eval-{cfg.split}")


def _paths(value: Any) -> list[str]:
    """A path, a list of paths or None, as a list of paths."""
    if value is None:
        return []
    return [str(path) for path in ([value] if isinstance(value, str) else value)]


def summarize(scores: Scores, others: Sequence[Scores], seed: int = 0) -> dict[str, Any]:
    """The statistics of one agent in the report, compared with `others`."""
    trials, episodes = scores.trials, scores.returns
    first, last = episodes[..., 0], episodes[..., -1]
    summary: dict[str, Any] = {
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
    if BAYES in bounds:
        summary["bayes_regret"] = stats.estimate(stats.mean, bounds[BAYES] - trials, seed)
    if ORACLE in bounds:
        summary["regret"] = stats.estimate(stats.mean, bounds[ORACLE] - trials, seed)
        if RANDOM in bounds:
            low, high = bounds[RANDOM].mean(), bounds[ORACLE].mean()
            share = (trials - low) / (high - low) if high > low else np.zeros_like(trials)
            summary["share_of_oracle"] = stats.estimate(stats.mean, share, seed)
    return summary


def summarize_kinds(
    scores: Sequence[Scores], kinds: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """For each kind of task: the number of trials, and each agent's mean return of a trial."""
    summary = {}
    for kind in sorted(set(kinds)):
        rows = np.array([each == kind for each in kinds])
        summary[kind] = {"trials": int(rows.sum())} | {
            each.name: stats.estimate(stats.mean, each.trials[:, rows], seed) for each in scores
        }
    return summary


def table(report: Mapping[str, Any]) -> str:
    """The report as a table for a terminal."""
    head = ("", "trial mean [95 %]", "IQM", "worst 20 %", "first", "last episode", "P(agent >)")
    # Columns of tasks with these players.
    regrets = {"regret": "regret", "bayes_regret": "to bayes"}
    agent = report["scores"]["agent"]
    wins, found = agent["probability_of_improvement"], [key for key in regrets if key in agent]
    rows: list[tuple[str, ...]] = [(*head, *(regrets[key] for key in found))]
    for name, summary in report["scores"].items():
        win = f"{wins[name].value:.2f}" if name in wins else ""
        keys = ("iqm", "worst_20_percent", "first_episode", "last_episode")
        cells, lost = ([f"{summary[key].value:.3f}" for key in each] for each in (keys, found))
        rows.append((name, str(summary["mean"]), *cells, win, *lost))
    lines = _align(rows)
    if report["kinds"]:
        kinds: list[tuple[str, ...]] = [("trial mean of", *report["scores"])]
        for kind, summary in report["kinds"].items():
            means = (str(summary[name]) for name in report["scores"])
            kinds.append((f"{kind} ({summary['trials']})", *means))
        lines += ["", *_align(kinds)]
    actions = "most likely actions" if report["deterministic"] else "sampled actions"
    return "\n".join(
        [
            f"{report['env']}, split {report['split']}: {report['trials']} trials of "
            f"{report['episodes']} episodes ({report['trained_episodes']} in training), {actions}",
            *lines,
        ]
    )


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _task_kinds(make_env: Callable[[int], VecEnv], seeds: list[int]) -> list[str]:
    """The kind of each trial's task, which depends on the seed alone; empty without kinds."""
    probe = make_env(1)
    draws_tasks = find_wrapped(probe, TaskEnv) is not None
    probe.close()
    # Environments of other packages have no kinds, and each copy is a costly simulator.
    if not draws_tasks:
        return []
    env = make_env(len(seeds))
    env.reset(seeds)
    inner: TaskEnv = find_wrapped(env, TaskEnv)
    kinds = inner.distribution.kinds(inner.task)
    env.close()
    return kinds


def _play_all(
    runs: Sequence[evaluate.Trained],
    baseline: Sequence[evaluate.Trained],
    cfg: DictConfig,
    seed: int,
    deterministic: bool,
) -> tuple[list[Scores], int]:
    """The scores of all agents and reference players, and the number of unfinished trials."""
    names = _reference_names(runs[0], cfg) if cfg.references else []
    seeds = eval_seeds(seed, cfg.trials)
    total = len(seeds) * (len(runs) + len(baseline) + len(names))
    max_steps = cfg.eval_max_steps or runs[0].cfg.get("eval_max_steps", playing.MAX_STEPS)

    def play(trained: evaluate.Trained, agent: AgentFactory, greedy: bool) -> ndarray:
        make_env = _env_factory(trained, cfg)
        return playing.play_trials(agent, make_env, seeds, greedy, watch=watch)

    torch.manual_seed(seed)
    with Progress("trials", total) as progress:
        watch = playing.Watch(max_steps, progress)
        scores = []
        for name, group in (("agent", runs), ("baseline", baseline)):
            played = [play(run, _agent_factory(run.policy), deterministic) for run in group]
            scores += [Scores(name, np.stack(played))] if played else []
        for name in names:
            scores.append(Scores(name, play(runs[0], _reference_factory(name), True)[None]))
    evaluate.print_unfinished(watch, f"{total} trials", runs[0].cfg)
    return scores, watch.unfinished


def _agent_factory(agent: playing.AgentLike) -> AgentFactory:
    return lambda env: agent


def _reference_factory(name: str) -> AgentFactory:
    return lambda env: references(env)[name]


def _reference_names(trained: evaluate.Trained, cfg: DictConfig) -> list[str]:
    """The reference players of a run's environment."""
    probe = _env_factory(trained, cfg)(1)
    names = list(references(probe))
    probe.close()
    return names


def _env_factory(trained: evaluate.Trained, cfg: DictConfig) -> Callable[[int], VecEnv]:
    """Makes the run's environment with the split and trial length of `cfg`."""
    saved = OmegaConf.merge(trained.cfg, {"env": {"split": cfg.split}})
    assert isinstance(saved, DictConfig)
    if cfg.trial_episodes is not None:
        saved.env.episodes = cfg.trial_episodes
    return lambda num_envs: build.make_env(saved, num_envs, trained.device)


def _common_splits(runs: Sequence[evaluate.Trained], split: str) -> Splits:
    """The splits that all runs were trained with; a `UsageError` if they differ."""
    splits = [_splits(trained) for trained in runs]
    for trained, other in zip(runs, splits, strict=True):
        trained_split = trained.cfg.env.split
        if TRAIN not in (trained_split, split):
            raise UsageError(
                f"{trained.run_dir} was trained on the split {trained_split!r}: "
                "it has no held-out tasks"
            )
        if split not in other.names():
            raise unknown(f"split of {trained.cfg.env.name}:", split, other.names())
        same_env = trained.cfg.env.name == runs[0].cfg.env.name
        if not same_env or other.fingerprint() != splits[0].fingerprint():
            difference = task_splits.difference(splits[0].data(), other.data())
            raise UsageError(
                f"cannot compare {runs[0].run_dir} and {trained.run_dir}: "
                f"they were trained on different tasks ({difference})"
            )
    return splits[0]


def _splits(trained: evaluate.Trained) -> Splits:
    """The splits of a run's environment, checked against those used in training."""
    env = build.make_env(trained.cfg, 1, trained.device)
    try:
        return task_splits.check(trained.run_dir, env)
    finally:
        env.close()


def _report_folder(run_dirs: Sequence[Path]) -> Path:
    """The folder of the report: the run folder, or the common parent of several."""
    if len(run_dirs) == 1:
        return run_dirs[0]
    return Path(os.path.commonpath([path.absolute() for path in run_dirs]))


def _write_report(report: dict[str, Any], scores: Sequence[Scores], folder: Path, name: str) -> str:
    """Write the report and its plot; returns the table, followed by their paths."""
    from rlmem.runs.plot import curves

    folder.mkdir(parents=True, exist_ok=True)
    returns = {each.name: each.returns.tolist() for each in scores}
    text = json.dumps(report | {"returns": returns}, indent=1) + "\n"
    atomic_write(folder / f"{name}.json", text)
    trained, played = report["trained_episodes"], report["episodes"]
    more = f" (dotted: the last of {trained} in training)" if trained < played else ""
    curves(
        {key: summary["curve"] for key, summary in report["scores"].items()},
        folder / f"{name}.png",
        title=f"{report['env']}: {report['split']}",
        x_label=f"episode of the trial{more}",
        y_label="return (mean, 95 %)",
        mark=trained,
    )
    return f"{table(report)}\n{folder / name}.json, .png"
