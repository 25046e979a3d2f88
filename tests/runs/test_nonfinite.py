"""Trainings whose numbers are not finite any more: stop, skip and rollback."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import rlmem
from rlmem.algos import NonFiniteLoss
from rlmem.algos.nonfinite import nonfinite_part, nonfinite_weight
from rlmem.errors import UsageError
from rlmem.runs.callbacks import Callback, Training
from rlmem.runs.nonfinite import MOST_ROLLBACKS, NumberGuard

SIZES: dict[str, Any] = {
    "core": "gru",
    "num_envs": 2,
    "hidden_size": 8,
    "total_steps": 192,
    "eval_episodes": 1,
    "threads": 1,
    "log.tensorboard": False,
    "log.progress": False,
    "checkpoint_every": 32,
}
ROWS = {"algo.num_steps": 16, "algo.num_minibatches": 2}
REPLAY = {"algo.num_steps": 16, "algo.learning_starts": 32, "algo.replay.capacity": 2000}
REPLAY |= {"algo.replay.batch_size": 4, "algo.replay.length": 8, "algo.replay.stride": 4}
# The others are in tests/algos/test_nonfinite.py.
ALGOS = {"ppo": ROWS, "pqn": ROWS, "sac": REPLAY}
FAULT = 25  # step of an environment with a huge reward


class Huge(gym.Env):
    """Episodes of 10 steps; in the first environment that is made, one reward is 1e30."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, faulty: bool) -> None:
        self.faulty, self.steps, self.time = faulty, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.time, self.steps = self.time + 1, self.steps + 1
        reward = 1e30 if self.faulty and self.steps == FAULT else float(action)
        return self._obs(), reward, self.time == 10, False, {}

    def _obs(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


def once() -> Any:
    """A maker of environments, of which only one is faulty."""
    made: list[Huge] = []

    def make() -> Huge:
        # The first one is asked for its spaces only.
        made.append(Huge(faulty=len(made) == 1))
        return made[-1]

    return make


def train(tmp_path: Path, algo: str = "ppo", **options: Any) -> Any:
    given = {**SIZES, **ALGOS[algo], "algo": algo, "run_dir": str(tmp_path / "run"), **options}
    return rlmem.train(once(), **given)


def rows(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("algo", ALGOS)
def test_a_huge_reward_stops_the_training(algo: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a reward is 1e\+30 \((row|environment) \d, ") as error:
        train(tmp_path, algo)
    assert "training stopped at step " in str(error.value)
    assert "rewards near 1 are needed" in str(error.value)
    numbers = [float(x) for row in rows(tmp_path) for x in row.values() if x]
    assert all(map(math.isfinite, numbers))


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_an_update_is_skipped(
    algo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(tmp_path, algo, on_nonfinite="skip")
    assert result.step == 192
    assert "skipped the update at step " in capsys.readouterr().err
    steps = [int(row["step"]) for row in rows(tmp_path)]
    assert len(steps) < 6
    assert steps[-1] == 192
    assert all(x.isfinite().all() for x in result.agent.policy.state_dict().values())


def test_a_rollback_has_half_the_step_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(tmp_path, on_nonfinite="rollback", **{"algo.learning_rate": 0.01})
    assert result.step == 192
    assert "with algo.learning_rate=0.005" in capsys.readouterr().err
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").algo.learning_rate == 0.005
    steps = [int(row["step"]) for row in rows(tmp_path)]
    assert steps == list(range(32, 193, 32))
    rates = [float(row["learning_rate"]) for row in rows(tmp_path)]
    # Annealed to 0 at the end of the run, from another value after the rollback.
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.005 / 6)


def test_rollbacks_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Poison(Callback):
        def on_iteration(self, training: Training, metrics: Any) -> None:
            with torch.no_grad():
                next(training.algo.policy.parameters()).fill_(torch.nan)

    options = {"on_nonfinite": "rollback", "callbacks": [Poison()], "checkpoint_every": None}
    with pytest.raises(UsageError, match="training stopped at step 32: "):
        train(tmp_path, **options)
    assert capsys.readouterr().err.count("back to the newest checkpoint") == MOST_ROLLBACKS
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown on_nonfinite 'skipp'; did you mean skip"):
        train(tmp_path, on_nonfinite="skipp")


class Algo:
    """The parts of an algorithm that are searched."""

    steps_per_iteration = 1

    def iterate(self, *_: Any) -> dict[str, float]:
        return {}

    state_dict = load_state_dict = iterate

    def __init__(self) -> None:
        self.policy = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        self.collector = type("Collector", (), {"state": (torch.zeros(4, 2), torch.zeros(4, 3))})()


def test_the_place_is_named() -> None:
    algo: Any = Algo()
    assert nonfinite_part(algo) is None
    assert nonfinite_weight(algo.policy) is None
    algo.policy[0].weight.grad = torch.full((3, 2), torch.inf)
    assert nonfinite_part(algo) == "the gradient of 0.weight is not finite"
    algo.collector.state[1][2, 1] = torch.nan
    found = "tensor 1 of the memory state of environment 2 is not finite"
    assert nonfinite_part(algo) == found
    algo.policy[1].running_var[1] = torch.inf
    assert nonfinite_part(algo) == "the weight 1.running_var is not finite"
    assert nonfinite_weight(algo.policy) == "1.running_var"
    with pytest.raises(NonFiniteLoss, match=r"the weight 1.running_var is not finite"):
        NumberGuard("stop").check_weights(algo)


def test_every_metric_is_looked_at() -> None:
    guard = NumberGuard("stop")
    guard.check(Algo(), {"loss": 1.0, "value": -1e300})  # type: ignore[arg-type]
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFiniteLoss, match=f"the metric value is {value:g}"):
            guard.check(Algo(), {"loss": 1.0, "value": value})  # type: ignore[arg-type]
