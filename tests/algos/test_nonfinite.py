"""Updates that are not finite: the message names the observation or reward that is to blame."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces

from rlmem import algos
from rlmem.algos import Algorithm, NonFiniteLoss
from rlmem.algos.nonfinite import nonfinite_input
from rlmem.data.batch import SequenceBatch
from rlmem.data.recorder import Recorder
from rlmem.data.rollout import Rollout
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.trials import Trials
from tests.algos.test_odd_spaces import OPTIONS

FAULTY_STEP, LENGTH = 5, 8


class Faulty:
    """Episodes of `LENGTH` random steps; `fault` is infinite in environment 1 at `FAULTY_STEP`.

    `fault` is a leaf of the observations, "reward", "final" (a final observation), or None.
    """

    def __init__(self, fault: str | None) -> None:
        self.num_envs, self.device, self.fault = 2, torch.device("cpu"), fault
        self.observation_space = {
            "obs.card": spaces.Discrete(3),
            "obs.speed": spaces.Box(-1, 1, (2,)),
        }
        self.action_space: dict[str, spaces.Space] = {"action": spaces.Discrete(2)}
        self.time = 0

    def reset(self, seed: object = None) -> Tensors:
        self.time = 0
        return self._obs()

    def step(self, action: Tensors) -> Transition:
        self.time += 1
        reward, final, never = torch.rand(2), self._obs(), torch.zeros(2, dtype=torch.bool)
        if self.time == FAULTY_STEP and self.fault == "reward":
            reward[1] = torch.inf
        over = never | (self.time == LENGTH)
        obs = self.reset() if self.time == LENGTH else final
        if self.fault != "final":
            return Transition(obs, reward, over, never, final, over)
        final = {**final, "obs.speed": torch.full((2, 2), torch.inf)}
        return Transition(obs, reward, never, over, final, over)

    def close(self) -> None:
        pass

    def _obs(self) -> Tensors:
        speed = torch.rand(2, 2)
        if self.time == FAULTY_STEP and self.fault == "obs.speed":
            speed[1, 0] = torch.inf
        return {"obs.card": torch.zeros(2, dtype=torch.int64), "obs.speed": speed}


def make(name: str, fault: str | None, folder: Path, **changes: Any) -> Algorithm:
    env: VecEnv = Faulty(fault)
    options = {**OPTIONS[name], **changes}
    if "replay" in options:
        options["replay"] = {**options["replay"], "batch_size": 32, "length": 8}
    needs = algos.requirements(name)
    if needs.needs_history:
        recorder = Recorder(env, folder, {})
        recorder.reserve(2 * LENGTH)
        recorder.reset(0)
        for _ in range(2 * LENGTH):
            recorder.step({"action": torch.zeros(2, dtype=torch.int64)})
        recorder.close()
        env, options["dataset"] = Trials(env, episodes=1), str(folder)
        options |= {"batch_size": 4, "length": 8}
    policy = needs.policy_type(env.observation_space, env.action_space, core="gru", hidden_size=8)
    return algos.make(name, env=env, policy=policy, seed=[0, 1], **options)


def run_into(algo: Algorithm) -> NonFiniteLoss:
    """The error of the first update that is not finite."""
    with pytest.raises(NonFiniteLoss) as error:
        repeat(algo)
    assert all(p.isfinite().all() for p in algo.policy.state_dict().values())
    return error.value


def repeat(algo: Algorithm) -> None:
    for _ in range(40):
        algo.iterate(0.0)


ONLINE = [name for name in algos.names() if name not in ("dt", "ad")]


@pytest.mark.parametrize("name", algos.names())
def test_an_observation_is_named_by_its_leaf(name: str, tmp_path: Path):
    error = run_into(make(name, "obs.speed", tmp_path))
    assert re.search(r": observation 'obs\.speed'( after the last step)? is inf \(row ", str(error))
    assert not error.finite_inputs


@pytest.mark.parametrize("name", ONLINE)
def test_a_reward_is_named(name: str, tmp_path: Path):
    error = run_into(make(name, "reward", tmp_path))
    assert re.search(r": the reward is inf \(row \d+, step \d\)$", str(error))
    assert not error.finite_inputs


@pytest.mark.parametrize("name", ["ppo", "pqn"])
def test_a_final_observation_is_found_by_its_value(name: str, tmp_path: Path):
    error = run_into(make(name, "final", tmp_path, num_steps=10))
    assert "the value of an episode's final observation is nan (row 0, step 7)" in str(error)
    assert not error.finite_inputs


@pytest.mark.parametrize("name", algos.names())
def test_finite_inputs_are_not_blamed(name: str, tmp_path: Path):
    algo = make(name, None, tmp_path)
    with torch.no_grad():
        next(algo.policy.encoder.mlp.parameters()).fill_(torch.inf)
    with pytest.raises(NonFiniteLoss) as error:
        repeat(algo)
    assert error.value.finite_inputs
    assert "observation" not in str(error.value)
    assert "reward" not in str(error.value)


@pytest.mark.parametrize("name", ["r2d2", "sac", "amago"])
def test_nothing_changes_in_a_failed_update(name: str, tmp_path: Path):
    algo: Any = make(name, None, tmp_path)
    for _ in range(20):
        algo.iterate(0.0)
    batch = algo.collector.replay.sample(0.0)
    batch.reward[batch.mask] = torch.nan
    before = copy.deepcopy((algo.policy.state_dict(), algo.state_dict()))
    with pytest.raises(NonFiniteLoss, match="the reward is nan"):
        algo.learn(batch)
    after = algo.policy.state_dict(), algo.state_dict()
    assert repr(after) == repr(before)
    for one, other in zip(before[0].values(), after[0].values(), strict=True):
        assert torch.equal(one, other)


def rollout(**given: torch.Tensor) -> Rollout:
    zeros, never = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    fields: dict[str, Any] = {
        "obs": {"a": torch.zeros(2, 3, dtype=torch.int64), "b": torch.zeros(2, 3, 4)},
        "action": {},
        "state": torch.zeros(2, 0),
        **dict.fromkeys(("log_prob", "value", "next_value", "reward"), zeros),
        **dict.fromkeys(("start", "terminated", "truncated"), never),
    }
    return Rollout(**fields | given)  # type: ignore[arg-type]


def test_places_by_hand():
    assert nonfinite_input(rollout()) is None
    bad = torch.zeros(2, 3, 4)
    bad[1, 2, 3] = torch.nan
    found = nonfinite_input(rollout(obs={"b": bad}))  # type: ignore[arg-type]
    assert found == "observation 'b' is nan (row 1, step 2)"
    found = nonfinite_input(replace(rollout(), last_obs={"b": bad[:, 2]}))
    assert found == "observation 'b' after the last step is nan (row 1)"
    found = nonfinite_input(rollout(reward=-bad[..., 3] / 0))
    assert found == "the reward is nan (row 0, step 0)"


def test_masked_rewards_and_values_after_terminations_are_not_read():
    nan = torch.full((2, 3), torch.nan)
    terminated = torch.ones(2, 3, dtype=torch.bool)
    assert nonfinite_input(rollout(next_value=nan, terminated=terminated)) is None
    batch = SequenceBatch(
        obs={},
        start=~terminated,
        action={},
        reward=nan,
        terminated=terminated,
        truncated=terminated,
        mask=~terminated,
        state=torch.zeros(2, 0),
        weight=torch.ones(2),
        segment=torch.zeros(2, dtype=torch.int64),
    )
    assert nonfinite_input(batch) is None
    assert nonfinite_input(replace(batch, mask=terminated)) == "the reward is nan (row 0, step 0)"
