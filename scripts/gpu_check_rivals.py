"""PPO of memorax, a JAX library, beside ours, on bsuite's memory chain at equal work.

memorax 1.0.1 and gymnax 0.0.9 need flax, optax, distrax, flashbax, tfp-nightly, dm-tree, gymnasium,
farama-notifications, matplotlib and seaborn. Without them, only a note is written. Compile time is
listed apart, as the time of the first iteration.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from gpu_check_ppo import Trainer
from gpu_check_worker import Deadline, emit, parser, prepare, serve

SIZES, SMALL = (1024, 4096), (8,)
STEPS, SMALL_STEPS, WIDTH = 128, 16, 128
REPEATS = 5
LOGGERS = "memorax.loggers"  # needs three services' packages, and is not used here

Iterate = Callable[[], float]


class Case(NamedTuple):
    """A library, its memories, and a number of environments."""

    library: str
    core: str
    envs: int


def cases(small: bool) -> list[Case]:
    """memorax has one memory for the actor and one for the critic; so has our first case."""
    kinds = (("memorax", "two gru"), ("rlmem", "two gru"), ("rlmem", "gru"), ("rlmem", "ffm"))
    return [Case(*kind, envs) for envs in (SMALL if small else SIZES) for kind in kinds]


def ours(case: Case, options: argparse.Namespace) -> Iterate:
    """Our PPO; returns a function that runs one iteration and returns its seconds."""
    core = case.core.removeprefix("two ")
    trainer = Trainer(core, case.envs, options, separate_critic=core != case.core)
    return lambda: trainer.iterate()[0]


def stand_in(name: str) -> None:
    """Replace a module by one whose attributes are all None."""
    module: Any = types.ModuleType(name)
    module.__getattr__ = lambda attribute: None
    sys.modules[name] = module


def theirs(case: Case, options: argparse.Namespace) -> Iterate:
    """PPO of memorax; raises `ImportError` if it is not there."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if options.device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    stand_in(LOGGERS)
    import flax.linen as nn
    import jax
    import optax
    from memorax.algorithms.ppo import PPO, PPOConfig
    from memorax.environments.gymnax import make
    from memorax.networks import MLP, RNN, FeatureExtractor, Network, heads

    steps = SMALL_STEPS if options.small else STEPS
    env, params = make("MemoryChain-bsuite")
    config = PPOConfig(
        name="ppo",
        num_envs=case.envs,
        num_eval_envs=8,
        num_steps=steps,
        gamma=0.99,
        gae_lambda=0.95,
        num_minibatches=8,
        update_epochs=4,
        normalize_advantage=True,
        clip_coef=0.2,
        clip_vloss=False,
        ent_coef=0.01,
        vf_coef=0.5,
    )

    def network(head: Any) -> Any:
        return Network(FeatureExtractor(MLP(WIDTH)), RNN(nn.GRUCell(WIDTH)), head)

    actor = network(heads.Categorical(env.action_space(params).n))
    optimizers = [optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2e-3)) for _ in range(2)]
    agent = PPO(config, env, params, actor, network(heads.VNetwork()), *optimizers)
    state = list(agent.init(jax.random.key(0)))

    def iterate() -> float:
        begun = time.perf_counter()
        state[:] = agent.train(*state, case.envs * steps)[:2]
        jax.block_until_ready(state[1])
        return time.perf_counter() - begun

    return iterate


def measure(case: Case, options: argparse.Namespace) -> None:
    """Emit the speed of a case."""
    iterate = (theirs if case.library == "memorax" else ours)(case, options)
    first = iterate()
    iterate()  # memorax compiles a second time
    seconds = statistics.median(iterate() for _ in range(1 if options.small else REPEATS))
    steps = case.envs * (SMALL_STEPS if options.small else STEPS)
    emit("row", **case._asdict(), steps_s=steps / seconds, first_s=first)


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0]).parse_args()
    options.task = "memory-chain"
    prepare(options.device)
    missing = False

    def run(case: Case, deadline: Deadline) -> None:
        nonlocal missing
        if missing:
            return
        try:
            measure(case, options)
        except ImportError as error:
            missing = True
            emit("note", text=f"{case.library} is not importable here: {error}")

    serve(cases(options.small), run, lambda case: " ".join(map(str, case)), options)


if __name__ == "__main__":
    main()
