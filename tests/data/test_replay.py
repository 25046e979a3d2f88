"""The replay: rows equal the added steps, on an environment that counts its own steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from rlmem import envs, tree
from rlmem.data.batch import SequenceBatch
from rlmem.data.replay_options import BATCHINGS, DEFAULTS
from rlmem.errors import UsageError
from tests.data.counting import Counting
from tests.data.playing import CUT, LENGTHS, Inner, filled, make, play


def check(batch: SequenceBatch) -> None:
    """The next entry is the next observation; rewards, ends and starts are those of the steps."""
    episode, time = batch.obs["obs"].unbind(-1)
    length = torch.tensor(LENGTHS)
    assert torch.equal(batch.start, time == 0)
    inside = time[:, :-1] != 0
    # An episode of n steps has n + 1 entries, 0 .. n: the last is its final observation.
    final = ~batch.mask
    assert torch.isin(time[:, :-1][final].long(), length).all()
    assert batch.start[:, 1:][final].all()
    assert (batch.reward[final] == 0).all()
    assert not batch.done[final].any()
    step = batch.mask
    assert torch.equal(time[:, 1:][step], time[:, :-1][step] + 1)
    assert torch.equal(episode[:, 1:][step], episode[:, :-1][step])
    assert torch.equal(batch.reward[step], time[:, 1:][step])
    # The entries after done steps are the final ones, and no others.
    assert torch.equal(batch.done[:, :-1] & step[:, :-1], final[:, 1:])
    ended = time[:, 1:][batch.terminated].long()
    assert torch.isin(ended, length[~torch.tensor(CUT)]).all()
    assert torch.isin(time[:, 1:][batch.truncated].long(), length[torch.tensor(CUT)]).all()
    assert inside.any()


@pytest.mark.parametrize("steps", [20, 100, 330])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_rows_equal_the_added_steps(batching: str, steps: int) -> None:
    torch.manual_seed(steps)
    replay = filled(steps, batching=batching)
    for _ in range(10):
        check(replay.sample(0.0))


def test_a_full_ring_drops_only_the_oldest_entries() -> None:
    replay = filled(330, batch_size=500)
    # 100 slots per environment; the one with 61 entries per episode has written 335.
    batch = replay.sample(0.0)
    long = batch.obs["obs"][batch.obs["obs"][..., 1].amax(1) > 5]
    position = long[..., 0] * 61 + long[..., 1]
    # The oldest stored multiple of the stride (4), and the end of the newest row.
    assert position.min() == 236
    assert position.max() == 236 + 4 * ((335 - 236 - 9) // 4) + 8
    assert set((position[:, 0] % 4).tolist()) == {0}


def test_uniform_segments_are_equally_likely() -> None:
    torch.manual_seed(0)
    replay = filled(100, alpha=0.0, batch_size=1000)
    drawn = torch.cat([replay.sample(0.0).segment for _ in range(20)])
    counts = torch.bincount(drawn)
    present = counts[counts > 0]
    assert len(present) == replay.segments.count
    assert (counts > 0).nonzero()[:, 0].tolist() == sorted(replay.segments.ids().tolist())
    assert present.min() > 0.7 * 20_000 / len(present)


def test_priorities_belong_to_their_segments() -> None:
    torch.manual_seed(0)
    env = Counting(LENGTHS, CUT)
    replay = make(env, alpha=1.0, beta=1.0)
    play(replay, env, 60)
    batch = replay.sample(0.0)
    segment = batch.segment[:1]
    replay.update_priorities(replay.segments.ids(), torch.zeros(replay.segments.count))
    replay.update_priorities(segment, torch.tensor([5.0]))
    # One segment has all the priority, so it is the only one drawn.
    again = replay.sample(0.0)
    assert set(again.segment.tolist()) == {int(segment)}
    assert torch.equal(again.obs["obs"][0], batch.obs["obs"][0])
    assert (again.weight == 1).all()
    # Overwritten, its id belongs to another segment, which gets the highest priority so far.
    play(replay, env, 400)
    replay.flush()
    assert replay.priorities is not None
    got = replay.priorities.tree.get(replay.segments.ids())
    torch.testing.assert_close(got, torch.full_like(got, 5.0 + 1e-6))
    assert replay.priorities.tree.total.item() == pytest.approx(got.sum().item())


def test_beta_is_annealed_to_one() -> None:
    for anneal, want in ((True, 0.75), (False, 0.5)):
        torch.manual_seed(0)
        replay = filled(60, alpha=1.0, beta=0.5, anneal_beta=anneal)
        replay.update_priorities(replay.segments.ids(), torch.rand(replay.segments.count))
        batch = replay.sample(0.5)
        assert replay.priorities is not None
        weight = replay.priorities.tree.get(batch.segment) ** -want
        torch.testing.assert_close(batch.weight, (weight / weight.max()).float())


@pytest.mark.parametrize("core", ["gru", "ffm", "slstm"])
def test_stored_states_are_those_of_the_policy(core: str) -> None:
    torch.manual_seed(0)
    env = Counting(LENGTHS, CUT)
    replay = make(env, core=core, batch_size=200)
    added = play(replay, env, 90)
    before = {}
    for obs, _, state, _, step in added:
        for n in range(4):
            row = tree.map(lambda leaf, n=n: leaf[n], state)
            before[n, *obs["obs"][n].tolist()] = row
            if step.done[n]:
                before[n, *step.final_obs["obs"][n].tolist()] = row
    batch = replay.sample(0.0)
    env_of, _ = replay.segments.locate(batch.segment)
    for b in range(200):
        want = before[int(env_of[b]), *batch.obs["obs"][b, 0].tolist()]
        for got, leaf in zip(tree.leaves(batch.state), tree.leaves(want), strict=True):
            assert torch.equal(got[b], leaf)


def test_without_stored_states_the_memory_begins_empty() -> None:
    replay = filled(60, stored_state=False, core="ffm")
    batch = replay.sample(0.0)
    for leaf in tree.leaves(batch.state):
        assert leaf.shape[0] == 16
        assert (leaf == 0).all()


def test_burn_in_is_read_but_masked() -> None:
    replay = filled(100, burn_in=3)
    batch = replay.sample(0.0)
    assert batch.obs["obs"].shape[:2] == (16, 12)
    assert batch.burn_in == 3
    assert not batch.mask[:, :3].any()
    rest = batch.past_burn_in(batch.state)
    check(rest)
    assert torch.equal(rest.obs["obs"], batch.obs["obs"][:, 3:])
    assert rest.burn_in == 0


def test_a_tape_holds_complete_random_episodes() -> None:
    torch.manual_seed(0)
    replay = filled(200, batching="tape", length=40, capacity=1000)
    seen = set()
    for _ in range(20):
        batch = replay.sample(0.0)
        assert batch.start[:, 0].all()
        for row_obs, row_start in zip(batch.obs["obs"], batch.start, strict=True):
            first = row_start.nonzero()[:, 0].tolist()
            for begin, end in pairwise(first):
                times = row_obs[begin:end, 1]
                assert torch.equal(times, torch.arange(end - begin).float())
                assert end - begin - 1 in LENGTHS
            seen |= {(len(first), int(row_obs[f, 0])) for f in first}
    assert len({episode for _, episode in seen}) > 20
    # Neighbouring episodes in a row are from any environment and time.
    jumps = batch.obs["obs"][..., 0].diff(dim=1)[batch.start[:, 1:]]
    assert (jumps != 1).float().mean() > 0.8


def test_a_trajectory_is_consecutive_episodes_of_one_environment() -> None:
    torch.manual_seed(0)
    replay = filled(200, batching="trajectory", length=20, capacity=1000)
    for _ in range(10):
        batch = replay.sample(0.0)
        assert batch.start[:, 0].all()
        assert (batch.obs["obs"][..., 0].diff(dim=1)[batch.start[:, 1:]] == 1).all()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_inner_episodes_of_a_trial_have_no_final_entry(batching: str) -> None:
    torch.manual_seed(0)
    replay = filled(330, env=Inner(LENGTHS, CUT), batching=batching)
    inner = 0
    for _ in range(10):
        batch = replay.sample(0.0)
        episode, time = batch.obs["obs"].unbind(-1)
        first = time == 0
        assert torch.equal(batch.start, first & (episode % 2 == 0))
        within = batch.done & first[:, 1:]
        inner += int(within.sum())
        # A truncated step has no bootstrap here and is masked; a terminated one needs none.
        assert torch.equal(batch.mask[within], batch.terminated[within])
        step = batch.mask & ~within
        assert torch.equal(time[:, 1:][step], time[:, :-1][step] + 1)
    assert inner > 50


@pytest.mark.parametrize(
    ("name", "options"),
    [("gym", {"id": "CartPole-v1"}), ("popgym-count-recall", {}), ("popgym-repeat", {})],
)
def test_environments_do_not_write_to_returned_tensors(name: str, options: dict[str, Any]) -> None:
    """The replay reads them later."""
    env = envs.make(name, num_envs=3, **options)
    seen = [env.reset([0, 1, 2])["obs"]]
    before = [seen[0].clone()]
    for t in range(70):
        action = {key: torch.full((3,), t % 2) for key in env.action_space}
        step = env.step(action)
        new = [step.obs["obs"], step.final_obs["obs"], step.reward, step.terminated, step.truncated]
        seen += new
        before += [leaf.clone() for leaf in new]
    env.close()
    assert all(torch.equal(a, b) for a, b in zip(seen, before, strict=True))


def test_episode_metrics_by_hand() -> None:
    env = Counting([3, 4, 5, 60], CUT)
    replay = make(env)
    added = play(replay, env, 10)
    # 3 of 3 steps (1 + 2 + 3 = 6), 2 of 4 (10), 2 of 5 (15).
    want = {"episodes": 7.0, "episode_return": 68 / 7, "episode_length": 27 / 7}
    assert replay.episode_metrics() == pytest.approx(want)
    assert replay.episode_metrics() == {"episodes": 0.0}
    # Unfinished episodes continue: steps 11 and 12 end the fourth of 3 and the third of 4.
    obs, start, state, action, step = added[-1]
    for _ in range(2):
        obs, start = step.obs, step.memory_reset
        step = env.step(action)
        replay.add(obs, start, state, action, step)
    assert replay.episode_metrics()["episode_return"] == pytest.approx((6 + 10) / 2)


def test_a_replay_without_a_complete_row_is_not_ready() -> None:
    env = Counting(LENGTHS, CUT)
    for batching, least in (("segments", 9), ("tape", 3), ("trajectory", 9)):
        replay = make(env, batching=batching)
        assert not replay.ready
        with pytest.raises(ValueError, match="nothing to sample"):
            replay.sample(0.0)
        for steps in range(1, 12):
            fresh = make(env, batching=batching)
            play(fresh, env, steps)
            # An episode of 3 steps has 4 entries, so 7 steps make 9 entries.
            assert fresh.ready == (steps >= (least if least == 3 else 7)), (batching, steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacty": 10}, "unknown option of replay 'capacty'; did you mean capacity"),
        ({"batching": "tapes"}, "unknown batching 'tapes'; did you mean tape"),
        ({"batch_size": 0}, "replay.batch_size must be an integer of at least 1"),
        ({"burn_in": -1}, "replay.burn_in must be an integer of at least 0"),
        ({"alpha": 1.5}, "replay.alpha must be between 0 and 1, not 1.5"),
        ({"capacity": 40}, "leaves 10 steps for each of 4 environments"),
    ],
)
def test_bad_options_get_a_clear_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)


def test_defaults_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DEFAULTS["capacity"] = 1  # type: ignore[index]
