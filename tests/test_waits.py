"""Nothing waits for the device inside a row: waits are counted on a stand-in for a GPU."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from rlmem import envs
from rlmem.algos.ppo import PPO
from rlmem.algos.pqn import PQN
from rlmem.algos.sac import SAC
from rlmem.envs.base import registry
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


def test_the_stand_in_counts_waits_and_refuses_mixed_devices() -> None:
    with Device() as device:
        x = torch.zeros(3, device=CUDA)
        x.masked_fill_(x > 0, 1.0)
        assert not device.waits, device.table()
        x[torch.tensor([0, 2])] = 1.0
        assert bool((x[x > 0] == 1).all())
        assert (x + torch.tensor([1.0, 2.0, 3.0], device=CUDA)).tolist() == [2, 2, 4]
        assert x.repeat_interleave(2, output_size=6).cpu().sum() == 4
        with pytest.raises(RuntimeError, match="mixes tensors of two devices"):
            x + torch.ones(3)
    assert {name: count for (name, _), count in device.waits.items()} == {
        "index_put_ by an index of the host": 1,
        "index by a mask": 1,
        "_local_scalar_dense": 1,
        "copy to the device": 1,
        "copy to the host": 2,
    }


CASES = [
    *product(("ppo", "pqn", "sac"), ("ffm", "gru"), ["popgym-minesweeper"]),
    ("sac", "gru", "popgym-position-only-pendulum"),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("algo", "core", "task"), CASES)
def test_an_iteration_on_a_gpu_waits_a_handful_of_times(algo: str, core: str, task: str) -> None:
    learner = make(algo, core, task, torch.device("cuda", 0))
    learner.iterate(0.0)  # compiles kernels
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            learner.iterate(0.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    assert len(waits) <= MOST, waits


@pytest.mark.parametrize(("algo", "core", "task"), CASES)
def test_an_iteration_waits_a_handful_of_times(algo: str, core: str, task: str) -> None:
    with Device() as device:
        learner = make(algo, core, task, CUDA)
        device.waits.clear()
        metrics = learner.iterate(0.0)
    assert "grad_norm" in metrics
    assert sum(device.waits.values()) <= MOST, f"the waits of an iteration:\n{device.table()}"


def all_options() -> list[tuple[str, dict[str, Any]]]:
    """Every environment on tensors with its defaults, all difficulties, a mask and the state."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in envs.names():
        if name in ON_THE_HOST:
            continue
        options = registry.options(name)
        found.append((name, {}))
        if "difficulty" in options:
            found += [(name, {"difficulty": level}) for level in ("medium", "hard")]
        found += [(name, {each: True}) for each in ("action_mask", "privileged") if each in options]
        if "split" in options:
            found.append((name, {"split": "heldout"}))
    return found


@pytest.mark.by_day(3)
@pytest.mark.parametrize(("name", "options"), all_options(), ids=str)
def test_steps_and_new_episodes_never_wait(name: str, options: dict[str, Any]) -> None:
    with Device() as device:
        env = envs.make(name, num_envs=ENVS, device=CUDA, **options)
        env.reset(0)
        action = {key: middle(space).to(CUDA) for key, space in env.action_space.items()}
        device.waits.clear()
        env.step(action)
        env.reset()
        env.step(action)
    # At a reset, the notes about masks are read: of the steps before it, and of the reset.
    most = 2 if options.get("action_mask") else 0
    assert sum(device.waits.values()) <= most, f"two steps and a reset:\n{device.table()}"


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
