"""Hidden state in infos becomes leaves beside the observations, which only critics see."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlmem
from rlmem.envs.gym_env import GymVecEnv
from rlmem.errors import UsageError
from rlmem.runs import checkpoint

STATES: dict[str, Any] = {
    "number": lambda time, coin: 10 * time + coin,
    "flag": lambda time, coin: bool(coin),
    "array": lambda time, coin: np.array([time, coin], np.int16),
    "list": lambda time, coin: [time, coin],
    "nested": lambda time, coin: {"clock": (time, np.float64(0.5)), "coin": [coin]},
}


class Coin(gym.Env[Any, Any]):
    """Says a coin in its infos only, and rewards the action equal to it; episodes of four steps.

    In step `fault` the state is missing: always, or only if the episode ends there (`over`).
    """

    observation_space: spaces.Space = spaces.Discrete(3)
    action_space = spaces.Discrete(2)

    def __init__(self, form: str = "number", fault: int = 0, over: str = "", mask: bool = False):
        self.form, self.fault, self.over, self.mask = form, fault, over, mask

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.coin, self.time = int(self.np_random.integers(2)), 0
        return self._obs(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        ended = self.time == (self.fault or 4) if self.over else self.time == 4
        flags = ended and self.over != "truncated", ended and self.over == "truncated"
        return self._obs(), float(action == self.coin), *flags, self._info()

    def _obs(self) -> Any:
        return 2

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"privileged": STATES[self.form](self.time, self.coin)}
        if self.time == self.fault and self.time:
            info = {}
        return info | ({"action_mask": [1, 1]} if self.mask else {})


class Shows(Coin):
    """The same coin in the observation."""

    hidden = spaces.Box(-np.inf, np.inf, (), np.float32)
    observation_space = spaces.Dict(shown=spaces.Discrete(3), privileged=hidden)

    def _obs(self) -> Any:
        return {"shown": 2, "privileged": np.float32(10 * self.time + self.coin)}

    def _info(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("form", "vectorization"), [*((form, "sync") for form in STATES), ("nested", "async")]
)
def test_leaves_have_the_values_of_the_infos(form: str, vectorization: str) -> None:
    env = GymVecEnv([lambda: Coin(form)] * 3, vectorization)
    names = {"nested": ["privileged.clock.0", "privileged.clock.1", "privileged.coin"]}
    assert list(env.observation_space) == ["obs", *names.get(form, ["privileged"])]
    coins = [int(np.random.default_rng(seed).integers(2)) for seed in range(3)]
    obs = env.reset(0)
    for time in range(1, 5):
        _same(form, obs, time - 1, coins)
        step = env.step({"action": torch.zeros(3, dtype=torch.int64)})
        _same(form, step.final_obs, time, coins)
        obs = step.obs
    assert step.terminated.all()
    env.close()


def _same(form: str, obs: dict[str, torch.Tensor], time: int, coins: list[int]) -> None:
    assert obs["obs"].tolist() == [2, 2, 2]
    for row, coin in enumerate(coins):
        state = STATES[form](time, coin)
        parts = [*state["clock"], state["coin"]] if form == "nested" else [state]
        leaves = [leaf for key, leaf in obs.items() if key != "obs"]
        assert [leaf[row].tolist() for leaf in leaves] == [np.asarray(p).tolist() for p in parts]
        assert all(leaf.dtype == torch.float32 for leaf in leaves)


def test_beside_a_mask_in_the_infos() -> None:
    env = GymVecEnv([lambda: Coin(mask=True)] * 2)
    assert list(env.observation_space) == [
        *("obs.action_mask", "obs.observation"),
        "privileged",
    ]
    assert env.reset(0)["obs.action_mask"].tolist() == [[1, 1]] * 2
    assert list(env.single_observation_space) == ["action_mask", "observation"]


def test_it_can_be_turned_off_and_is_not_read_beside_an_observed_one() -> None:
    assert list(GymVecEnv([Coin], info_privileged=False).observation_space) == ["obs"]

    class Both(Shows):
        def _info(self) -> dict[str, Any]:
            return {"privileged": 1}

    assert list(GymVecEnv([Both]).observation_space) == ["obs.shown", "obs.privileged"]


@pytest.mark.parametrize(("over", "fine"), [("", False), ("truncated", False), ("end", True)])
def test_a_lost_state_is_one_line_but_after_the_end(over: str, fine: bool) -> None:
    env = GymVecEnv([lambda: Coin(fault=2, over=over)] * 2)
    env.reset(0)
    action = {"action": torch.zeros(2, dtype=torch.int64)}
    env.step(action)
    if fine:
        assert env.step(action).final_obs["privileged"].tolist() == [0, 0]
    else:
        with pytest.raises(UsageError, match="info has no 'privileged' here, and had one at the"):
            env.step(action)
    env.close()


class Odd(Coin):
    """Its state is `state`, later `other`."""

    state: Any = None
    other: Any = None

    def _info(self) -> dict[str, Any]:
        return {"privileged": self.other if self.time else self.state}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("heads", r"info\['privileged'\] must be numbers, .* and privileged is str \(env.info"),
        ({"a": 1, "b": object()}, r"privileged\.b is object"),
        ([[1], [2, 3]], r"privileged is list"),
        ({}, r"privileged is dict"),
    ],
)
def test_a_state_that_is_no_number_is_one_line(state: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GymVecEnv([type("Other", (Odd,), {"state": state})])


@pytest.mark.parametrize("other", [[1.0, 2.0], np.nan])
def test_later_states_are_checked(other: Any) -> None:
    env = GymVecEnv([type("Other", (Odd,), {"state": 1.0, "other": other})])
    env.reset(0)
    with pytest.raises(UsageError, match="environment 0, step 1: privileged"):
        env.step({"action": torch.zeros(1, dtype=torch.int64)})


SIZES: dict[str, Any] = {
    "core": "gru",
    "num_envs": 4,
    "hidden_size": 8,
    "total_steps": 512,
    "eval_episodes": 2,
    "log": {"tensorboard": False, "progress": False},
}
PPO = {"name": "ppo", "num_steps": 32, "num_minibatches": 2}


@pytest.mark.slow
def test_training_equals_that_with_an_observed_state(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = rlmem.train(Coin, run_dir="said", algo=PPO, **SIZES)
    assert (
        "privileged: float32 number → 1 inputs, normalised, critic only" in capsys.readouterr().err
    )
    shown = rlmem.train(Shows, run_dir="shown", algo=PPO, **SIZES)
    blind = rlmem.train(Coin, run_dir="blind", algo=PPO, **SIZES, **{"env.info_privileged": False})
    weights = [checkpoint.load(run).weights for run in ("said", "shown", "blind")]
    names = [key.replace("obs.privileged", "privileged") for key in weights[1]]
    assert [key.replace("obs.shown", "obs") for key in names] == list(weights[0])
    assert all(map(torch.equal, weights[0].values(), weights[1].values()))
    assert len(weights[2]) < len(weights[0])
    assert said.returns == shown.returns
    assert len(blind.returns) == 2

    # An agent acts on the observation alone, also in a process that has only the run folder.
    agent = rlmem.load("said")
    assert agent.act(2) in (0, 1)
    assert rlmem.evaluate(agent, Coin, episodes=4)["episodes"] == 4
    with pytest.raises(UsageError, match="the critic also sees privileged, which only the train"):
        agent.value(2)
    leaves = {"obs": torch.tensor([2]), "privileged": torch.tensor([1.0])}
    state, start = agent.policy.initial_state(1), torch.tensor([True])
    assert agent.value(leaves, state, start).shape == (1,)
    assert rlmem.train(resume="said", env=Coin, total_steps=640).step == 640


def test_an_algorithm_without_such_a_critic_does_not_read_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pqn = {"name": "pqn", "num_steps": 32, "num_minibatches": 2}
    agent = rlmem.train(Coin, run_dir="a", algo=pqn, **SIZES).agent
    assert rlmem.evaluate(agent, Coin, episodes=4)["episodes"] == 4
    # Runs of older versions had no such option.
    config = tmp_path / "a" / "config.yaml"
    rlmem.train(Coin, run_dir="b", algo=PPO, **SIZES, **{"env.info_privileged": False})
    config = tmp_path / "b" / "config.yaml"
    config.write_text(config.read_text().replace("  info_privileged: false\n", ""))
    assert rlmem.train(resume="b", env=Coin, total_steps=640).step == 640
