"""How good an agent is: episodes on seeds that training never sees, one seed an episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from rlmem import checkpoint
from rlmem.envs.base import VecEnv
from rlmem.envs.popgym.scores import memory_score
from rlmem.envs.seeding import eval_seeds
from rlmem.policies import Policy

# Environments that play at once; the result does not depend on it.
CHUNK = 128


@torch.no_grad()
def play(
    policy: Policy,
    make_env: Callable[[int], VecEnv],
    seeds: list[int],
    deterministic: bool = True,
    chunk: int = CHUNK,
) -> list[float]:
    """The return of one episode for each seed.

    Each environment plays exactly one episode, so that short episodes do not count more often than
    long ones. `make_env` makes an environment of as many copies as it is told.
    """
    returns: list[float] = []
    for first in range(0, len(seeds), chunk):
        part = seeds[first : first + chunk]
        env = make_env(len(part))
        try:
            returns += _play_once(policy, env, part, deterministic)
        finally:
            env.close()
    return returns


def _play_once(policy: Policy, env: VecEnv, seeds: list[int], deterministic: bool) -> list[float]:
    obs = env.reset(seeds)
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    over = ~start
    total = torch.zeros(env.num_envs, dtype=torch.float64, device=env.device)
    state = policy.initial_state(env.num_envs)
    while not over.all():
        act = policy.act(obs, state, start, deterministic)
        step = env.step(act.action)
        total += torch.where(over, 0, step.reward)
        start = step.starts
        over |= start
        obs, state = step.obs, act.state
    return total.tolist()


def summary(returns: list[float]) -> dict[str, Any]:
    """Mean, interquartile mean, deviation and extremes of the returns."""
    sorted_returns = np.sort(np.asarray(returns))
    cut = len(returns) // 4
    return {
        "episodes": len(returns),
        "return_mean": float(sorted_returns.mean()),
        "return_iqm": float(sorted_returns[cut : len(returns) - cut].mean()),
        "return_std": float(sorted_returns.std()),
        "return_min": float(sorted_returns[0]),
        "return_max": float(sorted_returns[-1]),
    }


def run(cfg: DictConfig) -> dict[str, Any]:
    """`rlmem eval`: evaluate a checkpoint of a run; writes `eval.json` into its folder."""
    from rlmem import train

    run_dir = Path(cfg.run)
    saved = train.load_config(run_dir)
    device = train.resolve_device(cfg.device or saved.device)
    seed = saved.seed if cfg.seed is None else cfg.seed

    def make_env(num_envs: int) -> VecEnv:
        return train.make_env(saved, num_envs, device)

    env = make_env(1)
    policy = train.make_policy(saved, env).to(device)
    env.close()
    point = checkpoint.load(run_dir, cfg.checkpoint)
    point.load_weights(policy)
    torch.manual_seed(seed)
    returns = play(policy, make_env, eval_seeds(seed, cfg.episodes), cfg.deterministic)
    about = {"step": point.step, "seed": seed, "deterministic": cfg.deterministic}
    return report(run_dir, saved.env, about, returns)


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
