"""Decision Transformer and Algorithm Distillation: their rows, and learning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
import torch
from gymnasium import spaces

from rlmem import algos
from rlmem.algos.action_prediction import action_loss, history_inputs
from rlmem.algos.ad import AD, chains
from rlmem.algos.dt import DT
from rlmem.data.dataset import Dataset
from rlmem.data.recorder import Recorder
from rlmem.data.segments import pack
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.policies.sequence import ReturnPolicy, SequencePolicy
from rlmem.runs.playing import play, play_batch
from tests.data.counting import Counting


def record(
    env: VecEnv, folder: Path, steps: int, choose: Callable[[int], torch.Tensor]
) -> list[torch.Tensor]:
    """The rewards [N] of each step."""
    recorder = Recorder(env, folder, {})
    recorder.reserve(steps)
    recorder.reset(0)
    rewards = [recorder.step({"action": choose(t)}).reward for t in range(steps)]
    recorder.close()
    return rewards


def counted(folder: Path) -> Trials:
    env = Counting([3, 4], [True, False])
    record(env, folder, 40, lambda t: torch.randint(2, (2,)))
    return Trials(env, 1)


def make_dt(env: VecEnv, folder: Path, **options: object) -> DT:
    policy = ReturnPolicy(env.observation_space, env.action_space, core="gru", hidden_size=16)
    given = {"batch_size": 8, "length": 10, **options}
    return algos.make("dt", env=env, policy=policy, seed=[0], dataset=str(folder), **given)  # type: ignore[return-value]


def make_ad(env: VecEnv, folder: Path, **options: object) -> AD:
    policy = SequencePolicy(env.observation_space, env.action_space, core="gru", hidden_size=16)
    given = {"batch_size": 8, "length": 10, **options}
    return algos.make("ad", env=env, policy=policy, seed=[0], dataset=str(folder), **given)  # type: ignore[return-value]


def test_rows_of_dt_are_whole_episodes_with_a_memory_reset_each(tmp_path: Path):
    dt = make_dt(counted(tmp_path), tmp_path)
    # The best episode is 1 + 2 + 3 + 4.
    assert dt.policy.target_return == 10
    assert dt.policy.return_scale == 10
    rows = dt.dataset.read(*pack(dt.draw(), dt.length))
    obs, start = history_inputs(dt.policy, rows, reset_memory=True)
    time = obs["obs"][..., 1]
    assert torch.equal(start, time == 0)
    assert start[:, 0].all()
    assert not obs["previous_done"].any()
    goes_on = ~start
    goes_on[:, 0] = False
    before = torch.roll(rows.action["action"], 1, 1)
    assert torch.equal(obs["previous_action"][goes_on], before[goes_on])
    assert torch.equal(obs["previous_reward"][goes_on], time[goes_on])
    # What is left of 6 or of 10 at time t: all but 1 + 2 + .. + t.
    left = obs["return_to_go"] + time * (time + 1) / 2
    assert set(left.flatten().tolist()) == {6, 10}


def test_rows_of_ad_are_histories_without_memory_resets(tmp_path: Path):
    ad = make_ad(counted(tmp_path), tmp_path, length=20, episode_stride=2)
    rows = ad.dataset.read(*pack(ad.draw(), ad.length))
    obs, start = history_inputs(ad.policy, rows, reset_memory=False)
    assert start[:, 0].all()
    assert not start[:, 1:].any()
    episode, time = obs["obs"].unbind(-1)
    first = time == 0
    assert torch.equal(obs["previous_done"].bool()[:, 1:], first[:, 1:])
    # Every second episode of its environment, in the order of time.
    step = episode[:, 1:] - episode[:, :-1]
    assert torch.equal(step, 2.0 * first[:, 1:])
    assert torch.equal(obs["previous_reward"][:, 1:], rows.reward[:, :-1])
    assert torch.equal(obs["previous_action"][:, 1:], rows.action["action"][:, :-1])


def test_chains_by_hand():
    episodes = torch.tensor([[0, e, 2 + e] for e in range(5)] + [[1, e, 10] for e in range(2)])
    order, left = chains(episodes, 2)
    assert order[:, :2].tolist() == [[0, 0], [0, 2], [0, 4], [0, 1], [0, 3], [1, 0], [1, 1]]
    # 2 + 4 + 6, then 3 + 5; in the second stream each is alone.
    assert left.tolist() == [12, 10, 6, 8, 5, 10, 10]


def test_the_loss_is_the_negative_log_likelihood_of_the_actions(tmp_path: Path):
    dt = make_dt(counted(tmp_path), tmp_path)
    rows = dt.dataset.read(*pack(dt.draw(), dt.length))
    obs, start = history_inputs(dt.policy, rows, reset_memory=True)
    loss, metrics = action_loss(dt.policy, rows, torch.device("cpu"), reset_memory=True)
    logits = dt.policy(obs, dt.policy.core.initial_state(8), start).parts["action"].log_p
    right = logits.gather(-1, rows.action["action"][..., None])
    torch.testing.assert_close(loss, -right.mean())
    same = (logits.argmax(-1) == rows.action["action"]).float().mean()
    torch.testing.assert_close(metrics["accuracy"], same)


def test_a_resumed_run_learns_the_same(tmp_path: Path):
    env = counted(tmp_path)
    one, other = make_dt(env, tmp_path), make_dt(env, tmp_path)
    one.iterate(0.0)
    other.policy.load_state_dict(one.policy.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for each in (one, other):
        torch.manual_seed(1)
        each.iterate(0.5)
    for ours, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_data_of_other_spaces_is_refused(tmp_path: Path):
    env = counted(tmp_path)
    with pytest.raises(UsageError, match=r"algo.dataset must name a folder"):
        algos.make("dt", env=env, policy=make_dt(env, tmp_path).policy, seed=[0])
    with pytest.raises(UsageError, match=r"has 40 steps in every 1\. episode"):
        make_ad(env, tmp_path, length=41)
    other = Counting([3], [True])
    other.action_space = {"action": spaces.Discrete(5)}
    with pytest.raises(UsageError, match=r"its action is Discrete\(2\), and not Discrete\(5\)"):
        make_dt(Trials(other, 1), tmp_path)
    record(Counting([99], [True]), tmp_path / "open", 40, lambda t: torch.zeros(1).long())
    with pytest.raises(UsageError, match="has no complete episode"):
        make_dt(env, tmp_path / "open")


class Lever:
    """Pays what is done, 0 to 2; an episode has 4 steps."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.device = num_envs, torch.device("cpu")
        self.observation_space = {"obs": spaces.Discrete(2)}
        self.action_space = {"action": spaces.Discrete(3)}

    def reset(self, seed: object = None) -> Tensors:
        self.time = 0
        return {"obs": torch.zeros(self.num_envs).long()}

    def step(self, action: Tensors) -> Transition:
        self.time += 1
        over = torch.full((self.num_envs,), self.time % 4 == 0)
        obs = {"obs": torch.zeros(self.num_envs).long()}
        return Transition(obs, action["action"].float(), over, ~over & over, obs, over)

    def close(self) -> None:
        pass


