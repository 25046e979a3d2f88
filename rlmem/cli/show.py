"""`rlmem show`: an environment, its known scores, its settings and the time of a training."""

from __future__ import annotations

from statistics import mean

import torch
from omegaconf import DictConfig

from rlmem.cli.help import CONFIGS, first_comment, options, table
from rlmem.envs.base import find_wrapped
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.policies import describe_inputs
from rlmem.runs import build, probe
from rlmem.runs.guard import EnvironmentFailure, closing

# Seconds of random play, and of training.
PLAY, TRAIN = 1.0, 2.0
Rows = list[tuple[str, str]]


def run(cfg: DictConfig) -> str:
    """The text about the environment of `cfg`, a configuration of `rlmem train`."""
    with closing(build.make_env(cfg, probe.COPIES, torch.device("cpu"))) as env:
        inputs = describe_inputs(build.make_policy(cfg, env))
        play = probe.play_randomly(env, PLAY)
        trials: Trials | None = find_wrapped(env, Trials)
        actions = [f"{key}: {space}" for key, space in env.action_space.items()]
    several = 1 if trials is None else trials.episodes
    rows: Rows = [("observations", line) for line in inputs.splitlines()]
    rows += [("actions", line) for line in actions]
    rows += [("rewards", f"{play.rewards[0]:.4g} to {play.rewards[1]:.4g} in random play")]
    rows += [("episodes" if several == 1 else "trials", lengths(play, several))]
    rows += _scores(cfg, play)
    rows += _tuned(cfg)
    rows += [("training", _time(cfg))]
    return "\n".join([_title(cfg), *table(once(rows))])


def once(rows: Rows) -> Rows:
    """The rows, without a label that is that of the row before."""
    before = ["", *(label for label, _ in rows)]
    return [("" if a == label else label, text) for a, (label, text) in zip(before, rows)]  # noqa: B905


def lengths(play: probe.RandomPlay, episodes: int = 1) -> str:
    """The lengths of the episodes, or of trials of several `episodes`, in random play."""
    unit = "episode" if episodes == 1 else "trial"
    if not play.lengths:
        return f"no {unit} ended in {play.steps:,} random steps ({play.seconds:.1f} s)"
    low, high = min(play.lengths), max(play.lengths)
    steps = f"{low:,}" if low == high else f"{low:,} to {high:,} (mean {mean(play.lengths):,.0f})"
    joined = "" if episodes == 1 else f", {episodes} episodes each"
    return f"{steps} steps in {len(play.lengths)} random {unit}s{joined}"


def _title(cfg: DictConfig) -> str:
    name = cfg.env.name
    file = CONFIGS / "env" / f"{name}.yaml"
    if "id" in cfg.env or not file.exists():
        return str(cfg.env.get("id", name))
    return f"{name}: {first_comment(file)}"


def _scores(cfg: DictConfig, play: probe.RandomPlay) -> Rows:
    """The returns of random actions, and of the best policies as far as they are known."""
    known = probe.known_scores(cfg)
    scores = {"random actions": mean(play.returns)} if play.returns else {}
    rows = [("returns", f"{score:.3f}  {who}") for who, score in (scores | known).items()]
    return rows if known else [*rows, ("returns", "the optimum is not known")]


def _tuned(cfg: DictConfig) -> Rows:
    """The tuned settings of the environment and the algorithm."""
    name = f"{cfg.env.name}-{cfg.algo.name}"
    file = CONFIGS / "tuned" / f"{name}.yaml"
    if not file.exists():
        return [("tuned", f"no settings for this environment and algo={cfg.algo.name}")]
    settings = ", ".join(f"{option.key}={option.default}" for option in options(file))
    return [("tuned", f"{name}: {first_comment(file)}"), ("tuned", settings)]


def _time(cfg: DictConfig) -> str:
    """The expected time of a training with these settings."""
    asked = f"{cfg.total_steps:,} steps of {cfg.algo.name} with {cfg.core.name}"
    try:
        speed = probe.training_speed(cfg, TRAIN)
    except EnvironmentFailure:
        raise
    except UsageError as error:
        return f"{asked}: not measured ({error})"
    return f"{asked}: about {duration(cfg.total_steps / speed)} ({speed:,.0f} steps/s here)"


def duration(seconds: float) -> str:
    """A time in its unit."""
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.0f} s"
