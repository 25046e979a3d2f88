"""`rlmem.evaluate`: the returns of an agent in any environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlmem import envs
from rlmem.envs.base import VecEnv
from rlmem.envs.given import Batch, Copies, given, named
from rlmem.envs.privileged import PRIVILEGED
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
    make, chunk = environment(agent, env, options)
    watch = Watch(positive("eval_max_steps", eval_max_steps))
    seeds = eval_seeds(seed, positive("episodes", episodes))
    returns = play(agent.policy, make, seeds, deterministic, chunk, watch)
    return summary(returns) | {"unfinished": watch.unfinished, "returns": returns}


def environment(
    agent: Agent, env: Any, options: Mapping[str, Any]
) -> tuple[Callable[[int], VecEnv], int]:
    """`make(num_envs)` of an environment for an agent, and the most environments to step at once.

    Raises `UsageError` if its observations are not those of the agent; the hidden state may be
    among them.
    """
    source = None if isinstance(env, str) else given(env)
    hidden = {"info_privileged": bool(agent.spec.privileged)}

    def make(num_envs: int) -> VecEnv:
        if source is not None:
            given_options = {**(hidden if isinstance(source, Copies) else {}), **options}
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
    extra = {key for key in found.keys() - wanted if key.partition(".")[0] == PRIVILEGED}
    found = {key: space for key, space in found.items() if key not in extra}
    if wanted != found:
        raise UsageError(f"the agent observes {wanted}, and this environment gives {found}")
    return make, min(CHUNK, source.num_envs) if isinstance(source, Batch) else CHUNK
