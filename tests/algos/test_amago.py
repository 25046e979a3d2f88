"""AMAGO's targets and losses against numbers worked out by hand, and that it learns to remember."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem import algos
from rlmem.algos.amago import AMAGO, td_targets
from rlmem.data.batch import SequenceBatch
from rlmem.errors import UsageError
from rlmem.policies.multi_gamma import MultiGamma
from rlmem.runs import checkpoint
from tests.algos.echo import Echo
from tests.data.counting import Counting

NEVER = torch.zeros(1, 2, dtype=torch.bool)
REPLAY = {"batching": "trajectory", "batch_size": 4, "length": 6, "burn_in": 0, "capacity": 4000}


def make(gammas: tuple[float, ...] = (0.5, 0.9), core: str = "ffm", **options: object) -> AMAGO:
    env = Counting([3, 4, 5, 6], [True, False, False, True])
    policy = MultiGamma(
        env.observation_space, env.action_space, gammas=gammas, core=core, hidden_size=8
    )
    options = {"num_steps": 16, "num_updates": 1, "learning_starts": 0, **options}
    return algos.make(  # type: ignore[return-value]
        "amago", env=env, policy=policy, seed=[0], gammas=gammas, replay=REPLAY, **options
    )


def rows(amago: AMAGO) -> SequenceBatch:
    amago.collector.collect()
    assert amago.collector.replay.ready
    return amago.collector.replay.sample(0.0)


def hand_made(**given: Tensor) -> SequenceBatch:
    """One row of two steps."""
    fields = {
        "obs": {},
        "start": torch.zeros(1, 3, dtype=torch.bool),
        "action": {},
        "reward": torch.zeros(1, 2),
        "terminated": NEVER,
        "truncated": NEVER,
        "mask": ~NEVER,
        "state": torch.zeros(1, 0),
        "weight": torch.ones(1),
        "segment": torch.zeros(1, dtype=torch.long),
    }
    return SequenceBatch(**{**fields, **given})  # type: ignore[arg-type]


def test_targets_by_hand():
    # Two critics' values of what follows, [M, B, T, G] = [2, 1, 3, 2].
    value = torch.tensor([[[[2.0, 20.0], [4.0, 40.0], [6.0, 60.0]]], [[[3.0, 10.0]] * 3]])
    reward = torch.tensor([[1.0, 1.0, 5.0]])
    terminated = torch.tensor([[False, True, False]])
    found = td_targets(reward, terminated, value, torch.tensor([0.5, 0.9]))
    # The lower critic for each discount alone: 1 + 0.5 * 2 and 1 + 0.9 * 10; nothing after a
    # termination; 5 + 0.5 * 3 and 5 + 0.9 * 10.
    torch.testing.assert_close(found, torch.tensor([[[2.0, 10.0], [1.0, 1.0], [6.5, 14.0]]]))


def test_nothing_that_follows_a_termination_is_read():
    value = torch.full((2, 1, 2, 1), torch.nan)
    found = td_targets(torch.ones(1, 2), ~NEVER, value, torch.tensor([0.9]))
    assert found.tolist() == [[[1.0], [1.0]]]


class Said:
    """Heads that say what they are told: member i's values are `value[i]`."""

    def __init__(self, value: Tensor) -> None:
        self.told = value
        self.members: list[list[int]] = []
        self.critics = SimpleNamespace()

    def actor(self, features: Tensor, legal: None) -> None:
        return None

    def value(self, features: Tensor, policy: None, members: Tensor) -> Tensor:
        self.members.append(sorted(members.tolist()))
        return self.told[members]


def test_the_lowest_of_some_critics_drawn_at_random():
    amago = make(reward_scale=10.0, num_critics_td=2)
    said = Said(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 2))
    amago.target.network = said
    amago.popart.mean[:] = torch.tensor([0.0, 100.0])
    amago.popart.square[:] = torch.tensor([4.0, 100.0**2 + 9])
    batch = hand_made(reward=torch.tensor([[1.0, -2.0]]))
    lowest = set()
    for _ in range(60):
        target = amago.targets(batch, torch.zeros(1, 2, 8))
        low = said.members[-1][0]
        lowest.add(low)
        # Rewards count tenfold, values are in units of a deviation of 2 and of 3 around 100.
        small, large = 0.5 * 2 * low, 0.9 * (100 + 3 * low)
        by_hand = [[[10 + small, 10 + large], [-20 + small, -20 + large]]]
        torch.testing.assert_close(target, torch.tensor(by_hand))
    assert all(len(set(pair)) == 2 for pair in said.members)
    assert lowest == {0, 1, 2}


