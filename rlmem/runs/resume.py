"""The start of a training, new or from a checkpoint: exactly there, or with new episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from rlmem.algos import Algorithm
from rlmem.envs.base import CannotContinue, VecEnv
from rlmem.envs.given import Given
from rlmem.policies import Policy
from rlmem.ranks import group
from rlmem.runs import checkpoint, compiling, precision, ranks
from rlmem.runs.build import build, options, seed_everything
from rlmem.runs.checkpoint import Checkpoint
from rlmem.runs.guard import EnvironmentFailure, closing

# Options of environments that change no episode.
SAME_EPISODES = ("vectorization", "check_obs", "check_actions")
NEW_LEG = "a new leg begins"


class Start(NamedTuple):
    """A training before its first iteration.

    `seeds_used` counts the seeds of all its environments so far. `evaluated` is the step of the
    last evaluation, and `score` the newest return. `line` says how a run resumes, and `logs` are
    those that its checkpoint describes.
    """

    env: VecEnv
    policy: Policy
    algo: Algorithm
    step: int
    seeds_used: int
    evaluated: int = 0
    score: float | None = None
    line: str | None = None
    logs: Mapping[str, Any] | None = None


def start(
    cfg: DictConfig,
    saved: Checkpoint | None,
    guard: Callable[[VecEnv], VecEnv],
    given: Given | None,
    stack: ExitStack,
) -> Start:
    """The training of `cfg`, at the checkpoint `saved` if there is one; `stack` closes it."""

    def made(used: int) -> tuple[VecEnv, Policy, Algorithm]:
        step, weights = (saved.step, saved.weights) if saved else (0, None)
        parts = build(cfg, step, guard, used, given, weights)
        stack.enter_context(closing(parts[0]))
        return parts

    if saved is None:
        parts = made(0)
        _own_random_numbers(cfg, None, 0)
        return Start(*parts, 0, cfg.num_envs)
    used = saved.seeds_used(cfg.num_envs)
    env, policy, algo = made(used)
    reason = _difference(cfg, saved.trainer) or _leg_end(cfg, saved.step, algo)
    if reason is None:
        try:
            _load(cfg, saved, env, policy, algo)
        except (CannotContinue, EnvironmentFailure) as error:
            reason = str(error)
        # All ranks go on, or none.
        reason = next(filter(None, group.gather(reason)), None)
        if reason is not None:
            env, policy, algo = made(used)
    if reason is not None:
        trainer = dict(saved.trainer)
        trainer["algo"] = {k: v for k, v in _part(trainer, "algo").items() if k != "place"}
        _load(cfg, saved._replace(trainer=trainer), env, policy, algo)
        used += cfg.num_envs
    trainer = saved.trainer
    evaluated = trainer.get("evaluated", saved.step)
    line = _line(cfg, saved, reason)
    logs = saved.manifest.logs if saved.manifest else None
    score = trainer.get("score")
    return Start(env, policy, algo, saved.step, used, evaluated, score, line, logs)


def settings(cfg: DictConfig) -> str:
    """The options that must not change if episodes are to go on, and the number of threads."""
    env = {key: value for key, value in options(cfg.env).items() if key not in SAME_EPISODES}
    found = {"num_envs": cfg.num_envs, "env": env, "threads": torch.get_num_threads()}
    found["precision"] = precision.of(cfg)
    found["inductor"] = compiling.of(cfg) == "inductor"
    return json.dumps(found, default=str)


def threads_of(saved: Checkpoint) -> int | None:
    """The number of threads of a checkpoint; None in those of older versions."""
    found = json.loads(saved.trainer["settings"]) if "settings" in saved.trainer else {}
    threads = found.get("threads")
    return threads if isinstance(threads, int) else None


def leg_end(step: int, total_steps: int, legs: int) -> int:
    """The step at which the leg of a run at `step` ends; the last one ends at `total_steps`."""
    done = step * legs // total_steps
    return min(total_steps, -(-(done + 1) * total_steps // legs))


def _load(cfg: DictConfig, saved: Checkpoint, env: VecEnv, policy: Policy, algo: Algorithm) -> None:
    saved.load_weights(policy)
    if group.several() or ranks.count_in(saved.trainer) > 1:
        saved = saved._replace(trainer=ranks.own_part(saved.trainer, env))
    saved.load_trainer(algo)
    _own_random_numbers(cfg, saved.trainer["rng"], saved.step)


def _own_random_numbers(cfg: DictConfig, state: Mapping[str, Any] | None, step: int) -> None:
    """Go on with the random numbers of this rank; without a `state`, a new rank begins its own."""
    if state is not None:
        checkpoint.set_rng_state(state)
    elif group.number():
        seed_everything(ranks.own_seed(cfg.seed, step))


def _difference(cfg: DictConfig, trainer: Mapping[str, Any]) -> str | None:
    """The reason for new episodes, as far as the checkpoint's values show; None without one."""
    if "settings" not in trainer:
        return "the checkpoint is of an older version"
    if not trainer["whole"]:
        return "it was stopped inside an iteration"
    if "place" not in _part(trainer, "algo"):
        return "its environment or algorithm cannot be saved in the middle of an episode"
    before, now = json.loads(trainer["settings"]), json.loads(settings(cfg))
    if before["num_envs"] != now["num_envs"]:
        return f"num_envs was {before['num_envs']}"
    keys = {**before["env"], **now["env"]}
    for key in keys:
        if before["env"].get(key) != now["env"].get(key):
            return f"env.{key} was {before['env'].get(key)}"
    return None


def _leg_end(cfg: DictConfig, step: int, algo: Algorithm) -> str | None:
    """A reason if `step` ended a leg: the next one begins with new episodes."""
    legs, last = cfg.get("legs", 1), max(step - algo.steps_per_iteration, 0)
    ended = step >= leg_end(last, cfg.total_steps, legs)
    return NEW_LEG if legs > 1 and step < cfg.total_steps and ended else None


def _line(cfg: DictConfig, saved: Checkpoint, reason: str | None) -> str | None:
    """How a run resumes, in one line; None for the legs of a run, which say nothing."""
    if cfg.get("legs", 1) > 1 and reason in (None, NEW_LEG):
        return None
    place = f"{cfg.resume} goes on at step {saved.step:,}"
    if reason is not None:
        return f"{place} with new episodes: {reason}"
    before = ranks.count_in(saved.trainer)
    if before != group.count():
        return (
            f"{place} in the same episodes, with other random numbers: the number of ranks was "
            f"{before}, not {group.count()}"
        )
    then, now = json.loads(saved.trainer["settings"]), json.loads(settings(cfg))
    changed = []
    if then["threads"] != now["threads"]:
        changed.append(f"{then['threads']} threads, not {now['threads']}")
    if (earlier := then.get("precision", "fp32")) != now["precision"]:
        changed.append(f"precision {earlier}, not {now['precision']}")
    if then.get("inductor", False) != now["inductor"]:
        changed.append("another choice of compile")
    rounded = f" (but for rounding: it had {', and '.join(changed)})" if changed else ""
    return f"{place} exactly where it was{rounded}"


def _part(trainer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of a trainer's state; empty if it has another type."""
    part = trainer.get(key)
    return part if isinstance(part, Mapping) else {}
