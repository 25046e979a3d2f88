"""The agent to diagnose: its policy, its environment, and the budget of the analyses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from rlmem import envs, tree
from rlmem.envs.base import VecEnv, registry
from rlmem.envs.given import named
from rlmem.envs.seeding import eval_seeds
from rlmem.policies import Policy
from rlmem.runs import build, evaluate, playing, stats
from rlmem.runs.agent import Agent
from rlmem.runs.evaluate_agent import environment
from rlmem.runs.guard import environment_errors

# Options of environments that show their hidden state beside the observations.
SHOW_HIDDEN = ("privileged", "info_privileged")

MakeEnv = Callable[[int], VecEnv]
Play = Callable[[VecEnv], playing.AgentLike]


class LeftOut(Exception):
    """An analysis does not apply; the message is the reason."""


@dataclass(frozen=True)
class Subject:
    """A trained policy and its environment.

    `make_env(num_envs)` is the environment as in training, `make_open(num_envs)` the same with its
    hidden state beside the observations, if it offers it. `chunk` bounds the environments that are
    stepped in parallel. `known` has returns known for the environment, by name.
    """

    settings: Mapping[str, Any]
    policy: Policy
    make_env: MakeEnv
    make_open: MakeEnv
    seed: int = 0
    max_steps: int = playing.MAX_STEPS
    chunk: int = playing.CHUNK
    known: Mapping[str, float] = field(default_factory=dict)

    @property
    def state_size(self) -> int:
        """The numbers in the memory of one environment; 0 for a policy without memory."""
        return sum(leaf.numel() for leaf in tree.leaves(self.policy.initial_state(1)))

    def require_memory(self) -> None:
        """Raise `LeftOut` for a policy without memory."""
        if self.state_size == 0:
            raise LeftOut("the agent has no memory")


@dataclass(frozen=True)
class Budget:
    """`episodes` for each of `seeds`, cut after `max_steps` steps (None: as in training).

    Saliency and probes read the first `steps` steps of an episode, saliency at `decisions` of them.
    With `deterministic` the agent takes its most likely actions.
    """

    episodes: int = 100
    seeds: tuple[int, ...] | None = None
    steps: int = 256
    decisions: int = 64
    max_steps: int | None = None
    deterministic: bool = True

    def bases(self, subject: Subject) -> tuple[int, ...]:
        """The bases of the seeds of episodes."""
        return (subject.seed,) if self.seeds is None else self.seeds

    def episode_seeds(self, subject: Subject) -> list[int]:
        """The seeds of all episodes, none of which any training uses."""
        bases = self.bases(subject)
        return [seed for base in bases for seed in eval_seeds(base, self.episodes)]


def from_run(
    run_dir: str | Path,
    checkpoint: str | int = "last",
    device: str | None = None,
    trust: bool = False,
    env: str | None = None,
) -> Subject:
    """The agent of a run folder or file in its own environment, as `evaluate.load`."""
    trained = evaluate.load(run_dir, checkpoint, device, trust, env)
    cfg = trained.cfg

    def make_open(num_envs: int) -> VecEnv:
        options = build.env_options(cfg) | _showing(cfg.env.name)
        with environment_errors():
            made = envs.make(cfg.env.name, num_envs=num_envs, device=trained.device, **options)
        return build.with_history(made, cfg.algo.name)

    return Subject(
        settings={"run": str(run_dir), "step": trained.step, "env": cfg.env.name}
        | {"core": cfg.core.name, "algo": cfg.algo.name},
        policy=trained.policy,
        make_env=trained.make_env,
        make_open=make_open,
        seed=cfg.seed,
        max_steps=cfg.get("eval_max_steps", playing.MAX_STEPS),
        known=evaluate.known_scores(cfg.env),
    )


def from_agent(agent: Agent, env: Any, options: Mapping[str, Any] | None = None) -> Subject:
    """A loaded agent in an environment, given as for `rlmem.evaluate`, with its options."""
    given = dict(options or {})
    make, chunk = environment(agent, env, given)
    shown = _showing(env) if isinstance(env, str) else {}
    make_open = environment(agent, env, given | shown)[0] if shown else make
    return Subject(
        settings={"agent": agent.spec.algo, "env": env if isinstance(env, str) else str(env)},
        policy=agent.policy,
        make_env=make,
        make_open=make_open,
        chunk=chunk,
    )


def _showing(env: str) -> dict[str, bool]:
    """The options that show the hidden state of an environment, given as text."""
    allowed = registry.options(named(env)[0])
    return {key: True for key in SHOW_HIDDEN if key in allowed}


def play(
    subject: Subject,
    budget: Budget,
    make_agent: Play,
    chunk: int | None = None,
    greedy: bool | None = None,
) -> Float[ndarray, "R M"]:
    """The returns of an agent in the episodes of all seeds; sums over the episodes of a trial."""
    watch = playing.Watch(budget.max_steps or subject.max_steps)
    rows = min(subject.chunk, chunk or playing.CHUNK)
    deterministic = budget.deterministic if greedy is None else greedy
    found = []
    for base in budget.bases(subject):
        torch.manual_seed(base)
        seeds = eval_seeds(base, budget.episodes)
        played = playing.play_trials(
            make_agent, subject.make_env, seeds, deterministic, rows, watch
        )
        found.append(played.sum(axis=1))
    return np.stack(found)


def estimate(returns: Float[ndarray, "R M"]) -> stats.Estimate:
    """The mean return with its interval."""
    return stats.estimate(stats.mean, returns)


def samples_only(spaces: Iterable[gym.Space]) -> bool:
    """Whether the log-probability has no slope at the most likely action: a part is continuous."""
    return any(isinstance(space, gym.spaces.Box) for space in spaces)