class Judged:
    """Heads whose critics and actor say what they are told; [C, B, T, G] and [B, T, G]."""

    def __init__(self, q: Tensor, expected: Tensor, log_prob: Tensor) -> None:
        self.q, self.expected, self.told = q, expected, log_prob

    def actor(self, features: Tensor, legal: None) -> SimpleNamespace:
        return SimpleNamespace(entropy=lambda: torch.zeros(self.told.shape))

    def judge(self, features: Tensor, actor: object, action: object) -> tuple[Tensor, Tensor]:
        return self.q, self.expected

    def log_prob(self, actor: object, action: object) -> Tensor:
        return self.told


def judged(options: dict[str, float], **given: Tensor) -> tuple[float, dict[str, float], float]:
    """The loss where two critics judge one row of two steps under one discount."""
    amago = make(gammas=(0.9,), reward_scale=1.0, **options)
    q = torch.tensor([[[[1.0], [2.0]]], [[[3.0], [0.0]]]])
    expected = torch.tensor([[[[0.5], [4.0]]], [[[1.5], [2.0]]]])
    heads = Judged(q, expected, torch.tensor([[[-0.7], [-0.2]]]))
    amago.policy = SimpleNamespace(heads=heads, main=0)  # type: ignore[assignment]
    target = torch.tensor([[[0.0], [4.0]]])
    loss, metrics, error = amago.loss(hand_made(**given), torch.zeros(1, 2, 8), target)
    return loss.item(), {k: v.item() for k, v in metrics.items()}, error.item()


def test_loss_by_hand():
    alone = {"critic_coef": 0.0, "online_coef": 0.0, "offline_coef": 0.0}
    # ((1 + 9) / 2 + (4 + 16) / 2) / 2: the mean over critics, then over steps.
    assert judged(alone | {"critic_coef": 2.0})[0] == pytest.approx(2 * 7.5)
    # The lowest expectation of each step: 0.5 and 2.
    assert judged(alone | {"online_coef": 1.0})[0] == pytest.approx(-1.25)
    # Only the first action is better (2 > 1) than expected, the second one (1 < 3) is worse.
    assert judged(alone | {"offline_coef": 1.0})[0] == pytest.approx(0.7 / 2)
    loss, metrics, error = judged({"critic_coef": 2.0, "online_coef": 3.0, "offline_coef": 0.5})
    assert loss == pytest.approx(2 * 7.5 - 3 * 1.25 + 0.5 * 0.35)
    assert metrics["critic_loss"] == pytest.approx(7.5)
    assert metrics["better"] == pytest.approx(0.5)
    assert metrics["value"] == pytest.approx(1.5)
    assert error == pytest.approx(7.5**0.5)


def test_masks_and_weights_by_hand():
    one = {"critic_coef": 1.0, "online_coef": 0.0, "offline_coef": 0.0}
    loss, metrics, error = judged(one, mask=torch.tensor([[True, False]]))
    assert loss == metrics["critic_loss"] == pytest.approx(5)
    assert error == pytest.approx(5**0.5)
    assert judged(one, weight=torch.tensor([0.5]))[0] == pytest.approx(3.75)


