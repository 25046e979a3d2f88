"""`rlmem check`: an environment as an agent sees it, and its faults, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

import torch
from omegaconf import DictConfig

from rlmem.cli.help import table
from rlmem.cli.show import Rows, lengths, once
from rlmem.envs import checks
from rlmem.envs.gym_ids import registered
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError
from rlmem.policies import describe_inputs
from rlmem.runs import build, probe
from rlmem.runs.guard import closing

# Seconds of random play, copies in a batch, and compared steps of two batches.
SECONDS, COPIES, COMPARED = 2.0, 8, 60


@dataclass
class Report:
    """Lines about an environment, and its faults."""

    title: str
    rows: Rows
    faults: list[str]

    def __str__(self) -> str:
        faults = [("faults", fault) for fault in self.faults] or [("faults", "none found")]
        return "\n".join([self.title, *table(once([*self.rows, *faults]))])


def run(cfg: DictConfig) -> Report:
    """Check the environment of `cfg`, a configuration of `rlmem train`."""
    if cfg.env.name != "gym":
        return _check_batch(cfg)
    env = cfg.env
    make = registered(env.id, env.max_episode_steps, build.options(env)["kwargs"])
    found = checks.check(make, SECONDS)
    rows: Rows = []
    faults = list(found.faults.values())
    if "make" not in found.faults:
        try:
            rows += _spaces(cfg)
        except UsageError as error:
            faults.append(str(error))
        rows += [("action mask", found.mask or "none found, in observations or infos")]
    if found.steps:
        speed = found.steps / max(found.seconds, 1e-9)
        play = probe.RandomPlay(
            found.steps,
            found.seconds,
            (min(found.rewards), max(found.rewards)),
            found.lengths,
            found.returns,
        )
        rows += [*_play(play), ("speed", f"{speed:,.0f} steps/s of one copy")]
    return Report(env.id, rows, faults)


def _check_batch(cfg: DictConfig) -> Report:
    """Check an environment that is a batch by itself."""
    if "check_obs" in cfg.env:
        cfg.env.check_obs = True
    report = Report(cfg.env.name, [], [])
    try:
        report.rows += _spaces(cfg)
        with closing(build.make_env(cfg, COPIES, torch.device("cpu"))) as env:
            play = probe.play_randomly(env, SECONDS, episodes=1_000)
        speed = play.steps / play.seconds
        report.rows += [*_play(play), ("speed", f"{speed:,.0f} steps/s of {COPIES} copies")]
        if not _repeats(cfg):
            report.faults.append(f"the same seed gives another episode: {checks.SEEDING}")
    except UsageError as error:
        report.faults.append(str(error))
    return report


def _spaces(cfg: DictConfig) -> Rows:
    """The leaves of the observations, as the encoder reads them, and those of the actions."""
    with closing(build.make_env(cfg, 1, torch.device("cpu"))) as env:
        inputs = describe_inputs(build.make_policy(cfg, env))
        actions = [f"{key}: {space}" for key, space in env.action_space.items()]
    rows = [("observations", line) for line in inputs.splitlines()]
    return rows + [("actions", line) for line in actions]


def _play(play: probe.RandomPlay) -> Rows:
    low, high = play.rewards
    returns = f"{mean(play.returns):.4g} (mean of random actions)" if play.returns else "-"
    return [
        ("rewards", f"{low:.4g} to {high:.4g} a step"),
        ("episodes", lengths(play)),
        ("returns", returns),
    ]


def _repeats(cfg: DictConfig) -> bool:
    """Whether two batches with the same seeds and actions have the same results."""
    results = []
    for _ in range(2):
        with closing(build.make_env(cfg, COPIES, torch.device("cpu"))) as env:
            torch.manual_seed(0)
            obs = env.reset(eval_seeds(0, COPIES))
            player, seen = probe.RandomPlayer(env), [*obs.values()]
            start = torch.ones(COPIES, dtype=torch.bool)
            for _ in range(COMPARED):
                step = env.step(player.act(obs, (), start).action)
                obs = step.obs
                seen += [*obs.values(), step.reward, step.terminated, step.truncated]
            results.append([leaf.clone() for leaf in seen])
    return all(map(torch.equal, *results))
