"""Conversion of a Minari dataset that is made here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlmem import algos, envs
from rlmem.data.dataset import Dataset
from rlmem.data.minari import convert
from rlmem.data.segments import pack
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.policies.sequence import ReturnPolicy

ID = "rlmem/cartpole-v0"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Minari dataset of five CartPole episodes with random actions."""
    minari = pytest.importorskip("minari", reason="needs the extra minari")
    pytest.importorskip("h5py", reason="needs the extra minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = gym.make("CartPole-v1", max_episode_steps=15)
    # Equal to the output of Minari's own collector, which needs jax.
    buffers = [minari.data_collector.EpisodeBuffer(**episode(env, seed)) for seed in range(5)]
    about = {"author": "rlmem", "author_email": "rlmem", "code_permalink": "rlmem"}
    return minari.create_dataset_from_buffers(ID, buffers, env=env, **about)


def episode(env: gym.Env, seed: int) -> dict[str, Any]:
    """An episode with random actions."""
    observations = [env.reset(seed=seed)[0]]
    env.action_space.seed(seed)
    steps: list[tuple[Any, ...]] = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        action = env.action_space.sample()
        observation, *rest = env.step(action)
        observations.append(observation)
        steps.append((action, *rest[:3]))
    names = ("actions", "rewards", "terminations", "truncations")
    columns = {
        name: list(each) for name, each in zip(names, zip(*steps, strict=False), strict=True)
    }
    return {"id": seed, "seed": seed, "observations": observations, **columns}


@pytest.mark.filterwarnings("ignore")
def test_conversion_keeps_all_values(made: Any, tmp_path: Path):
    convert(ID, tmp_path / "data")
    data = Dataset(tmp_path / "data")
    assert data.steps == made.total_steps
    assert data.whole.tolist() == [True] * 5
    for i, original in enumerate(made.iterate_episodes()):
        steps = len(original.rewards)
        rows = data.read(*pack(data.episodes[None, i : i + 1], steps))
        np.testing.assert_array_equal(rows.obs["obs"][0].numpy(), original.observations[:-1])
        assert rows.action["action"][0].tolist() == original.actions.tolist()
        assert rows.reward[0].tolist() == original.rewards.tolist()
        assert data.returns[i] == original.rewards.sum()
    storage = data.runs[0].storage
    ends = [original.observations[-1] for original in made.iterate_episodes()]
    last = (data.episodes[:, 1] + data.episodes[:, 2])[:, None]
    np.testing.assert_array_equal(storage.read(last)["obs0"][:, 0].numpy(), ends)


@pytest.mark.filterwarnings("ignore")
def test_dt_learns_from_it(made: Any, tmp_path: Path):
    convert(ID, tmp_path / "data")
    env = Trials(envs.make("gym", num_envs=1, id="CartPole-v1"), episodes=1)
    policy = ReturnPolicy(env.observation_space, env.action_space, core="gru", hidden_size=8)
    dt = algos.make("dt", env=env, policy=policy, seed=[0], dataset=str(tmp_path / "data"))
    losses = [dt.iterate(0.0)["loss"] for _ in range(3)]
    assert losses[-1] < losses[0]
    env.close()


def test_a_missing_minari_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UsageError, match=r"needs minari: pip install 'rlmem\[minari\]'"):
        convert(ID, tmp_path)


def test_a_missing_dataset_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("minari", reason="needs the extra minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no Minari dataset rlmem/none-v0 here"):
        convert("rlmem/none-v0", tmp_path / "data")