def test_what_is_masked_leaves_no_trace():
    amago, other = make(), make()
    batch = rows(amago)
    assert not batch.mask.all()
    other.policy.load_state_dict(amago.policy.state_dict())
    other.target.network.load_state_dict(amago.target.network.state_dict())
    spoilt = copy.deepcopy(batch)
    spoilt.reward[~batch.mask] = torch.nan
    for each, read in ((amago, batch), (other, spoilt)):
        torch.manual_seed(3)
        each.learn(read)
    for mine, theirs in zip(amago.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_truncated_episodes_go_on_and_terminated_ones_do_not():
    """The critic learns, for a discount of 0.5, exactly the returns of an endless ramp's start."""
    amago = make(gammas=(0.5,), reward_scale=1.0, num_critics_td=1)
    amago.collector.collect()
    amago.target.network = Said(torch.full((4, 4, 6, 1), 100.0))
    batch = amago.collector.replay.sample(0.0)
    target = amago.targets(batch, torch.zeros(4, 6, 8))
    alive = torch.where(batch.terminated, 0.0, 50.0)
    torch.testing.assert_close(target[..., 0], batch.reward + alive)
    assert batch.terminated.any()
    # Where a step was truncated, what follows is its final observation and not another start.
    following = batch.start[:, 1:][batch.truncated & batch.mask]
    assert len(following)
    assert not following.any()


def test_the_values_stay_where_the_statistics_change():
    amago = make(learning_rate=1e-12, tau=1e-12)
    for _ in range(2):
        batch = rows(amago)
        amago.learn(batch)
    features = torch.randn(10, 8)

    def said(heads: torch.nn.Module) -> Tensor:
        q = heads.critics(features)  # type: ignore[operator]
        return amago.popart.denormalise(q.movedim(-2, -1)).detach()

    before = said(amago.policy.heads), said(amago.target.network)
    deviation = amago.popart.deviation
    batch.reward *= 50
    amago.learn(batch)
    assert (amago.popart.deviation > 1.5 * deviation).all()
    for heads, values in zip((amago.policy.heads, amago.target.network), before, strict=True):
        torch.testing.assert_close(said(heads), values, atol=1e-3, rtol=1e-4)


def test_one_loss_teaches_memory_actor_and_critics_and_the_target_follows():
    amago = make(tau=0.25)
    first = copy.deepcopy(amago.target.network.state_dict())
    amago.learn(rows(amago))
    policy = amago.policy
    for part in (policy.encoder, policy.core, policy.heads.actor, policy.heads.critics):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    name = "actor.out.weight"
    new = dict(policy.heads.named_parameters())[name]
    found = amago.target.network.state_dict()[name]
    torch.testing.assert_close(found, 0.75 * first[name] + 0.25 * new.detach())


def test_epsilon_differs_between_environments_and_falls():
    amago = make(start_e=0.8, end_e=0.2, exploration_fraction=0.5)
    amago.iterate(0.25)
    assert amago.policy.epsilon.tolist() == pytest.approx([0.5, 0.5 * 2 / 3, 0.5 / 3, 0.0])
    amago.iterate(0.75)
    assert amago.policy.epsilon.tolist() == pytest.approx([0.2, 0.4 / 3, 0.2 / 3, 0.0])


def test_a_resumed_run_goes_on_as_it_would_have(tmp_path: Path):
    amago, other = make(), make()
    for _ in range(2):
        amago.iterate(0.0)
    batch = rows(amago)  # collecting changes the statistics of observations
    (tmp_path / "config.yaml").touch()
    checkpoint.save(tmp_path, 1, amago.policy, {"algo": amago.state_dict()})
    point = checkpoint.load(tmp_path)
    point.load_weights(other.policy)
    other.load_state_dict(point.trainer["algo"])
    for each in (amago, other):
        torch.manual_seed(1)
        each.learn(batch)
    for mine, theirs in zip(amago.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(
        amago.target.network.parameters(), other.target.network.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert torch.equal(amago.popart.mean, other.popart.mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_critics_td": 5}, r"num_critics_td must be from 1 to num_critics \(4\), not 5"),
        ({"num_critics_td": 0}, "num_critics_td must be from 1"),
        ({"popart_beta": 0.0}, "popart_beta must be above 0"),
        ({"end_e": 1.5}, "end_e must be between 0 and 1, not 1.5"),
        ({"offline_coef": -1.0}, "offline_coef must be at least 0, not -1"),
        ({"reward_scale": 0.0}, "reward_scale must be above 0"),
        ({"online_coeff": 1.0}, "did you mean online_coef"),
    ],
)
def test_bad_options_get_a_clear_line(options: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        make(**options)


def test_too_many_choices_are_refused():
    for space in (spaces.Discrete(4), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([4, 4])):
        algos.require_supported("amago", {"action": space})
    with pytest.raises(UsageError, match=r"'amago' does not fit .*algorithms that fit: .*ppo"):
        algos.require_supported("amago", {"action": spaces.MultiDiscrete([100, 100])})


@pytest.mark.by_day(2)
@pytest.mark.learning
@pytest.mark.parametrize("core", ["ffm", "none"])
def test_learns_to_remember_a_bit(core: str, monkeypatch: pytest.MonkeyPatch):
    # Shapes are checked everywhere else; here that would take nine tenths of the time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    env = Echo(16, length=4)
    gammas = (0.5, 0.9)
    policy = MultiGamma(
        env.observation_space, env.action_space, gammas=gammas, core=core, hidden_size=32
    )
    amago = AMAGO(
        env,
        policy,
        seed=[0] * 16,
        num_steps=8,
        num_updates=8,
        learning_starts=0,
        gammas=gammas,
        learning_rate=3e-3,
        tau=0.05,
        popart_beta=0.01,
        start_e=0.5,
        exploration_fraction=0.5,
        replay={"batching": "trajectory", "batch_size": 32, "length": 4, "burn_in": 0},
    )
    returns = torch.tensor([amago.iterate(i / 30)["episode_return"] for i in range(30)])
    last = returns[-10:].mean()
    assert abs(last) < 0.4 if core == "none" else last > 0.8, returns
