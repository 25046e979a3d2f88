"""How good an agent is: episodes on seeds that training never sees, one seed an episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from omegaconf import DictConfig
from torch import Tensor

from rlmem import checkpoint, stats
from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.popgym.scores import memory_score
from rlmem.envs.seeding import eval_seeds
from rlmem.envs.trials import Trials
from rlmem.policies import Policy

# Environments that play at once; the result does not depend on it.
CHUNK = 128


@runtime_checkable
class Move(Protocol):
    """What a player does at one time step, and its memory after it."""

    @property
    def action(self) -> Tensors: ...

    @property
    def state(self) -> Any: ...


@runtime_checkable
class Player(Protocol):
    """What plays: a policy, or what it is compared with."""

    def initial_state(self, batch_size: int) -> Any: ...

    def act(self, obs: Tensors, state: Any, start: Tensor, deterministic: bool = False) -> Move: ...


def play(
    policy: Policy,
    make_env: Callable[[int], VecEnv],
    seeds: list[int],
    deterministic: bool = True,
    chunk: int = CHUNK,
) -> list[float]:
    """The return of one episode (of a trial: of all its episodes) for each seed.

    Each environment plays exactly one, so that short episodes do not count more often than long
    ones. `make_env` makes an environment of as many copies as it is told.
    """
    returns = play_trials(lambda env: policy, make_env, seeds, deterministic, chunk)
    return returns.sum(axis=1).tolist()


@torch.no_grad()
def play_trials(
    make_player: Callable[[VecEnv], Player],
    make_env: Callable[[int], VecEnv],
    seeds: list[int],
    deterministic: bool,
    chunk: int = CHUNK,
) -> Float[ndarray, "M K"]:
    """The returns of the K episodes of one trial for each seed (K = 1 where there are no trials).

    `make_player` is told the environment, which some players look into (the oracle).
    """
    parts = []
    for first in range(0, len(seeds), chunk):
        part = seeds[first : first + chunk]
        env = make_env(len(part))
        try:
            parts.append(per_episode(make_player(env), env, part, deterministic).cpu().numpy())
        finally:
            env.close()
    return np.concatenate(parts)


def per_episode(
    player: Player, env: VecEnv, seeds: list[int], deterministic: bool
) -> Float[Tensor, "N K"]:
    """The returns of what follows one reset, until the memory's end: a trial's K episodes, or one.

    What an environment plays after that does not count. float64, on the environment's device.
    """
    obs = env.reset(seeds)
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    over = ~start
    trials = env if isinstance(env, Trials) else None
    episodes = trials.episodes if trials else 1
    total = torch.zeros(env.num_envs, episodes, dtype=torch.float64, device=env.device)
    state = player.initial_state(env.num_envs)
    while not over.all():
        act = player.act(obs, state, start, deterministic)
        now = trials.episode if trials else torch.zeros_like(over, dtype=torch.int64)
        step = env.step(act.action)
        reward = torch.where(over, 0, step.reward).double()
        total.scatter_add_(1, now[:, None], reward[:, None])
        start = step.starts
        over |= start
        obs, state = step.obs, act.state
    return total


def summary(returns: list[float]) -> dict[str, Any]:
    """Mean, interquartile mean, deviation and extremes of the returns."""
    scores = np.asarray(returns, dtype=float)
    return {
        "episodes": len(returns),
        "return_mean": float(stats.mean(scores)),
        "return_iqm": float(stats.iqm(scores)),
        "return_std": float(scores.std()),
        "return_min": float(scores.min()),
        "return_max": float(scores.max()),
    }


class Trained(NamedTuple):
    """A trained policy, the configuration of its run, and the checkpoint that it is from."""

    run_dir: Path
    cfg: DictConfig
    policy: Policy
    step: int
    device: torch.device


def load(run_dir: str | Path, which: str | int = "last", device: str | None = None) -> Trained:
    """The agent of a run folder, on `device` (null: the run's)."""
    from rlmem import train

    saved = train.load_config(run_dir)
    where = train.resolve_device(device or saved.device)
    env = train.make_env(saved, 1, where)
    policy = train.make_policy(saved, env).to(where)
    env.close()
    point = checkpoint.load(run_dir, which)
    point.load_weights(policy)
    return Trained(Path(run_dir), saved, policy, point.step, where)


def run(cfg: DictConfig) -> dict[str, Any]:
    """`rlmem eval`: evaluate a checkpoint of a run; writes `eval.json` into its folder."""
    from rlmem import train

    agent = load(cfg.run, cfg.checkpoint, cfg.device)
    seed = agent.cfg.seed if cfg.seed is None else cfg.seed
    deterministic = True if cfg.deterministic is None else cfg.deterministic
    torch.manual_seed(seed)
    returns = play(
        agent.policy,
        lambda num_envs: train.make_env(agent.cfg, num_envs, agent.device),
        eval_seeds(seed, cfg.episodes),
        deterministic,
    )
    about = {"step": agent.step, "seed": seed, "deterministic": deterministic}
    return report(agent.run_dir, agent.cfg.env, about, returns)


def report(
    run_dir: Path, env: DictConfig, about: dict[str, Any], returns: list[float]
) -> dict[str, Any]:
    """What `eval.json` says of the returns in an environment; puts it there in one piece."""
    result = about | summary(returns)
    if "difficulty" in env:
        result["memory_score"] = memory_score(
            env.name, env.difficulty, env.get("previous_action", False), result["return_mean"]
        )
    partial = run_dir / "eval.json.partial"
    partial.write_text(json.dumps(result | {"returns": returns}, indent=2) + "\n")
    partial.replace(run_dir / "eval.json")
    return result