@pytest.mark.learning
def test_dt_gets_the_return_that_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    record(Lever(16), tmp_path, 200, lambda t: torch.randint(3, (16,)))
    env = Trials(Lever(1), 1)
    dt = make_dt(env, tmp_path, batch_size=32, length=32, learning_rate=1e-2)
    for i in range(15):
        dt.iterate(i / 15)
    found = []
    for target in (0.0, 4.0, 8.0):
        dt.policy.target_return.fill_(target)
        played = play(dt.policy, lambda n: Trials(Lever(n), 1), list(range(50)), False)
        found.append(sum(played) / 50)
    # Chance, and so the data, gets 4 on average.
    assert found == pytest.approx([0, 4, 8], abs=1)


class Wheel(Lever):
    """One of three actions pays 1, another one for each environment, in episodes of 4 steps."""

    def step(self, action: Tensors) -> Transition:
        step = super().step(action)
        good = torch.arange(self.num_envs) % 3
        return step._replace(reward=(action["action"] == good).float())


@pytest.mark.learning
def test_ad_gets_better_from_episode_to_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    good = torch.arange(48) % 3

    def learner(t: int) -> torch.Tensor:
        # A source that does what pays ever more often: always, in the last of 10 episodes.
        return torch.where(torch.rand(48) < t / 36, good, torch.randint(3, (48,)))

    record(Wheel(48), tmp_path, 40, learner)
    ad = make_ad(Trials(Wheel(1), 10), tmp_path, batch_size=48, length=40, learning_rate=1e-2)
    for i in range(25):
        ad.iterate(i / 25)
    with torch.no_grad():
        curve = play_batch(ad.policy, Trials(Wheel(300), 10), list(range(300)), False).mean(0) / 4
    assert curve[0] < 0.6
    assert curve[-2:].mean() > 0.85, curve
    assert Dataset(tmp_path).returns.mean() / 4 < 0.75
