"""Untrained agents in small environments, as subjects of analyses."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from rlmem import algos, envs
from rlmem.diagnose.trained.subject import Subject
from rlmem.envs.base import VecEnv
from rlmem.runs.build import with_history

MAZE = {"corridor_length": 3}


def make(name: str, algo: str, options: dict[str, Any], num_envs: int) -> VecEnv:
    return with_history(envs.make(name, num_envs=num_envs, **options), algo)


def subject(
    core: str = "gru",
    algo: str = "ppo",
    env: str = "tmaze-passive",
    options: dict[str, Any] | None = None,
    hidden: dict[str, Any] | None = None,
    wild: bool = False,
    **policy_options: Any,
) -> Subject:
    """An untrained policy; a `wild` one has large weights, so that actions depend on the past."""
    given = (MAZE if options is None and env == "tmaze-passive" else options) or {}
    probe = make(env, algo, given, 1)
    kind = algos.requirements(algo).policy_type
    spaces = probe.observation_space, probe.action_space
    policy: Any = kind(*spaces, core=core, hidden_size=8, **policy_options)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if wild and weight.dim() > 1:
                weight.mul_(5)
            if "actor.out" in name or name.startswith("q."):
                weight.mul_(100)
    shown = {"privileged": True} if hidden is None else hidden
    return Subject(
        settings={"env": env},
        policy=policy,
        make_env=partial(make, env, algo, given),
        make_open=partial(make, env, algo, given | shown),
    )
