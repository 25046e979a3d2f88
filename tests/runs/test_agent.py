"""Loaded agents act as the policy in its environment did, with the memory and history inside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlmem
from rlmem import envs
from rlmem.envs.base import VecEnv
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.runs import checkpoint
from rlmem.runs.agent import Agent, AgentSpec
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]


class Nested(gym.Env[Any, Any]):
    """Nested observations and actions, drawn at random; episodes of seven steps."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
            "pair": spaces.Tuple([spaces.Discrete(3, start=5), spaces.Box(-1, 1, (2,))]),
        }
    )
    action_space = spaces.Dict({"a": spaces.Discrete(3, start=2), "b": spaces.Box(-2, 2, (2,))})

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.time += 1
        return self.observation_space.sample(), 0.5, self.time == 7, False, {}


def spec(env: VecEnv, algo: str = "ppo", **policy: Any) -> AgentSpec:
    return AgentSpec.of(env, algo, {"core": "gru", "hidden_size": 16, **policy})


def agent(env: VecEnv, algo: str = "ppo", **policy: Any) -> Agent:
    torch.manual_seed(1)
    made = spec(env, algo, **policy)
    return Agent(made.make_policy(), made, torch.device("cpu"))


@pytest.mark.parametrize("algo", ["ppo", "sac", "amago", "dt"])
def test_raw_observations_give_actions_that_the_environment_takes(algo: str) -> None:
    env = Nested()
    vectorised: VecEnv = GymVecEnv([Nested])
    if algo == "dt":
        vectorised = Trials(vectorised, episodes=1)
    acting = agent(vectorised, algo)
    obs, _ = env.reset(seed=0)
    reward = None
    for _ in range(7):
        obs, reward, *_ = env.step(acting.act(obs, reward=reward))


def test_actions_are_those_of_the_policy_in_its_environment() -> None:
    # The environment adds the previous action and a start flag; `act` adds them itself.
    env = envs.make("popgym-repeat", num_envs=1, previous_action=True)
    acting = agent(env)
    obs, state = env.reset([3]), acting.policy.initial_state(1)
    start, raw = torch.tensor([True]), acting.spec.observation_space
    for _ in range(120):
        with torch.no_grad():
            step = acting.policy.act(obs, state, start, deterministic=True)
        inner = raw_observation(raw, obs)
        if start.item():
            acting.reset()
        assert acting.act(inner) == step.action["action"].item()
        batched, after = acting.act(obs, state, start)
        assert torch.equal(batched["action"], step.action["action"])
        assert torch.equal(after, step.state)
        moved = env.step(step.action)
        obs, state, start = moved.obs, step.state, moved.memory_reset


def raw_observation(space: gym.Space, obs: dict[str, torch.Tensor]) -> Any:
    """The observation of environment 0 in the form of its space."""
    if isinstance(space, spaces.Tuple):
        return tuple(obs[f"obs.{i}"][0].numpy() for i in range(len(space)))
    return obs["obs"][0].numpy()


def test_an_agent_of_trials_reads_rewards_and_ends_of_episodes() -> None:
    env = envs.make("meta-dark-room", num_envs=1, episodes=3)
    acting = agent(env)
    obs, state, start = env.reset([2]), acting.policy.initial_state(1), torch.tensor([True])
    reward, ended = None, False
    for t in range(70):
        with torch.no_grad():
            step = acting.policy.act(obs, state, start, deterministic=True)
        if start.item():
            acting.reset()
        given = acting.act(obs["obs"][0].numpy(), reward=reward, new_episode=ended)
        assert given == step.action["action"].item(), t
        moved = env.step(step.action)
        inner_done = moved.obs["previous_done"].item() or moved.memory_reset.item()
        obs, state, start = moved.obs, step.state, moved.memory_reset
        reward, ended = moved.reward.item(), bool(inner_done)
    acting.reset()
    acting.act(obs["obs"][0].numpy())
    with pytest.raises(UsageError, match="learns from its rewards"):
        acting.act(obs["obs"][0].numpy())


@pytest.mark.parametrize("algo", ["ppo", "pqn"])
def test_values_are_those_of_the_critic_and_leave_the_memory_alone(algo: str) -> None:
    env = envs.make("meta-dark-room", num_envs=1, episodes=2)
    acting = agent(env, algo)
    obs, state, start = env.reset([2]), acting.policy.initial_state(1), torch.tensor([True])
    reward, ended = None, False
    for _ in range(30):
        inputs = obs["obs"][0].numpy()
        with torch.no_grad():
            step = acting.policy.act(obs, state, start, deterministic=True)
            wanted = acting.policy.value(obs, state, start)  # type: ignore[attr-defined]
        for _ in range(2):
            given = acting.value(inputs, reward=reward, new_episode=ended)
            assert (given, type(given)) == (wanted.item(), float)
        assert torch.equal(acting.value(obs, state, start), wanted)
        action = acting.act(inputs, reward=reward, new_episode=ended)
        assert action == step.action["action"].item()
        moved = env.step(step.action)
        obs, state, start = moved.obs, step.state, moved.memory_reset
        if start.item():
            acting.reset()
        reward, ended = moved.reward.item(), bool(moved.obs["previous_done"].item())


