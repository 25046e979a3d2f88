"""`PreviousAction`: previous actions and start flags inside and at the ends of episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces

from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.previous_action import PreviousAction


class GivenEnds:
    """Two environments with given ends of episodes and three action spaces."""

    def __init__(self, ends: list[tuple[bool, bool]], truncate: bool) -> None:
        self.num_envs = 2
        self.device = torch.device("cpu")
        self.observation_space = {"obs": spaces.Discrete(100)}
        self.action_space = {
            "action.0": spaces.MultiDiscrete([3, 4]),
            "action.1": spaces.Box(np.float32([-1, 2]), np.float32([1, 3])),
            "action.2": spaces.Box(np.float32([-1, -2]), np.float32([1, 3])),
        }
        self.ends, self.truncate = ends, truncate

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        self.time = 0
        return {"obs": torch.zeros(2, dtype=torch.int64)}

    def step(self, action: Tensors) -> Transition:
        done = torch.tensor(self.ends[self.time])
        self.time += 1
        final = torch.full((2,), self.time)
        obs = torch.where(done, 0, final)
        never = torch.zeros_like(done)
        flags = (never, done) if self.truncate else (done, never)
        return Transition({"obs": obs}, torch.zeros(2), *flags, {"obs": final}, done)

    def close(self) -> None:
        self.time = -1


def test_spaces_include_those_of_the_actions() -> None:
    env = PreviousAction(GivenEnds([], False))
    assert env.observation_space == {
        "obs": spaces.Discrete(100),
        "previous_action.0": spaces.MultiDiscrete([3, 4]),
        "previous_action.1": env.action_space["action.1"],
        "previous_action.2": env.action_space["action.2"],
        "start": spaces.Discrete(2),
    }
    assert isinstance(env, VecEnv)


def test_the_first_previous_action_is_zero_or_the_lowest() -> None:
    obs = PreviousAction(GivenEnds([], False)).reset(0)
    assert obs["previous_action.0"].tolist() == [[0, 0]] * 2
    assert obs["previous_action.1"].tolist() == [[-1.0, 2.0]] * 2
    assert obs["previous_action.2"].tolist() == [[0.0, 0.0]] * 2
    assert obs["start"].tolist() == [1, 1]
    assert obs["previous_action.0"].dtype == obs["start"].dtype == torch.int64


def test_the_first_previous_action_is_finite_and_in_any_space() -> None:
    inner, largest = GivenEnds([], False), float(np.finfo(np.float32).max)
    inner.action_space = {
        "discrete": spaces.Discrete(3, start=-4),
        "grid": spaces.MultiDiscrete([[2], [3]], start=[[1], [-7]]),
        "scalar": spaces.Box(-np.inf, -2, ()),
        "box": spaces.Box(np.float32([-largest, 1, -np.inf]), np.float32([-5, np.inf, 9])),
    }
    obs = PreviousAction(inner).reset(0)
    first = {key: obs[f"previous_{key}"][0].tolist() for key in inner.action_space}
    assert first == {
        "discrete": -4,
        "grid": [[1], [-7]],
        "scalar": -2.0,
        "box": [-5.0, 1.0, 0.0],
    }


def test_the_next_episode_does_not_observe_the_last_action() -> None:
    ends = [(False, False), (True, False), (False, True), (True, True), (False, False)]
    for truncate in (False, True):
        env = PreviousAction(GivenEnds(ends, truncate))
        env.reset(0)
        for done in ends:
            whole = torch.randint(1, 3, (2, 2))
            box = torch.tensor([[0.5, 2.5], [0.25, 2.25]])
            step = env.step({"action.0": whole, "action.1": box, "action.2": box})
            assert step.obs["start"].tolist() == [int(end) for end in done]
            assert step.final_obs["start"].tolist() == [0, 0]
            assert torch.equal(step.final_obs["previous_action.0"], whole)
            assert torch.equal(step.final_obs["previous_action.1"], box)
            for i, end in enumerate(done):
                assert step.obs["previous_action.0"][i].tolist() == (
                    [0, 0] if end else whole[i].tolist()
                )
                assert step.obs["previous_action.1"][i].tolist() == (
                    [-1.0, 2.0] if end else box[i].tolist()
                )


def test_actions_are_converted_to_the_dtype_of_the_space() -> None:
    env = PreviousAction(GivenEnds([(True, False)], False))
    env.reset(0)
    step = env.step(
        {
            "action.0": torch.ones(2, 2, dtype=torch.int32),
            "action.1": torch.full((2, 2), 2.0, dtype=torch.bfloat16),
            "action.2": torch.zeros(2, 2, dtype=torch.float64),
        }
    )
    for obs in (step.obs, step.final_obs):
        assert obs["previous_action.0"].dtype == torch.int64
        assert obs["previous_action.1"].dtype == torch.float32
        assert obs["previous_action.2"].dtype == torch.float32


def test_close_is_passed_on() -> None:
    script = GivenEnds([], False)
    PreviousAction(script).close()
    assert script.time == -1
