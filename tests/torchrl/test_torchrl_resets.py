"""Resets and partial steps of `TorchRLEnv`: allowed ones and errors."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict
from torchrl.envs import StepCounter, TransformedEnv

from rlmem.errors import UsageError
from rlmem.torchrl import TorchRLEnv
from tests.torchrl.common import SEED, actions, irregular, lockstep, play, replay


def test_ended_rows_stay_unchanged_until_all_have_ended() -> None:
    taken = actions(irregular(), 60)
    before, steps = play(irregular(), taken, SEED)
    env = TorchRLEnv(irregular())
    env.set_seed(SEED)
    data = env.rollout(60, replay(taken), break_when_any_done=False, break_when_all_done=True)
    ends = data["next", "done"].squeeze(-1).long().argmax(1)
    assert data.shape == (4, int(ends.max()) + 1)
    assert len(set(ends.tolist())) > 1
    for row, end in enumerate(ends.tolist()):
        for t in range(data.shape[1]):
            at = min(t, end)
            assert torch.equal(data["obs.box"][row, t], before[at]["obs.box"][row])
            assert torch.equal(data["next", "obs.box"][row, t], steps[at].final_obs["obs.box"][row])
            assert data["next", "done"][row, t] == (t >= end)
            assert data["next", "reward"][row, t] == steps[at].reward[row]


def test_an_unstepped_row_can_only_be_reset_with_all_rows() -> None:
    env = TorchRLEnv(lockstep())
    state = env.rand_action(env.reset(seed=SEED))
    state["_step"] = torch.tensor([True, True, False, True])
    before = state["obs"].clone()
    step = env.step(state)["next"]
    assert step["obs"][2] == before[2]
    assert not torch.equal(step["obs"], before)
    assert not step["done"].any()
    with pytest.raises(UsageError, match="row 2 has ended: reset it"):
        env.step(env.rand_action(TensorDict(batch_size=[4])))
    with pytest.raises(UsageError, match="row 2 is in the middle of an episode"):
        env.reset(TensorDict({"_reset": torch.tensor([[0], [0], [1], [0]]).bool()}, [4]))
    env.reset()
    env.step(env.rand_action(TensorDict(batch_size=[4])))


def test_a_full_reset_resets_all_rows() -> None:
    env, plain = TorchRLEnv(lockstep()), lockstep()
    first = env.reset(seed=SEED)["obs"]
    assert torch.equal(first, plain.reset(SEED)["obs"])
    for taken in (*actions(plain, 3), *actions(plain, 51)):
        # Also after a step that ended an episode, before the next one was stepped.
        assert torch.equal(env.reset()["obs"], plain.reset()["obs"])
        env.step(TensorDict(taken, batch_size=[4]))
        plain.step(taken)
    all_rows = TensorDict({"_reset": torch.ones(4, 1, dtype=torch.bool)}, batch_size=[4])
    assert torch.equal(env.reset(all_rows)["obs"], plain.reset()["obs"])
    assert torch.equal(env.reset(seed=SEED)["obs"], first)
    env.set_seed(SEED)
    assert torch.equal(env.reset()["obs"], first)
    assert not torch.equal(env.reset()["obs"], first)
    state = env.rand_action(env.reset())
    env.set_seed(SEED)
    with pytest.raises(UsageError, match="set_seed must be followed by a reset"):
        env.step(state)
    assert torch.equal(env.reset(all_rows.set("_reset", torch.ones(4, 1).bool()))["obs"], first)


def test_a_row_in_the_middle_of_an_episode_cannot_be_reset_alone() -> None:
    env = TorchRLEnv(lockstep())
    alone = TensorDict({"_reset": torch.tensor([[0], [1], [0], [0]]).bool()}, batch_size=[4])
    with pytest.raises(UsageError, match="must be of all rows"):
        env.reset(alone.clone())
    env.step(env.rand_action(env.reset()))
    with pytest.raises(UsageError, match="row 1 is in the middle of an episode"):
        env.reset(alone.clone())
    with pytest.raises(UsageError, match="must be of all rows"):
        env.reset(alone.clone(), seed=3)


def test_torchrls_step_limit_works_if_all_rows_end_together() -> None:
    env = TransformedEnv(TorchRLEnv(lockstep()), StepCounter(max_steps=10))
    data = env.rollout(35, break_when_any_done=False)
    assert data["next", "truncated"].squeeze(-1).sum(1).tolist() == [3] * 4
    env = TransformedEnv(TorchRLEnv(irregular()), StepCounter(max_steps=4))
    with pytest.raises(UsageError, match="is in the middle of an episode"):
        env.rollout(100, break_when_any_done=False)
