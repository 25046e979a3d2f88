"""Episodes in the terminal: what the player saw, did and got, a line for every step."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from rlmem import checkpoint, train
from rlmem.envs.base import VecEnv
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError, unknown
from rlmem.play.players import Agent, Human, Player, Random
from rlmem.play.table import Row, Table
from rlmem.play.words import Words

PLAYERS = ("agent", "random", "human")
CPU = torch.device("cpu")


def run(cfg: DictConfig) -> list[float]:
    """`rlmem play`: play and print `cfg.episodes` episodes; returns their returns."""
    name = cfg.player or ("random" if cfg.run is None else "agent")
    if name not in PLAYERS:
        raise unknown("player", name, PLAYERS)
    if name == "agent" and cfg.run is None:
        raise UsageError("player=agent needs run=<dir>, the folder that rlmem train left")
    seed = cfg.seed
    if seed is None:
        seed = 0 if cfg.run is None else train.load_config(cfg.run).seed
    env = train.make_env(cfg, 1, CPU)
    if name == "agent":
        env = train.telling(env, train.load_config(cfg.run).algo.name)
    try:
        words = Words(env)
        if cfg.reveal and words.env is None:
            raise UsageError(f"reveal=true: env {cfg.env.name!r} does not tell what it hides")
        player = _player(name, cfg, env, words, seed)
        table = Table(Console(highlight=False, soft_wrap=True), cfg.reveal)
        returns = []
        for number in eval_seeds(seed, cfg.episodes):
            table.say(f"{cfg.env.get('id', cfg.env.name)}, seed {number}, player: {name}")
            returns.append(_episode(env, player, words, table, number))
        return returns
    finally:
        env.close()


def _player(name: str, cfg: DictConfig, env: VecEnv, words: Words, seed: int) -> Player:
    torch.manual_seed(seed)
    if name == "human":
        return Human(env, words)
    if name == "random":
        return Random(env, seed)
    policy = train.make_policy(train.load_config(cfg.run), env)
    checkpoint.load(Path(cfg.run), cfg.checkpoint).load_weights(policy)
    return Agent(policy, cfg.deterministic)


def _episode(env: VecEnv, player: Player, words: Words, table: Table, seed: int) -> float:
    """One episode, printed; returns its return."""
    obs = env.reset([seed])
    total, t, done = 0.0, 0, False
    table.head()
    while not done:
        sees, hides = words.obs(obs), words.hidden()
        action = player(obs, t == 0)
        step = env.step(action)
        reward = float(step.reward) + 0.0  # which takes the sign from -0
        table.row(Row(str(t), sees, words.action(action), f"{reward:.4g}", hides), reward)
        total, t, obs = total + reward, t + 1, step.obs
        done = bool(step.terminated | step.truncated)
    table.row(Row(str(t), words.obs(step.final_obs)))
    how = "terminated" if step.terminated else "truncated"
    table.say(f"return {total:.4g}, {how} after {t} steps")
    return total
