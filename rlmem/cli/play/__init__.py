"""`rlmem play`: prints episodes in the terminal, one row per step."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console

from rlmem.cli.play.actions import ActionSource, HumanActions, PolicyActions, RandomActions
from rlmem.cli.play.describe import Describer
from rlmem.cli.play.table import StepRow, Table
from rlmem.envs.base import VecEnv
from rlmem.envs.meta.reference import references
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError, unknown
from rlmem.runs import build, checkpoint
from rlmem.runs.guard import closing, environment_errors
from rlmem.runs.size_limit import limited

# Values of the option `player`.
PLAYERS = ("agent", "random", "human", "oracle")
CPU = torch.device("cpu")


def run(cfg: DictConfig) -> list[float]:
    """Play and print `cfg.episodes` episodes; returns their returns."""
    name = cfg.player or ("random" if cfg.run is None else "agent")
    if name not in PLAYERS:
        raise unknown("player", name, PLAYERS)
    if name == "agent" and cfg.run is None:
        raise UsageError("player=agent needs run=<dir>, a folder written by rlmem train")
    seed = cfg.seed
    if seed is None:
        seed = 0 if cfg.run is None else build.load_config(cfg.run).seed
    env = build.make_env(cfg, 1, CPU)
    if name == "agent":
        env = build.with_history(env, build.load_config(cfg.run).algo.name)
    with closing(env):
        describer = Describer(env)
        if cfg.reveal and describer.env is None:
            raise UsageError(f"reveal=true: env {cfg.env.name!r} cannot show its hidden state")
        actions = _action_source(name, cfg, env, describer, seed)
        table = Table(Console(highlight=False, soft_wrap=True), cfg.reveal)
        returns = []
        for episode_seed in eval_seeds(seed, cfg.episodes):
            title = cfg.env.get("id", cfg.env.name)
            table.print_line(f"{title}, seed {episode_seed}, player: {name}")
            returns.append(
                _play_episode(env, actions, describer, table, episode_seed, cfg.eval_max_steps)
            )
        return returns


def _action_source(
    name: str, cfg: DictConfig, env: VecEnv, describer: Describer, seed: int
) -> ActionSource:
    torch.manual_seed(seed)
    if name == "human":
        return HumanActions(env, describer)
    if name == "random":
        return RandomActions(env, seed)
    if name == "oracle":
        players = references(env)
        if name not in players:
            raise UsageError(f"player=oracle: env {cfg.env.name!r} has no oracle")
        return PolicyActions(players[name], True)
    loaded = checkpoint.load(Path(cfg.run), cfg.checkpoint, trainer=False)
    with limited(None if cfg.trust else loaded.weights, cfg.run):
        policy = build.make_policy(build.load_config(cfg.run), env)
        policy.initial_state(1)
    loaded.load_weights(policy)
    return PolicyActions(policy, cfg.deterministic)


def _play_episode(
    env: VecEnv,
    actions: ActionSource,
    describer: Describer,
    table: Table,
    seed: int,
    max_steps: int,
) -> float:
    """Play and print one episode of at most `max_steps` steps; returns its return."""
    with environment_errors():
        obs = env.reset([seed])
    total, t, done = 0.0, 0, False
    table.print_header()
    while not done and t < max_steps:
        # Before the step, which changes the hidden state.
        seen, hidden = describer.obs(obs), describer.hidden()
        action = actions(obs, t == 0)
        with environment_errors():
            step = env.step(action)
        reward = float(step.reward) + 0.0  # turns -0 into 0
        row = StepRow(str(t), seen, describer.action(action), f"{reward:.4g}", hidden)
        table.print_row(row, reward)
        total, t, obs = total + reward, t + 1, step.obs
        done = bool(step.terminated | step.truncated)
    table.print_row(StepRow(str(t), describer.obs(step.final_obs)))
    outcome = "terminated" if step.terminated else "truncated" if done else "not ended"
    hint = "" if done else " (eval_max_steps; env.max_episode_steps=N ends episodes)"
    table.print_line(f"return {total:.4g}, {outcome} after {t} steps{hint}")
    return total
