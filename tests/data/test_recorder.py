"""Recording: datasets equal the steps of the run, and survive crashes and other runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gymnasium import spaces

from rlmem.cli.main import main
from rlmem.data.dataset import Dataset
from rlmem.data.recorder import Recorder
from rlmem.data.rollout import Collector
from rlmem.data.segments import pack
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic
from tests.cli.common import SMALL
from tests.data.counting import Counting


def recorder(folder: Path, steps: int = 100) -> Recorder:
    # Row 0 is truncated after 3 steps, row 1 terminates after 4, row 2 never ends.
    env = Counting([3, 4, 10**6], [True, False, False])
    recorder = Recorder(env, folder, {"algo": {"name": "none"}})
    recorder.reserve(steps)
    return recorder


def play(folder: Path, steps: int) -> torch.Tensor:
    """Records random actions; returns them [steps, 3]."""
    env = recorder(folder, steps)
    env.reset()
    actions = torch.randint(2, (steps, 3))
    for action in actions:
        env.step({"action": action})
    env.close()
    return actions


def test_a_stream_equals_the_recorded_steps(tmp_path: Path):
    actions = play(tmp_path / "data", 70)
    data = Dataset(tmp_path / "data")
    assert data.steps == 210
    for stream, length in enumerate((3, 4, 70)):
        episodes = data.episodes[data.episodes[:, 0] == stream]
        rest = [70 % length] if 70 % length else []
        assert episodes[:, 2].tolist() == [length] * (70 // length) + rest
        rows = data.read(*pack(episodes[None], 70))
        assert rows.action["action"][0].tolist() == actions[:, stream].tolist()
        time = torch.arange(70) % length
        assert rows.obs["obs"][0, :, 1].tolist() == time.tolist()
        assert rows.obs["obs"][0, :, 0].tolist() == (torch.arange(70) // length).tolist()
        assert rows.reward[0].tolist() == (time + 1).tolist()
        assert rows.first[0].tolist() == (time == 0).tolist()
    # The last episodes of rows 0 and 1 are incomplete; row 2 never ends.
    assert (~data.whole).sum() == 3
    assert sorted(set(data.returns.tolist())) == [6, 10]


def test_returns_to_go_by_hand(tmp_path: Path):
    play(tmp_path, 8)
    data = Dataset(tmp_path)
    rows = data.read(*pack(data.episodes[data.episodes[:, 0] == 1][None], 8))
    assert rows.return_to_go[0].tolist() == [10, 9, 7, 4, 10, 9, 7, 4]


def test_another_run_gets_its_own_folder(tmp_path: Path):
    one, two = play(tmp_path, 5), play(tmp_path, 6)
    data = Dataset(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["000", "001"]
    assert [
        json.loads((tmp_path / p / "about.json").read_text())["steps"] for p in ("000", "001")
    ] == [15, 18]
    last = data.episodes[data.episodes[:, 0] == 5]
    mixed = torch.cat([last, data.episodes[data.episodes[:, 0] == 2]])
    rows = data.read(*pack(mixed[None], 11))
    assert rows.action["action"][0].tolist() == [*two[:, 2].tolist(), *one[:, 2].tolist()]


def test_steps_before_a_crash_are_kept(tmp_path: Path):
    env = recorder(tmp_path)
    env.reset()
    for _ in range(70):
        env.step({"action": torch.zeros(3, dtype=torch.int64)})
    # Never closed: only the pending steps are lost.
    assert Dataset(tmp_path).steps == 64 * 3


def test_a_reset_starts_another_episode(tmp_path: Path):
    env = recorder(tmp_path)
    for _ in range(2):
        env.reset()
        env.step({"action": torch.zeros(3, dtype=torch.int64)})
    env.close()
    data = Dataset(tmp_path)
    assert data.episodes.tolist() == [[s, e, 1] for s in range(3) for e in range(2)]
    assert not data.whole.any()


def test_other_spaces_are_refused_and_nothing_is_written(tmp_path: Path):
    play(tmp_path, 5)
    env = Counting([3], [True])
    env.observation_space = {"obs": spaces.Box(0, 1, (3,))}
    with pytest.raises(UsageError, match="experience of other spaces: its observation_space is"):
        Recorder(env, tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["000"]
    (tmp_path / "notes").mkdir()
    with pytest.raises(UsageError, match="is not a dataset: notes is no recorded run"):
        recorder(tmp_path)
    with pytest.raises(UsageError, match="holds no dataset"):
        Dataset(tmp_path / "nowhere")


def test_an_older_dataset_is_named_and_can_be_renamed(tmp_path: Path):
    play(tmp_path, 5)
    about = tmp_path / "000" / "about.json"
    text = about.read_text()
    (tmp_path / "000" / "storage").rename(tmp_path / "000" / "tapes")
    for written, advice in (
        ("1", "not 2: rename its folder tapes to storage and write format 2 in about.json"),
        ("3", "not 2, which this version of rlmem reads"),
    ):
        about.write_text(text.replace('"format": 2', f'"format": {written}'))
        with pytest.raises(UsageError, match=f"000 has format {written} of datasets, {advice}"):
            Dataset(tmp_path)
    about.write_text(text)
    (tmp_path / "000" / "tapes").rename(tmp_path / "000" / "storage")
    assert Dataset(tmp_path).steps == 15


def test_recording_does_not_change_the_run(tmp_path: Path):
    def rollout(record: bool) -> dict[str, torch.Tensor]:
        env = recorder(tmp_path) if record else recorder(tmp_path).env
        torch.manual_seed(3)
        policy = ActorCritic(env.observation_space, env.action_space, core="gru", hidden_size=8)
        out = Collector(env, policy, 20, seed=[0, 2, 4]).collect()
        return {"reward": out.reward, "next": out.next_value, "log_prob": out.log_prob}

    plain, recorded = rollout(False), rollout(True)
    assert all(torch.equal(plain[key], recorded[key]) for key in plain)


def test_the_command_line_records_every_step_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *SMALL, "record=data", "core=none", "seed=0,1"]) == 0
    data = Dataset("data")
    assert len(data.runs) == 2
    assert data.steps == 2 * 256
    assert data.about["algo"]["name"] == "ppo"
    assert data.about["env"]["difficulty"] == "easy"
    assert sorted(run.about["seed"] for run in data.runs) == [0, 1]
    dt = ["algo=dt", "algo.dataset=data", "algo.batch_size=2", "algo.length=8", "total_steps=160"]
    small = [option for option in SMALL if not option.startswith(("algo.", "total_steps"))]
    assert main(["train", *small, *dt, "run_dir=agent"]) == 0
    # The agent reads rewards, also when it is played or evaluated later.
    assert main(["play", "run=agent"]) == 0
    assert main(["eval", "run=agent", "episodes=1"]) == 0
