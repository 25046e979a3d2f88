"""PPO of memorax, a JAX library, on bsuite's memory chain; needs neither torch nor rlmem.

memorax 1.0.1 and gymnax 0.0.9 need flax, optax, distrax, flashbax, tfp-nightly, dm-tree, gymnasium,
farama-notifications, matplotlib and seaborn. Its loggers need more, and are not used.
"""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

EPOCHS, MINIBATCHES = 4, 8
LOGGERS = "memorax.loggers"


class Training(NamedTuple):
    """One iteration of PPO, which returns its seconds, and the number of parameters."""

    iterate: Callable[[], float]
    parameters: int


def stand_in(name: str) -> None:
    """Replace a module by one whose attributes are all None."""
    module: Any = types.ModuleType(name)
    module.__getattr__ = lambda attribute: None
    sys.modules[name] = module


def training(num_envs: int, num_steps: int, width: int, device: str) -> Training:
    """memorax's PPO with a GRU for the actor and one for the critic.

    It compiles in the first two iterations. Raises `ImportError` if memorax is not there.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    stand_in(LOGGERS)
    import flax.linen as nn
    import jax
    import optax
    from memorax.algorithms.ppo import PPO, PPOConfig
    from memorax.environments.gymnax import make
    from memorax.networks import MLP, RNN, FeatureExtractor, Network, heads

    env, params = make("MemoryChain-bsuite")
    config = PPOConfig(
        name="ppo",
        num_envs=num_envs,
        num_eval_envs=8,
        num_steps=num_steps,
        gamma=0.99,
        gae_lambda=0.95,
        num_minibatches=MINIBATCHES,
        update_epochs=EPOCHS,
        normalize_advantage=True,
        clip_coef=0.2,
        clip_vloss=False,
        ent_coef=0.01,
        vf_coef=0.5,
    )

    def network(head: Any) -> Any:
        return Network(FeatureExtractor(MLP(width)), RNN(nn.GRUCell(width)), head)

    actor = network(heads.Categorical(env.action_space(params).n))
    optimizers = [optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2e-3)) for _ in range(2)]
    agent = PPO(config, env, params, actor, network(heads.VNetwork()), *optimizers)
    state = list(agent.init(jax.random.key(0)))
    weights = jax.tree.leaves((state[1].actor_params, state[1].critic_params))

    def iterate() -> float:
        begun = time.perf_counter()
        state[:] = agent.train(*state, num_envs * num_steps)[:2]
        jax.block_until_ready(state[1])
        return time.perf_counter() - begun

    return Training(iterate, sum(leaf.size for leaf in weights))
