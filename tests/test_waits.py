"""Nothing waits for the device inside a row: waits are counted on a stand-in for a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from rlmem import envs
from rlmem.algos.ppo import PPO
from rlmem.algos.pqn import PQN
from rlmem.algos.sac import SAC
from rlmem.policies import ActorCritic, QPolicy, SoftPolicy
from tests.far_device import CUDA, Device

ENVS = 4
# Waits of an iteration with 16 steps and 8 updates.
MOST = 7
ON_POLICY = {"num_steps": 16, "num_epochs": 2, "num_minibatches": 4}
REPLAY = {"capacity": 400, "length": 5, "burn_in": 0, "stride": 5, "batch_size": 4, "alpha": 0.0}
SIZES: dict[str, Any] = {"hidden_size": 8}
ALGOS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ppo": (PPO, ActorCritic, ON_POLICY),
    "pqn": (PQN, QPolicy, ON_POLICY),
    "sac": (
        SAC,
        SoftPolicy,
        {"num_steps": 16, "num_updates": 8, "learning_starts": 0, "replay": REPLAY},
    ),
}
# Environments of Gymnasium, which run on the host.
ON_THE_HOST = {
    "gym",
    "masked",
    "meta-dmc-projection",
    "meta-half-cheetah-vel",
    "meta-metaworld",
    "minigrid-memory",
}


def make(algo: str, core: str, task: str, device: Any, **options: Any) -> Any:
    kind, policy_type, given = ALGOS[algo]
    env = envs.make(task, num_envs=ENVS, device=device)
    policy = policy_type(env.observation_space, env.action_space, core=core, **SIZES)
    return kind(env, policy.to(device), list(range(ENVS)), **{**given, **options})


@pytest.mark.parametrize("core", ["ffm", "gru"])
@pytest.mark.parametrize(
    ("algo", "task"),
    [
        ("ppo", "popgym-minesweeper"),
        ("pqn", "popgym-minesweeper"),
        ("sac", "popgym-minesweeper"),
        ("sac", "popgym-position-only-pendulum"),
    ],
)
def test_an_iteration_waits_a_handful_of_times(algo: str, task: str, core: str) -> None:
    with Device() as device:
        learner = make(algo, core, task, CUDA)
        device.waits.clear()
        metrics = learner.iterate(0.0)
    assert "grad_norm" in metrics
    assert sum(device.waits.values()) <= MOST, f"the waits of an iteration:\n{device.table()}"


@pytest.mark.parametrize("name", [name for name in envs.names() if name not in ON_THE_HOST])
def test_steps_and_new_episodes_never_wait(name: str) -> None:
    with Device() as device:
        env = envs.make(name, num_envs=ENVS, device=CUDA)
        env.reset(0)
        action = {key: middle(space).to(CUDA) for key, space in env.action_space.items()}
        device.waits.clear()
        env.step(action)
        env.reset()
        env.step(action)
    assert not device.waits, f"the waits of two steps and a reset:\n{device.table()}"


def middle(space: Space) -> Tensor:
    """A valid action of each environment."""
    if isinstance(space, Discrete):
        return torch.full((ENVS,), int(space.start))
    dtype = torch.float32 if isinstance(space, Box) else torch.int64
    return torch.zeros(ENVS, *(space.shape or ()), dtype=dtype)


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_the_device_gives_the_results_of_the_cpu(algo: str) -> None:
    found = []
    for place, device in ((torch.device("cpu"), nullcontext()), (CUDA, Device())):
        torch.manual_seed(0)
        with device:
            learner = make(algo, "gru", "popgym-minesweeper", place, num_steps=40)
            metrics = learner.iterate(0.0)
            weights = {key: x.cpu() for key, x in learner.policy.state_dict().items()}
            if algo == "ppo":
                assert learner.collector.rollout.truncated.any()
        found.append((metrics, weights))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
