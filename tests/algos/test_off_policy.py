"""Playing and learning in turns, and runs that go on exactly where they were."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlmem import algos
from rlmem.data.replay import Replay
from rlmem.data.replay_collector import ReplayCollector
from rlmem.data.replay_options import BATCHINGS
from rlmem.envs.base import Tensors
from rlmem.errors import UsageError
from rlmem.policies import QPolicy
from rlmem.runs import checkpoint
from tests.data.counting import Counting
from tests.data.playing import CUT, LENGTHS, filled, make, play

SMALL = {"capacity": 400, "batch_size": 4, "length": 8, "burn_in": 2, "stride": 4}


def collector(**options: Any) -> ReplayCollector:
    env = Counting(LENGTHS, CUT)
    policy = QPolicy(env.observation_space, env.action_space, core="gru", hidden_size=8)
    return ReplayCollector(env, policy, [0] * 4, **{**options, "replay": SMALL | {"alpha": 1.0}})


def test_some_steps_then_some_batches() -> None:
    experience = collector(num_steps=5, num_updates=3, learning_starts=0)
    assert experience.steps == 20
    experience.collect()
    # The episodes of 3 and of 4 steps ended.
    want = {"episodes": 3.0, "episode_return": 31 / 3, "episode_length": 4.0}
    assert experience.episode_metrics() == pytest.approx(want)
    # After 5 steps there is no row of 11 entries yet.
    assert not list(experience.batches(0.0))
    experience.collect()
    updates = [experience.updates for _ in experience.batches(0.1)]
    assert (experience.collected, updates) == (40, [1, 2, 3])


def test_no_batches_before_learning_starts() -> None:
    experience = collector(num_steps=5, num_updates=1, learning_starts=60)
    found = []
    for _ in range(4):
        experience.collect()
        found.append(len(list(experience.batches(0.0))))
    assert found == [0, 0, 1, 1]


def test_the_errors_of_an_update_are_the_new_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = learner("segments", None, alpha=1.0)
    monkeypatch.setattr(algo, "learn", lambda _: ({}, torch.full((4,), 7.0)))
    for _ in range(4):
        algo.iterate(0.0)
    priorities = algo.collector.replay.priorities
    assert priorities is not None
    assert priorities.highest == pytest.approx(7.0, abs=1e-5)


class Same(Counting):
    """Episodes of four steps everywhere, each like the one before."""

    def __init__(self) -> None:
        super().__init__([4] * 4, CUT)

    def _obs(self) -> Tensors:
        return {"obs": torch.stack([torch.zeros(4), self.time], -1)}


def learner(batching: str, directory: Path | None, **replay: Any) -> Any:
    torch.manual_seed(0)
    env = Same()
    policy = QPolicy(env.observation_space, env.action_space, core="gru", hidden_size=8)
    where = None if directory is None else str(directory)
    return algos.make(
        "r2d2",
        env=env,
        policy=policy,
        seed=[0] * 4,
        num_updates=2,
        learning_starts=0,
        target_period=3,
        replay=SMALL | {"batching": batching, "directory": where, "capacity": 240} | replay,
    )


@pytest.mark.by_day(2)
@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    batching: str, in_files: bool, tmp_path: Path
) -> None:
    """Where it was stopped between episodes: no environment can be saved in the middle of one."""
    whole = learner(batching, tmp_path / "a" if in_files else None)
    for _ in range(12):
        expected = whole.iterate(0.5)
    first = learner(batching, tmp_path / "b" if in_files else None)
    for _ in range(7):
        first.iterate(0.5)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    checkpoint.save(tmp_path / "run", 1, first.policy, {"algo": first.state_dict()})
    resumed = learner(batching, tmp_path / "b" if in_files else None)
    point = checkpoint.load(tmp_path / "run")
    point.load_weights(resumed.policy)
    resumed.load_state_dict(point.trainer["algo"])
    checkpoint.set_rng_state(point.trainer["rng"])
    for _ in range(5):
        got = resumed.iterate(0.5)
    assert got == expected
    one, other = resumed.collector, whole.collector
    assert (one.collected, one.updates) == (other.collected, other.updates)
    same(resumed.policy, whole.policy)
    same(resumed.target.network, whole.target.network)
    for name, leaf in whole.collector.replay.storage.leaves.items():
        assert torch.equal(resumed.collector.replay.storage.leaves[name], leaf), name


def same(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("in_files", [False, True])
def test_what_was_not_over_is_truncated(batching: str, in_files: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    where = str(tmp_path / "replay") if in_files else None
    replay = filled(90, batching=batching, directory=where, batch_size=300)
    resumed = make(batching=batching, directory=where, batch_size=300)
    resumed.load_state_dict(replay.state_dict())
    env = Counting(LENGTHS, CUT)
    play(resumed, env, 30)
    batch = resumed.sample(0.0)
    episode, time = batch.obs["obs"].unbind(-1)
    # 90 steps are one episode of 60 and 30 steps of the next, whose last one was observed too.
    cut = batch.truncated & (time[:, 1:] == 30)
    if batching == "segments":  # the others' rows begin with an episode and are shorter
        assert cut.any()
    assert not batch.terminated[cut].any()
    after = batch.start[:, 2:][cut[:, :-1]]
    assert after.all()
    assert (episode[:, 2:][cut[:, :-1]] == 0).all()
    follows = batch.mask & (time[:, 1:] == time[:, :-1] + 1)
    assert torch.equal(follows, batch.mask)


def overwritten(directory: Path) -> tuple[Replay, dict[str, Any]]:
    """A replay in files that went on after it was saved, and was then lost."""
    replay = filled(90, directory=str(directory), alpha=0.0, batch_size=300)
    state = replay.state_dict()
    env = Counting(LENGTHS, CUT)
    play(replay, env, 40)
    replay.flush()
    return replay, state


def test_files_that_were_written_on_hold_less_of_the_past(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lost, state = overwritten(tmp_path / "replay")
    shutil.rmtree(tmp_path / "replay" / "undo")  # as in older versions
    resumed = make(directory=str(tmp_path / "replay"), alpha=0.0, batch_size=300)
    resumed.load_state_dict(state)
    # 100 entries to an environment; what the 40 steps after the checkpoint overwrote is gone.
    assert torch.equal(resumed.storage.oldest, lost.storage.head - 100)
    batch = resumed.sample(0.0)
    _, time = batch.obs["obs"].unbind(-1)
    follows = time[:, 1:] == time[:, :-1] + 1
    assert torch.equal(follows & batch.mask, batch.mask)
    assert torch.equal(batch.start, time == 0)


def test_files_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    filled(10, directory=str(tmp_path / "replay")).flush()
    with pytest.raises(UsageError, match="must be an empty or a new folder"):
        filled(10, directory=str(tmp_path / "replay")).flush()


def test_files_that_are_gone_are_missed(tmp_path: Path) -> None:
    replay = filled(10, directory=str(tmp_path / "replay"))
    state = replay.state_dict()
    with pytest.raises(UsageError, match="elsewhere holds no recorded steps"):
        make(directory=str(tmp_path / "elsewhere")).load_state_dict(state)
