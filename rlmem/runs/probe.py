"""Short measurements of an environment: random play, known scores, the speed of training."""

from __future__ import annotations

import copy
import time
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from rlmem.algos import Algorithm, LearnsLater
from rlmem.envs.base import VecEnv, find_wrapped
from rlmem.envs.meta.players import RandomPlayer
from rlmem.envs.meta.reference import references
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.envs.seeding import eval_seeds
from rlmem.runs import build, playing, precision, threads
from rlmem.runs.guard import closing, environment_errors
from rlmem.runs.scores import REFERENCES

# Number of environments, and of trials of the players that know the tasks.
COPIES, TRIALS = 32, 64


class RandomPlay(NamedTuple):
    """Rewards of all steps of random play, and lengths and returns of its complete episodes.

    With trials, an episode here is a whole trial.
    """

    steps: int
    seconds: float
    rewards: tuple[float, float]
    lengths: list[int]
    returns: list[float]


@torch.no_grad()
def play_randomly(env: VecEnv, seconds: float, episodes: int = 200, seed: int = 0) -> RandomPlay:
    """Play random actions for some seconds, or until so many episodes have ended."""
    torch.manual_seed(seed)
    player = RandomPlayer(env)
    with environment_errors():
        obs = env.reset(eval_seeds(seed, env.num_envs))
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    total, length = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=int)
    low, high = np.inf, -np.inf
    lengths: list[int] = []
    returns: list[float] = []
    steps, begun = 0, time.monotonic()
    while time.monotonic() - begun < seconds and len(returns) < episodes:
        with environment_errors():
            step = env.step(player.act(obs, (), start).action)
        obs, start, steps = step.obs, step.memory_reset, steps + env.num_envs
        reward, over = step.reward.double().cpu().numpy(), start.cpu().numpy()
        low, high = min(low, float(reward.min())), max(high, float(reward.max()))
        total, length = total + reward, length + 1
        lengths += length[over].tolist()
        returns += total[over].tolist()
        total, length = np.where(over, 0, total), np.where(over, 0, length)
    return RandomPlay(steps, time.monotonic() - begun, (low, high), lengths, returns)


def known_scores(cfg: DictConfig) -> dict[str, float]:
    """The returns of the best policy without memory and of the optimum, if they are known.

    Those of POPGym are in a table; an oracle is played here.
    """
    env = cfg.env
    if env.get("action_mask", False):  # a mask remembers past actions for the agent
        return {}
    if reference := REFERENCES.get(env.name, {}).get(env.get("difficulty", "")):
        previous = env.get("previous_action", False)
        memoryless = reference.memoryless_with_previous_action if previous else reference.memoryless
        return {"without memory": memoryless, "optimal": reference.optimal}
    device = torch.device("cpu")
    probe = build.make_env(cfg, 1, device)
    with closing(probe):
        players = references(probe)
        knows = "state" if find_wrapped(probe, TaskEnv) is None else "task"
    if "oracle" not in players:
        return {}
    returns = playing.play_trials(
        lambda env: references(env)["oracle"],
        lambda num_envs: build.make_env(cfg, num_envs, device),
        eval_seeds(0, TRIALS),
        True,
    )
    return {f"oracle, which knows the {knows}": float(returns.sum(axis=1).mean())}


def training_speed(cfg: DictConfig, seconds: float) -> float:
    """Steps per second of training, measured for about so many seconds.

    A replay is measured as if it could be learned from at once.
    """
    cfg = copy.deepcopy(cfg)
    for key in ("algo.learning_starts", "algo.replay.directory", "record"):
        if OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, 0 if key == "algo.learning_starts" else None)
    threads.decide(cfg, None)
    with threads.in_use(cfg.threads):
        env, _, algo = build.build(cfg)
        with closing(env):
            # The first iterations also import packages, allocate memory and fill the replay.
            warm = _seconds(cfg, algo)
            while isinstance(algo, LearnsLater) and algo.steps_until_learning > 0:
                warm += _seconds(cfg, algo)
                if warm > 4 * seconds:
                    break
            spent = [_seconds(cfg, algo)]
            while sum(spent) < seconds:
                spent.append(_seconds(cfg, algo))
        return algo.steps_per_iteration * len(spent) / sum(spent)


def _seconds(cfg: DictConfig, algo: Algorithm) -> float:
    """The time of one iteration."""
    begun = time.monotonic()
    with precision.context(precision.of(cfg), build.resolve_device(cfg.device)):
        algo.iterate(0.0)
    return max(time.monotonic() - begun, 1e-9)
