"""`rlmem.evaluate`: the returns of an agent in any environment."""

from __future__ import annotations

from typing import Any

from rlmem import envs
from rlmem.envs.base import VecEnv
from rlmem.envs.given import Batch, Copies, given, named
from rlmem.envs.seeding import eval_seeds
from rlmem.errors import UsageError, positive
from rlmem.runs.agent import Agent
from rlmem.runs.playing import CHUNK, Watch, play, summary


def evaluate(
    agent: Agent,
    env: Any,
    episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
    eval_max_steps: int = 10_000,
    **options: Any,
) -> dict[str, Any]:
    """The returns of `episodes` episodes on seeds that no training uses, with mean and spread.

    `env` is a name with its `options`, a Gymnasium id, a class or function that makes a Gymnasium
    environment, a `VectorEnv` or a `VecEnv`. Episodes are cut after `eval_max_steps` steps and
    count as they are; `unfinished` of the result is their number. Raises `UsageError` if its
    observations are not those of the agent.
    """
    source = None if isinstance(env, str) else given(env)
    hidden = {"info_privileged": bool(agent.spec.privileged)}

    def make(num_envs: int) -> VecEnv:
        if source is not None:
            given_options = hidden | options if isinstance(source, Copies) else options
            return agent.spec.add_history(source.make(num_envs, agent.device, given_options))
        name, known = named(env)
        given_options = {**known, **(hidden if name == "gym" else {}), **options}
        made = envs.make(name, num_envs=num_envs, device=agent.device, **given_options)
        return agent.spec.add_history(made)

    probe = make(1)
    critic_only = agent.policy.critic_only
    wanted, found = (
        {key: space for key, space in each.observation_space.items() if key not in critic_only}
        for each in (agent.env.wrapped, probe)
    )
    probe.close()
    if wanted != found:
        raise UsageError(f"the agent observes {wanted}, and this environment gives {found}")
    watch = Watch(positive("eval_max_steps", eval_max_steps))
    seeds = eval_seeds(seed, positive("episodes", episodes))
    chunk = min(CHUNK, source.num_envs) if isinstance(source, Batch) else CHUNK
    returns = play(agent.policy, make, seeds, deterministic, chunk, watch)
    return summary(returns) | {"unfinished": watch.unfinished, "returns": returns}