def test_values_without_a_critic_are_one_line() -> None:
    acting = agent(GymVecEnv([Nested]))
    obs, _ = Nested().reset(seed=0)
    with pytest.raises(UsageError, match="needs both state and start"):
        acting.value({}, start=torch.tensor([True]))
    for algo in ("sac", "amago"):
        with pytest.raises(UsageError, match=f"'{algo}' has no value: it has no critic, or one th"):
            agent(GymVecEnv([Nested]), algo).value(obs)


def test_a_privileged_critic_needs_its_leaves() -> None:
    env = envs.make("popgym-repeat", num_envs=1, privileged=True)
    acting = agent(env)
    assert acting.act(2) in range(4)
    with pytest.raises(UsageError, match=r"also sees privileged.cards, privileged.left, which on"):
        acting.value(2)
    obs, state, start = env.reset([3]), acting.policy.initial_state(1), torch.tensor([True])
    assert acting.value(obs, state, start).shape == (1,)
    with pytest.raises(UsageError, match=r"value\(obs, state, start\) takes them as leaves"):
        acting.value({"obs": obs["obs"]}, state, start)


def test_a_saved_file_is_the_same_agent(tmp_path: Path) -> None:
    first = agent(GymVecEnv([Nested]), core="s5", core_options={"ssm_size": 16})
    first.save(tmp_path / "agent.rlmem")
    again = rlmem.load(tmp_path / "agent.rlmem")
    env = Nested()
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        one, other = first.act(obs), again.act(obs)
        assert one["a"] == other["a"]
        np.testing.assert_array_equal(one["b"], other["b"])
        obs, *_ = env.step(one)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "agent.rlmem").write_text(text)
    with pytest.raises(UsageError, match="not an agent file"):
        rlmem.load(tmp_path / "agent.rlmem")
    with pytest.raises(UsageError, match="neither a run folder nor an agent file"):
        rlmem.load(tmp_path / "nothing")
    agent(GymVecEnv([Nested])).save(tmp_path / "agent.rlmem")
    with pytest.raises(UsageError, match="one agent: it has no checkpoint 'best'"):
        rlmem.load(tmp_path / "agent.rlmem", checkpoint="best")


def test_evaluate_plays_unseen_seeds() -> None:
    acting = agent(envs.make("popgym-repeat", num_envs=1), core="none")
    result = rlmem.evaluate(acting, "popgym-repeat", episodes=8)
    assert len(result["returns"]) == result["episodes"] == 8
    assert result == rlmem.evaluate(acting, "popgym-repeat", episodes=8)
    assert result["unfinished"] == 0
    cut = rlmem.evaluate(acting, "popgym-repeat", episodes=8, eval_max_steps=3)
    assert cut["unfinished"] == 8
    with pytest.raises(UsageError, match="the agent observes"):
        rlmem.evaluate(acting, "popgym-autoencode", episodes=2)


BLOCKED = ("hydra", "omegaconf", "torchrl", "tensordict", "popgym", "tensorboard", "matplotlib")


def test_loading_needs_neither_hydra_nor_torchrl_nor_simulators(tmp_path: Path) -> None:
    agent(GymVecEnv([Nested])).save(tmp_path / "agent.rlmem")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))
import numpy as np, rlmem
agent = rlmem.load({str(tmp_path / "agent.rlmem")!r})
print(agent.act({{"image": np.zeros((4, 4, 1), np.uint8), "pair": (5, np.zeros(2))}})["a"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {"2", "3", "4"}


@pytest.mark.parametrize(
    "options",
    [
        ["env=popgym-repeat", "core=ffm"],
        ["env=meta-bandit", "core=s5", "layers=2", "algo.separate_critic=true"],
        ["env=popgym-position-only-pendulum", "core=gru", "algo=sac", "algo.learning_starts=50"],
    ],
    ids=lambda options: options[0],
)
def test_a_run_folder_is_an_agent(options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    sizes = ["num_envs=4", "hidden_size=16", "total_steps=400", "eval_episodes=2"]
    sizes += ["algo.num_steps=20"] + ["algo.num_minibatches=2"] * ("algo=sac" not in options)
    train(f"run_dir={run}", *options, *sizes)
    loaded = rlmem.load(run, checkpoint=checkpoint.steps(run)[-1])
    evaluated = rlmem.evaluate(loaded, options[0].removeprefix("env="), episodes=2)
    found = json.loads((run / "eval.json").read_text())
    assert evaluated["returns"] == found["returns"]
    # A file of it knows its environment, and is evaluated as the folder; it stays alone.
    file = tmp_path / "alone" / "agent.rlmem"
    file.parent.mkdir()
    loaded.save(file)
    out = command("eval", f"run={file}", "episodes=2")
    kept = ("step", "seed", "return_mean", "return_std", "episodes", "deterministic")
    assert {key: json.loads(out)[key] for key in kept} == {key: found[key] for key in kept}
    assert [each.name for each in file.parent.iterdir()] == ["agent.rlmem"]


def train(*arguments: str) -> None:
    command("train", *arguments, "log.tensorboard=false")


def command(*arguments: str) -> str:
    words = [*warm_python(), "-m", "rlmem", *arguments]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
