"""A replay restored with other options: every step keeps its own reward, flags and memory state.

The environment observes the number of its own steps, and rewards each action with the observation
before it, so that a step at a wrong place shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlmem import tree
from rlmem.data.batch import SequenceBatch
from rlmem.data.replay import Replay
from rlmem.data.replay_options import BATCHINGS
from rlmem.envs.base import Tensors, Transition
from rlmem.errors import UsageError
from tests.data.counting import Counting
from tests.data.playing import CUT, LENGTHS, make, play

# Ring of 100 entries for each of 4 environments; 130 steps are more, 30 steps fewer.
CAPACITY, WRAPPED, PARTLY = 400, 130, 30


class Echo(Counting):
    """Observes (environment, number of the step + 1, time in the episode); see the module."""

    def __init__(self, first: int = 0) -> None:
        super().__init__(LENGTHS, CUT)
        self.observation_space = {"obs": self.observation_space["obs"].__class__(0, 1e6, (3,))}
        self.steps = first

    def step(self, action: Tensors) -> Transition:
        before = self._obs()["obs"][:, 1]
        self.steps += 1
        return super().step(action)._replace(reward=before)

    def _obs(self) -> Tensors:
        number = torch.full((4,), self.steps + 1.0)
        return {"obs": torch.stack([torch.arange(4.0), number, self.time], -1)}


def check(batch: SequenceBatch, cut_after: int | None = None) -> None:
    """The batch holds the steps of `Echo`; the run was stopped after `cut_after` steps."""
    env, number, time = batch.obs["obs"].unbind(-1)
    step = batch.mask
    assert torch.equal(batch.reward[step], number[:, :-1][step])
    assert torch.equal(batch.start, time == 0)
    # The next entry is the observation after the step, of the same episode.
    assert torch.equal(number[:, 1:][step], number[:, :-1][step] + 1)
    assert torch.equal(time[:, 1:][step], time[:, :-1][step] + 1)
    assert torch.equal(env[:, 1:][step], env[:, :-1][step])
    length, ends = torch.tensor(LENGTHS)[env.long()], torch.tensor(CUT)[env.long()]
    last = time[:, 1:] == length[:, 1:]
    stopped = number[:, :-1] == (-1 if cut_after is None else cut_after)
    assert torch.equal(batch.terminated & step, last & ~ends[:, 1:] & step)
    assert torch.equal(batch.truncated & step, (last & ends[:, 1:] | stopped & ~last) & step)
    # Masked entries are final observations, after which an episode starts.
    final = ~step[:, batch.burn_in :]
    assert torch.equal(batch.start[:, 1 + batch.burn_in :][final], final[final])


def states_at(added: list[tuple[Any, ...]]) -> dict[tuple[int, int], Any]:
    """The memory state before each observation that was acted on, by environment and number."""
    found = {}
    for obs, _, state, _, _ in added:
        for env, number, _ in obs["obs"].long().tolist():
            found[env, number] = tree.map(lambda leaf, env=env: leaf[env], state)
    return found


def check_states(batch: SequenceBatch, written: dict[tuple[int, int], Any]) -> int:
    """First states are those written, or finite at a masked final observation; returns how many."""
    found = 0
    for row, (env, number, _) in enumerate(batch.obs["obs"][:, 0].long().tolist()):
        state = [leaf[row] for leaf in tree.leaves(batch.state)]
        assert all(leaf.isfinite().all() for leaf in state)
        if batch.mask[row, 0]:
            want = tree.leaves(written[env, number])
            assert all(torch.equal(a, b) for a, b in zip(state, want, strict=True))
            found += 1
    return found


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Uninitialised memory is NaN."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def samples(replay: Replay, count: int = 20) -> Iterator[SequenceBatch]:
    return (replay.sample(0.0) for _ in range(count))


def place(folder: Path, in_files: bool) -> str | None:
    return str(folder / "replay") if in_files else None


@pytest.mark.by_day(4)
@pytest.mark.parametrize("steps", [PARTLY, WRAPPED])
@pytest.mark.parametrize("capacity", [160, CAPACITY, 1000])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_steps_keep_their_rewards_in_another_capacity(
    batching: str, capacity: int, steps: int
) -> None:
    torch.manual_seed(0)
    env = Echo()
    options = {"batching": batching, "alpha": 1.0}
    saved = make(env, capacity=CAPACITY, **options)
    written = states_at(play(saved, env, steps))
    resumed = make(Echo(), capacity=capacity, batch_size=64, **options)
    resumed.load_state_dict(saved.state_dict())
    # All entries that were stored, and the final observations of unfinished episodes.
    ended = resumed.storage.head - saved.storage.head
    stored = saved.storage.head - saved.storage.oldest + ended
    kept = resumed.storage.head - resumed.storage.oldest
    assert torch.equal(kept, stored.clamp(max=resumed.storage.slots))
    if resumed.ready:
        for batch in samples(resumed):
            check(batch, steps)
            if batching == "segments":
                check_states(batch, written)
    # Further steps overwrite the oldest ones, and only those.
    further = Echo(first=steps + 1)
    written |= states_at(play(resumed, further, 60))
    for batch in samples(resumed):
        check(batch, steps)
        if batching == "segments":
            assert check_states(batch, written) > 0


@pytest.mark.by_day(4)
@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize("after", BATCHINGS)
@pytest.mark.parametrize("before", BATCHINGS)
def test_another_batching(before: str, after: str, in_files: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    env, where = Echo(), place(tmp_path, in_files)
    options = {"capacity": CAPACITY, "directory": where, "stored_state": False, "alpha": 1.0}
    saved = make(env, batching=before, **options)
    play(saved, env, WRAPPED)
    resumed = make(Echo(), batching=after, batch_size=64, **options)
    resumed.load_state_dict(saved.state_dict())
    for _ in range(2):
        seen = set()
        for batch in samples(resumed):
            check(batch, WRAPPED)
            seen |= set(batch.obs["obs"][..., 0].flatten().tolist())
        # Rows that begin with the episode of 60 steps exist while its first step is stored.
        assert seen >= {0, 1, 2}
        play(resumed, Echo(first=WRAPPED + 1), 60)


@pytest.mark.by_day(4)
@pytest.mark.parametrize("capacity", [240, CAPACITY, 1000])
@pytest.mark.parametrize("stride", [4, 8, 12])
def test_states_and_priorities_follow_to_another_stride(stride: int, capacity: int) -> None:
    torch.manual_seed(0)
    env = Echo()
    saved = make(env, core="ffm", capacity=CAPACITY, alpha=0.5)
    written = states_at(play(saved, env, WRAPPED))
    saved.flush()
    assert saved.priorities is not None
    ids = saved.segments.ids()
    # The priority of a segment is the number of its first entry.
    saved.update_priorities(ids, (saved.segments.locate(ids)[1]).float())
    saved.update_priorities(ids[:1], torch.tensor([1e4]))
    highest = saved.segments.locate(ids[:1])
    resumed = make(
        Echo(), core="ffm", capacity=capacity, alpha=0.5, stride=stride, length=5, batch_size=64
    )
    resumed.load_state_dict(saved.state_dict())
    assert resumed.priorities is not None
    begin = resumed.segments.ids()
    env_of, first = resumed.segments.locate(begin)
    new = first + 9 > saved.storage.head[env_of]  # the saved rows were longer
    want = torch.where(new, 1e4, first.float())
    want[(env_of == highest[0]) & (first == highest[1])] = 1e4
    torch.testing.assert_close(
        resumed.priorities.tree.get(begin), (want.double() + 1e-6) ** 0.5, rtol=1e-6, atol=0
    )
    assert len(begin) > 12
    for batch in samples(resumed):
        check(batch, WRAPPED)
        assert check_states(batch, written) > 0
    written |= states_at(play(resumed, Echo(first=WRAPPED + 1), 150))
    for batch in samples(resumed):
        check(batch, WRAPPED)
        assert check_states(batch, written) > 0


def test_from_memory_to_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    env, folder = Echo(), str(tmp_path / "replay")
    saved = make(env, capacity=CAPACITY)
    written = states_at(play(saved, env, WRAPPED))
    moved = make(Echo(), capacity=600, directory=folder)
    moved.load_state_dict(saved.state_dict())
    again = make(Echo(), capacity=600, directory=folder, batch_size=64)
    again.load_state_dict(moved.state_dict())
    for batch in samples(again):
        check(batch, WRAPPED)
        assert check_states(batch, written) > 0


def test_resumed_twice_with_other_capacities() -> None:
    torch.manual_seed(0)
    env = Echo()
    replay = make(env, capacity=CAPACITY)
    written = states_at(play(replay, env, WRAPPED))
    for capacity in (200, 1200, 200, 480):
        other = make(Echo(), capacity=capacity, batch_size=64)
        other.load_state_dict(replay.state_dict())
        for batch in samples(other):
            check(batch, WRAPPED)
            assert check_states(batch, written) > 0
        # The entries that the smallest ring lost do not come back.
        assert (other.storage.head - other.storage.oldest <= 51).all()
        replay = other


@pytest.mark.parametrize("in_files", [False, True])
def test_a_segment_that_begins_where_an_episode_was_cut_has_a_state(
    in_files: bool, tmp_path: Path
) -> None:
    """Every stopped episode ends with an entry of its own, which may be the first of a segment."""
    for steps in range(40, 44):
        torch.manual_seed(0)
        env, where = Echo(), place(tmp_path / str(steps), in_files)
        saved = make(env, capacity=CAPACITY, directory=where)
        written = states_at(play(saved, env, steps))
        resumed = make(Echo(), capacity=CAPACITY, directory=where, batch_size=64)
        resumed.load_state_dict(saved.state_dict())
        if in_files:  # new files hold zeros, not the values of other memory
            final = resumed.segments.beginning_at(torch.arange(4), resumed.storage.head - 1)
            assert all((leaf[final] == 0).all() for leaf in resumed.states.leaves.values())
        # The state is saved, too: resume again.
        written |= states_at(play(resumed, Echo(first=steps + 1), 21))
        again = make(Echo(), capacity=CAPACITY, directory=where, batch_size=64)
        again.load_state_dict(resumed.state_dict())
        for batch in samples(again):
            assert check_states(batch, written) > 0


def resume_from(saved: dict[str, Any], **options: Any) -> None:
    make(Echo(), **{"capacity": CAPACITY, **options}).load_state_dict(saved)


def test_options_that_a_saved_replay_cannot_have() -> None:
    env = Echo()
    saved = make(env, capacity=CAPACITY)
    play(saved, env, WRAPPED)
    state = saved.state_dict()
    with pytest.raises(UsageError, match=r"stride=a multiple of 4, or with algo.replay"):
        resume_from(state, stride=6)
    with pytest.raises(UsageError, match="do not fit its memory core: resume with the core"):
        resume_from(state, core="lstm")
    resume_from(state, stride=6, stored_state=False)
    without = make(env, capacity=CAPACITY, stored_state=False)
    play(without, env, 20)
    with pytest.raises(UsageError, match=r"stored no memory states: resume with algo.replay"):
        resume_from(without.state_dict())
    env.num_envs = 3
    other = make(env, stored_state=False)
    with pytest.raises(UsageError, match="the steps of 4 environments: resume with num_envs=4"):
        other.load_state_dict(state)


def test_options_that_a_replay_in_files_cannot_have(tmp_path: Path) -> None:
    env, folder = Echo(), str(tmp_path / "replay")
    saved = make(env, capacity=CAPACITY, directory=folder)
    play(saved, env, WRAPPED)
    state = saved.state_dict()
    before = {path: path.read_bytes() for path in Path(folder).rglob("*.*")}
    for capacity in (200, 800):
        with pytest.raises(UsageError, match=r"fixed size: resume with algo.replay.capacity=400"):
            resume_from(state, capacity=capacity, directory=folder)
    with pytest.raises(UsageError, match=r"algo.replay.stride=4, the size of its files, or with"):
        resume_from(state, stride=20, directory=folder)
    with pytest.raises(UsageError, match="is in files, not in its checkpoint"):
        resume_from(state)
    env.num_envs = 2
    other = make(env, directory=folder, stored_state=False)
    with pytest.raises(UsageError, match="the steps of 4 environments"):
        other.load_state_dict(state)
    assert {path: path.read_bytes() for path in Path(folder).rglob("*.*")} == before
    resume_from(state, stride=20, directory=folder, stored_state=False)


def test_files_of_a_run_that_wrote_less_are_not_its_replay(tmp_path: Path) -> None:
    env, folder = Echo(), tmp_path / "replay"
    saved = make(env, capacity=CAPACITY, directory=str(folder))
    play(saved, env, 20)
    saved.flush()
    long = make(Echo(), capacity=CAPACITY, directory=str(tmp_path / "long"))
    play(long, Echo(), 40)
    with pytest.raises(UsageError, match="does not hold the replay of this run"):
        resume_from(long.state_dict(), directory=str(folder))
