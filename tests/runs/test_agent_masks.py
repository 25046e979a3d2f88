"""Agents of masked environments act legally on raw observations and infos, also from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlmem
from rlmem.cli.hydra_errors import compose
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.runs import train
from rlmem.runs.agent import Agent, AgentSpec


class Doors(gym.Env[Any, Any]):
    """One of four doors is open, and shown by the mask only; any other one is an error.

    The mask is a part of the observation (`where="obs"`) or of the infos.
    """

    action_space = spaces.Discrete(4, start=1)

    def __init__(self, where: str = "obs") -> None:
        self.where = where
        number: spaces.Space = spaces.Box(0, 1, (2,))
        mask = spaces.Box(0, 1, (4,), np.int8)
        self.observation_space = (
            spaces.Dict({"observation": number, "action_mask": mask}) if where == "obs" else number
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._next()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.mask[action - 1], (action, self.mask)
        self.time += 1
        obs, info = self._next()
        return obs, float(action == 2), self.time == 8, False, info

    def _next(self) -> tuple[Any, dict[str, Any]]:
        self.mask = np.zeros(4, np.int8)
        self.mask[self.np_random.integers(4)] = 1
        self.mask[1] |= int(self.np_random.random() < 0.5)
        number = self.np_random.random(2).astype(np.float32)
        if self.where == "obs":
            return {"observation": number, "action_mask": self.mask.copy()}, {}
        return number, {"action_mask": self.mask.copy()}


class DoorsInfo(Doors):
    """The mask is in the infos."""

    def __init__(self) -> None:
        super().__init__("info")


def agent(where: str, algo: str = "ppo") -> Agent:
    env: Any = GymVecEnv([lambda: Doors(where)])
    env = Trials(env, episodes=1) if algo == "dt" else env
    spec = AgentSpec.of(env, algo, {"core": "gru", "hidden_size": 8})
    spec = AgentSpec.from_json(spec.to_json(), "here")
    return Agent(spec.make_policy(), spec, torch.device("cpu"))


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("algo", ["ppo", "pqn", "sac", "amago", "dt"])
@pytest.mark.parametrize("where", ["obs", "info"])
def test_raw_observations_with_masks_give_legal_actions(
    where: str, algo: str, deterministic: bool
) -> None:
    acting, env = agent(where, algo), Doors(where)
    obs, info = env.reset(seed=0)
    reward = None
    for _ in range(30):
        given = {"action_mask": info["action_mask"]} if where == "info" else {}
        action = acting.act(obs, reward=reward, deterministic=deterministic, **given)
        obs, reward, done, _, info = env.step(action)
        if done:
            obs, info = env.reset()
            acting.reset()
            reward = None


def test_missing_masks_and_masks_without_an_action_are_one_line() -> None:
    acting = agent("info")
    with pytest.raises(UsageError, match="this agent needs a mask: act"):
        acting.act(np.zeros(2, np.float32))
    with pytest.raises(UsageError, match=r"the mask obs\.action_mask allows no action"):
        acting.act(np.zeros(2, np.float32), action_mask=[0, 0, 0, 0])
    shown = agent("obs")
    with pytest.raises(UsageError, match="this agent needs a mask"):
        shown.act({"observation": np.zeros(2, np.float32)})
    plain = GymVecEnv([lambda: gym.make("CartPole-v1")])
    spec = AgentSpec.of(plain, "ppo", {"core": "gru", "hidden_size": 8})
    untaught = Agent(spec.make_policy(), spec, torch.device("cpu"))
    with pytest.raises(UsageError, match="trained without an action mask"):
        untaught.act(np.zeros(4, np.float32), action_mask=[1, 1])


def run(tmp_path: Path, *options: str) -> Path:
    small = ["num_envs=4", "hidden_size=8", "total_steps=1024", "core=gru", "eval_episodes=4"]
    sizes = ["algo.num_steps=32", "algo.num_minibatches=2", "log.progress=false"]
    train.run(compose("train", [*small, *sizes, f"run_dir={tmp_path / 'run'}", *options]))
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["Doors", "DoorsInfo"])
def test_a_run_trains_evaluates_and_loads(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, "env=gym", f"env.id=tests.runs.test_agent_masks:{name}")
    assert "obs.action_mask: mask of 4 values of action → legal actions" in capsys.readouterr().err
    # An illegal action is an error of the environment.
    assert json.loads((folder / "eval.json").read_text())["episodes"] == 4
    acting = rlmem.load(folder)
    env = DoorsInfo() if name == "DoorsInfo" else Doors()
    obs, info = env.reset(seed=3)
    for _ in range(8):
        obs, *_, info = env.step(acting.act(obs, action_mask=info.get("action_mask")))
    assert rlmem.evaluate(acting, type(env), episodes=3)["episodes"] == 3


def test_the_mask_can_be_an_ordinary_observation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the environment failed: AssertionError"):
        run(
            tmp_path,
            "env=gym",
            "env.id=tests.runs.test_agent_masks:Doors",
            "policy.action_mask=false",
        )


def test_a_masked_task_of_popgym_has_no_memory_score(tmp_path: Path) -> None:
    folder = run(tmp_path, "env=popgym-minesweeper", "env.action_mask=true")
    assert "memory_score" not in json.loads((folder / "eval.json").read_text())
