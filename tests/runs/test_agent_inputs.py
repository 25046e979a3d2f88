"""Agents with critic-only leaves, statistics and own encoders, saved and loaded without them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from omegaconf import OmegaConf
from safetensors.torch import load_file

import rlmem
from rlmem import envs
from rlmem.envs.base import VecEnv
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.policies.normalizer import normalizers
from rlmem.runs.agent import Agent, AgentSpec
from tests.policies.encoders import custom
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]


class Hider(gym.Env[Any, Any]):
    """Random observations; the hidden part is nested."""

    observation_space = spaces.Dict(
        {
            "seen": spaces.Box(-1, 1, (2,)),
            "privileged": spaces.Dict(
                {"goal": spaces.Box(-1, 1, (2,)), "kind": spaces.Discrete(3, start=1)}
            ),
            "card": spaces.Discrete(3),
        }
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.observation_space.sample(), 0.5, self.time == 7, False, {}


def agent(env: VecEnv, **policy: Any) -> Agent:
    torch.manual_seed(1)
    spec = AgentSpec.of(env, "ppo", {"core": "gru", "hidden_size": 16, **policy})
    made = Agent(spec.make_policy(), spec, torch.device("cpu"))
    for parameter in made.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def reload(made: Agent, tmp_path: Path) -> Agent:
    made.save(tmp_path / "agent.rlmem")
    return rlmem.load(tmp_path / "agent.rlmem", trust=True)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("name", ["popgym-battleship", "popgym-repeat", "tmaze-passive"])
def test_an_agent_acts_without_the_hidden_state(name: str, separate: bool, tmp_path: Path) -> None:
    env = envs.make(name, num_envs=1, privileged=True)
    made = agent(env, separate_critic=separate)
    loaded = reload(made, tmp_path)
    obs, start = env.reset([3]), torch.tensor([True])
    state = made.policy.initial_state(1)
    for _ in range(20):
        step = made.policy.act(obs, state, start, deterministic=True)
        if start.item():
            loaded.reset()
        action = loaded.act(obs["obs"][0].numpy())
        assert np.array_equal(action, step.action["action"][0].numpy())
        values = [each.policy.value(obs, state, start) for each in (made, loaded)]  # type: ignore[operator]
        assert torch.equal(*values), "the critic reads its leaves in the same order"
        moved = env.step(step.action)
        obs, state, start = moved.obs, step.state, moved.memory_reset
    results = [rlmem.evaluate(loaded, name, episodes=4, privileged=p) for p in (False, True)]
    assert results[0] == results[1]


def test_the_hidden_part_of_a_nested_observation_may_be_missing(tmp_path: Path) -> None:
    made = reload(agent(GymVecEnv([Hider])), tmp_path)
    assert made.policy.critic_only == ("obs.privileged.goal", "obs.privileged.kind")
    env = Hider()
    obs, _ = env.reset(seed=0)
    whole, without, part = [], [], []
    for _ in range(6):
        whole.append(obs)
        without.append({key: leaf for key, leaf in obs.items() if key != "privileged"})
        part.append({**obs, "privileged": {"goal": obs["privileged"]["goal"]}})
        obs, *_ = env.step(0)
    found = []
    for given in (whole, without, part):
        made.reset()
        found.append([made.act(each) for each in given])
    assert found[0] == found[1] == found[2]
    with pytest.raises(ValueError, match="obs is a dict of card, not a dict of"):
        made.act({"card": 1})
    rlmem.evaluate(made, Hider, episodes=2)


def test_chosen_leaves_may_be_missing() -> None:
    made = agent(GymVecEnv([Hider]), critic_only=["seen"])
    env = Hider()
    obs, _ = env.reset(seed=0)
    action = made.act(obs)
    made.reset()
    assert made.act({key: leaf for key, leaf in obs.items() if key != "seen"}) == action
    with pytest.raises(UsageError, match="unknown leaf in critic_only: 'sene'"):
        agent(GymVecEnv([Hider]), critic_only=["sene"])


@pytest.mark.parametrize("name", ["meta-point-robot", "popgym-velocity-only-cartpole"])
def test_spaces_of_known_scale_are_saved_as_such(name: str, tmp_path: Path) -> None:
    made = agent(envs.make(name, num_envs=1))
    assert not normalizers(reload(made, tmp_path).policy)


def test_rewards_of_unknown_scale_are_normalised_after_loading(tmp_path: Path) -> None:
    made = agent(Trials(GymVecEnv([Hider]), episodes=2))
    (found,) = normalizers(reload(made, tmp_path).policy)
    assert found.keys == ("previous_reward",)


def test_an_encoder_of_a_module_is_found_again(tmp_path: Path) -> None:
    env = GymVecEnv([Hider])
    for encoder in (custom.Flat, f"{custom.__name__}:Flat"):
        made = agent(env, encoder=encoder, encoder_options={"gain": 2.0})
        loaded = reload(made, tmp_path)
        obs, _ = Hider().reset(seed=0)
        assert loaded.act(obs) == made.act(obs)
        assert type(loaded.policy.encoder.module).__name__ == "Flat"
    with pytest.raises(UsageError, match="give its class instead"):
        agent(env, encoder=custom.Flat(dict(Hider.observation_space.spaces), 16))


SIZES = ["num_envs=4", "hidden_size=16", "eval_episodes=2", "algo.num_steps=20", "threads=1"]
SIZES += ["algo.num_minibatches=2", "log.tensorboard=false"]
CART_POLE = ["env=gym", "env.id=CartPole-v1", "core=gru"]


def train(folder: Path, *arguments: str) -> str:
    command = [*warm_python(), "-m", "rlmem", "train", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted(run.glob("checkpoints/*/model.safetensors"))[-1])


def test_statistics_are_saved_resumed_and_evaluated(tmp_path: Path) -> None:
    options = [*CART_POLE, *SIZES, "run_dir=run", "total_steps=240", "algo.normalize_reward=true"]
    log = train(tmp_path, *options)
    assert "obs: float32 vector of 4 → 4 inputs, normalised" in log
    run = tmp_path / "run"
    saved = weights(run)
    assert saved["encoder.normalizer.count"].tolist() == [240.0] * 4
    assert saved["reward_moments.count"].tolist() == [240.0]
    evaluated = rlmem.evaluate(rlmem.load(run), lambda: gym.make("CartPole-v1"), episodes=2)
    assert evaluated["returns"] == json.loads((run / "eval.json").read_text())["returns"]
    assert torch.equal(weights(run)["encoder.normalizer.m2"], saved["encoder.normalizer.m2"])
    train(tmp_path, "resume=run", "total_steps=320")
    resumed = weights(run)
    assert resumed["encoder.normalizer.count"].tolist() == [320.0] * 4
    assert resumed["reward_moments.count"].tolist() == [320.0]
    # The new steps have other observations; the mean of both is between.
    share = 240 / 320
    new = (resumed["encoder.normalizer.mean"] - share * saved["encoder.normalizer.mean"]) / (
        1 - share
    )
    assert (new.abs() < 5).all()


def test_runs_of_older_versions_have_no_statistics(tmp_path: Path) -> None:
    options = [*CART_POLE, *SIZES, "run_dir=run", "total_steps=80"]
    log = train(tmp_path, *options, "policy.normalize_obs=false")
    assert "obs: float32 vector of 4 → 4 inputs, not scaled" in log
    run = tmp_path / "run"
    config = OmegaConf.load(run / "config.yaml")
    spec = json.loads((run / "agent.json").read_text())
    for name in ("encoder", "encoder_options", "normalize_obs", "clip_obs", "critic_only"):
        del config.policy[name], spec["policy"][name]
    del config.algo.normalize_reward, spec["policy"]["normalize_reward"], spec["privileged"]
    OmegaConf.save(config, run / "config.yaml")
    (run / "agent.json").write_text(json.dumps(spec))
    assert not normalizers(rlmem.load(run).policy)
    train(tmp_path, "resume=run", "total_steps=160")
    assert not any("normalizer" in name for name in weights(run))


def test_the_command_line_takes_encoders_and_their_options(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(Path(custom.__file__).read_text())
    options = [*CART_POLE, *SIZES, "run_dir=run", "total_steps=80"]
    log = train(
        tmp_path, *options, "policy.encoder=mine.py:Flat", "policy.encoder_options.gain=0.5"
    )
    assert "→ Flat, normalised" in log
    spec = json.loads((tmp_path / "run" / "agent.json").read_text())
    assert spec["policy"]["encoder"] == "mine.py:Flat"
    assert spec["policy"]["encoder_options"] == {"gain": 0.5}
    code = "import rlmem; print(rlmem.load('run', trust=True).policy.encoder.module.gain)"
    done = subprocess.run(
        [*warm_python(), "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "0.5", done.stderr
