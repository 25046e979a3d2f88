"""A replay in files returns to its last checkpoint, whatever was written since."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem.data.replay import Replay
from rlmem.data.undo import ENTRIES, UndoLog
from rlmem.envs.base import CannotContinue
from rlmem.errors import UsageError
from tests.data.playing import make, play
from tests.data.test_replay_resume import Echo

# 100 entries in the ring of each of 4 environments, and segments with stored states.
OPTIONS: dict[str, Any] = {"capacity": 400, "alpha": 1.0}


def content(replay: Replay) -> dict[str, Tensor]:
    """Copies of everything in the files."""
    assert replay.states is not None
    leaves = {**replay.storage.leaves, **replay.states.leaves, "written": replay.storage.written}
    return {name: leaf.clone() for name, leaf in leaves.items()}


def existing(replay: Replay, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of the content that a replay may read: entries and states that exist."""
    storage, found = replay.storage, dict(leaves)
    env = torch.arange(4)[:, None]
    entry = storage.head[:, None] - 1 - torch.arange(int(storage.head.min().clamp(max=100)))
    for name in storage.leaves:
        found[name] = leaves[name][storage.slot(env, entry)]
    assert replay.states is not None
    begin = replay.segments.beginning_at(env.expand_as(entry).flatten(), entry.flatten())
    for name in replay.states.leaves:
        found[name] = leaves[name][begin]
    return found


def saved(folder: Path, steps: int) -> tuple[Replay, dict[str, Any], dict[str, Tensor]]:
    """A replay of so many steps, its state and its content."""
    torch.manual_seed(0)
    env = Echo()
    replay = make(env, directory=str(folder / "replay"), **OPTIONS)
    play(replay, env, steps)
    state = replay.state_dict()
    return replay, state, content(replay)


def restored(folder: Path, state: dict[str, Any], **options: Any) -> Replay:
    replay = make(Echo(), directory=str(folder / "replay"), **{**OPTIONS, **options})
    replay.load_state_dict(state, continued=True)
    return replay


def assert_equal(replay: Replay, leaves: dict[str, Tensor]) -> None:
    found = existing(replay, content(replay))
    for name, leaf in existing(replay, leaves).items():
        assert torch.equal(found[name], leaf), name


@pytest.mark.by_day(2)
@pytest.mark.parametrize("more", [1, 40, 90, 250])
@pytest.mark.parametrize("steps", [30, 95, 130])
def test_nothing_of_the_checkpoint_is_lost(steps: int, more: int, tmp_path: Path) -> None:
    replay, state, before = saved(tmp_path, steps)
    play(replay, Echo(first=steps + 1), more)
    replay.flush()
    assert not torch.equal(replay.storage.head, state["storage"]["head"])
    for _ in range(2):  # killed again before its next checkpoint
        again = restored(tmp_path, state)
        assert_equal(again, before)
        play(again, Echo(first=steps + 1), more)
        again.flush()


def test_the_checkpoint_before_an_unfinished_one(tmp_path: Path) -> None:
    replay, state, before = saved(tmp_path, 130)
    play(replay, Echo(first=131), 40)
    replay.state_dict()  # of a checkpoint that was not written any more
    play(replay, Echo(first=171), 70)
    replay.flush()
    assert_equal(restored(tmp_path, state), before)


def test_a_return_that_was_killed_is_repeated(tmp_path: Path) -> None:
    replay, state, before = saved(tmp_path, 130)
    play(replay, Echo(first=131), 150)
    replay.flush()
    log = UndoLog(tmp_path / "replay" / "undo", 4, 100, state["storage"]["undo"])
    assert log.undo(ENTRIES, replay.storage.leaves)
    replay.storage.leaves["reward"][7:50] = 5.0  # the half of another return
    assert_equal(restored(tmp_path, state), before)


def test_an_incomplete_last_record_is_passed_over(tmp_path: Path) -> None:
    replay, state, before = saved(tmp_path, 130)
    play(replay, Echo(first=131), 40)
    replay.flush()
    [newest] = (tmp_path / "replay" / "undo").glob("*-1")
    whole = newest.read_bytes()
    for size in (1, 24, 100):
        newest.write_bytes(whole + whole[:size])
        assert_equal(restored(tmp_path, state), before)
        play(replay, Echo(first=131), 0)


def test_logs_of_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    replay, *_ = saved(tmp_path, 130)
    for _ in range(4):
        play(replay, Echo(first=131), 40)
        replay.state_dict()
    names = sorted(path.name for path in (tmp_path / "replay" / "undo").iterdir())
    assert [name.split("-")[1] for name in names] == ["4", "5"]


def test_later_steps_without_a_log_end_the_episodes(tmp_path: Path) -> None:
    replay, state, _ = saved(tmp_path, 130)
    play(replay, Echo(first=131), 40)
    replay.flush()
    shutil.rmtree(tmp_path / "replay" / "undo")
    with pytest.raises(CannotContinue, match="later steps have overwritten some of its replay"):
        restored(tmp_path, state)
    with pytest.raises(CannotContinue, match=r"algo.replay.batching was segments"):
        restored(tmp_path, state, batching="tape")


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    replay, state, _ = saved(tmp_path, 130)
    play(replay, Echo(first=131), 40)
    replay.flush()
    [newest] = (tmp_path / "replay" / "undo").glob("*-1")
    whole = newest.read_bytes()
    for place, value in ((24, 10**9), (24, -1), (8, -5)):
        newest.write_bytes(
            whole[:place] + value.to_bytes(8, "little", signed=True) + whole[place + 8 :]
        )
        with pytest.raises(UsageError, match=r"does not fit the replay|is damaged"):
            restored(tmp_path, state)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is a link, which is not followed"):
        UndoLog(tmp_path / "link", 4, 100)
