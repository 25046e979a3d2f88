"""Every algorithm in action spaces of every kind, and with a single environment and step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem import algos, tree
from rlmem.algos import Algorithm
from rlmem.data.recorder import Recorder
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.trials import Trials

INF = np.inf
LARGEST = float(np.finfo(np.float32).max)
BOXES: dict[str, spaces.Space] = {
    "scalar": spaces.Box(-2, 6, ()),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "constant": spaces.Box(3, 3, (2,)),
    "largest floats": spaces.Box(-LARGEST, LARGEST, (2,)),
    "low only": spaces.Box(2, INF, (1,)),
    "high only": spaces.Box(-INF, -1, ()),
    "mixed": spaces.Box(
        np.array([-1, -INF, 0, 5], np.float32), np.array([1, INF, INF, 5], np.float32)
    ),
}
DISCRETE: dict[str, spaces.Space] = {
    "start": spaces.Discrete(3, start=-4),
    "grid": spaces.MultiDiscrete([[2, 3], [2, 2]]),
    "grid with starts": spaces.MultiDiscrete([[2], [3]], start=[[1], [-7]]),
    "bits": spaces.MultiBinary((2, 1)),
}
# Every step is an update: one row of one step.
REPLAY = {"batch_size": 1, "length": 1, "burn_in": 0, "capacity": 64}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {"num_steps": 1, "num_minibatches": 1, "num_epochs": 2},
    "pqn": {"num_steps": 1, "num_minibatches": 1, "num_epochs": 2},
    "r2d2": {"num_steps": 1, "learning_starts": 0, "replay": {**REPLAY, "stride": 1}},
    "sac": {"num_steps": 1, "learning_starts": 0, "replay": {**REPLAY, "stride": 1}},
    "amago": {
        "num_steps": 1,
        "num_updates": 1,
        "learning_starts": 0,
        "replay": {**REPLAY, "batching": "trajectory"},
    },
    "dt": {"batch_size": 1, "length": 1, "num_updates": 2},
    "ad": {"batch_size": 1, "length": 1, "num_updates": 2},
}
CONTINUOUS = ["ppo", "sac", "amago", "dt", "ad"]


class Strict:
    """Checks that every action is in its space; its observation and reward are random numbers."""

    def __init__(self, space: spaces.Space, num_envs: int) -> None:
        self.num_envs, self.device = num_envs, torch.device("cpu")
        self.observation_space = {"obs": spaces.Box(-1, 1, (2,))}
        self.action_space = {"action": space}
        self.time = 0

    def reset(self, seed: object = None) -> Tensors:
        self.time = 0
        return self._obs()

    def step(self, action: Tensors) -> Transition:
        space = self.action_space["action"]
        for sample in action["action"].detach().numpy():
            assert space.contains(np.asarray(sample, space.dtype)), sample
        self.time += 1
        over = torch.full((self.num_envs,), self.time % 3 == 0)
        return Transition(
            self._obs(), torch.rand(self.num_envs), over, ~over & over, self._obs(), over
        )

    def close(self) -> None:
        pass

    def _obs(self) -> Tensors:
        return {"obs": torch.rand(self.num_envs, 2) * 2 - 1}


def make(name: str, space: spaces.Space, folder: Path, num_envs: int = 1) -> Algorithm:
    env: VecEnv = Strict(space, num_envs)
    options = dict(OPTIONS[name])
    needs = algos.requirements(name)
    if needs.needs_history:
        record(space, folder)
        env, options["dataset"] = Trials(env, episodes=1), str(folder)
    policy = needs.policy_type(env.observation_space, env.action_space, core="gru", hidden_size=8)
    return algos.make(name, env=env, policy=policy, seed=list(range(num_envs)), **options)


def record(space: spaces.Space, folder: Path) -> None:
    """Steps with random actions of the space; of episodes of one and of three steps."""
    recorder = Recorder(Strict(space, 2), folder, {})
    recorder.reserve(30)
    torch.manual_seed(0)
    recorder.reset(0)
    space.seed(0)
    for _ in range(30):
        action = np.stack([np.clip(space.sample(), -9, 9) for _ in range(2)])
        recorder.step({"action": torch.as_tensor(action)})
    recorder.close()


def iterate(algo: Algorithm, count: int) -> list[dict[str, float]]:
    metrics = [algo.iterate(i / count) for i in range(count)]
    for each in metrics:
        assert all(math.isfinite(value) for value in each.values()), each
    assert "grad_norm" in metrics[-1], "it did not learn"
    assert all(p.isfinite().all() for p in algo.policy.parameters())
    return metrics


@pytest.mark.by_day(3)
@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("kind", BOXES)
def test_continuous_actions_are_in_their_space(name: str, kind: str, tmp_path: Path):
    algo = make(name, BOXES[kind], tmp_path)
    iterate(algo, 12)
    check_actions(algo, BOXES[kind])


@pytest.mark.by_day(3)
@pytest.mark.parametrize("name", algos.names())
@pytest.mark.parametrize("kind", DISCRETE)
def test_discrete_actions_are_in_their_space(name: str, kind: str, tmp_path: Path):
    algo = make(name, DISCRETE[kind], tmp_path)
    iterate(algo, 12)
    check_actions(algo, DISCRETE[kind])


def check_actions(algo: Algorithm, space: spaces.Space) -> None:
    """Acts in an environment that checks every action, greedily and with samples."""
    inner: VecEnv = Strict(space, 5)
    needs_history = len(algo.policy.encoder.shapes) > 1
    env = Trials(inner, episodes=1) if needs_history else inner
    obs, state = env.reset(), algo.policy.initial_state(5)
    start = torch.ones(5, dtype=torch.bool)
    if hasattr(algo.policy, "epsilon"):
        algo.policy.epsilon = torch.full((5,), 0.5)
    with torch.no_grad():
        for t in range(8):
            act = algo.policy.act(obs, state, start, deterministic=t % 2 == 0)
            step = env.step(act.action)
            obs, state, start = step.obs, act.state, step.memory_reset
    assert all(leaf.isfinite().all() for leaf in tree.leaves(state))


def test_constant_actions_do_not_count_in_the_target_entropy(tmp_path: Path):
    two_free = make("sac", BOXES["mixed"], tmp_path)
    assert two_free.entropies[:, 1].tolist() == [-3, -3]  # type: ignore[attr-defined]
    constant = make("sac", BOXES["constant"], tmp_path)
    assert constant.entropies[:, 1].tolist() == [0, 0]  # type: ignore[attr-defined]
    assert not constant.kinds["continuous"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["dt", "ad"])
def test_the_loss_of_a_scalar_action_is_its_negative_log_density(name: str, tmp_path: Path):
    scalar, vector = (
        make(name, spaces.Box(-2, 6, shape), tmp_path / str(len(shape))) for shape in ((), (1,))
    )
    vector.policy.load_state_dict(scalar.policy.state_dict())
    losses = []
    for algo in (scalar, vector):
        torch.manual_seed(3)
        losses.append(algo.iterate(0.0)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > math.log(0.05)
