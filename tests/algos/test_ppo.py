"""PPO's loss against numbers worked out by hand, its stops, and that it learns to remember."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import jaxtyping
import pytest
import torch

from rlmem import algos
from rlmem.algos import NonFiniteLoss
from rlmem.algos.ppo import PPO
from rlmem.data.returns import discounted_sum
from rlmem.data.rollout import Rollout
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic
from tests.algos.echo import Echo
from tests.data.counting import Counting
from tests.marks import by_night


def make(core: str = "ffm", **options: object) -> PPO:
    env = Counting([3, 4, 5, 6], [True, False, False, True])
    separate = bool(options.get("separate_critic", False))
    spaces = env.observation_space, env.action_space
    policy = ActorCritic(*spaces, separate_critic=separate, core=core, hidden_size=8)
    options = {"num_steps": 6, "num_minibatches": 2, **options}
    return algos.make("ppo", env=env, policy=policy, seed=[0, 2, 4, 6], **options)  # type: ignore[return-value]


class Fixed:
    """A policy with given log-probabilities, values and entropies."""

    forecast = None

    def __init__(self, log_prob: list[float], value: list[float], entropy: float) -> None:
        self.dist = SimpleNamespace(
            log_prob=lambda _: torch.tensor([log_prob]),
            entropy=lambda: torch.full((1, len(log_prob)), entropy),
        )
        self.value = torch.tensor([value])

    def row(self, *_: object) -> tuple[SimpleNamespace, torch.Tensor, None]:
        return self.dist, self.value, None


def played(value: list[float]) -> Rollout:
    """One row of two steps, with values for the inputs of the loss only."""
    zeros, never = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)
    return Rollout(
        obs={},
        action={},
        log_prob=zeros,
        value=torch.tensor([value]),
        next_value=zeros,
        reward=zeros,
        start=never,
        terminated=never,
        truncated=never,
        state=torch.zeros(1, 0),
    )


def hand_made(
    ppo: PPO, advantage: list[float], unit: float = 1.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    # Ratios 2 and 1/2; values 1 and 5, which were 1 and 2.
    ppo.policy = Fixed([math.log(2), -math.log(2)], [1.0, 5.0], 0.7)  # type: ignore[assignment]
    target = torch.tensor([[0.0, 2.0]])
    rollout, rows = played([1.0, 2.0]), torch.tensor([0])
    (normalized,) = ppo.normalized([torch.tensor([advantage])])
    return ppo.loss(rollout, rows, normalized, target, unit)


def test_loss_by_hand():
    ppo = make(clip_coef=0.2, vf_coef=0.5, ent_coef=0.1, norm_adv=False)
    loss, metrics = hand_made(ppo, [1.0, -1.0])
    # min(2 * 1, 1.2 * 1) = 1.2; min(-0.5, -0.8) = -0.8; the mean is 0.2.
    assert metrics["policy_loss"].item() == pytest.approx(-0.2)
    # ((1-0)^2 + (5-2)^2) / 2 / 2 = 2.5
    assert metrics["value_loss"].item() == pytest.approx(2.5)
    assert loss.item() == pytest.approx(-0.2 + 0.5 * 2.5 - 0.1 * 0.7)
    # k3: mean of (2 - 1 - log 2) and (0.5 - 1 + log 2) = 0.25
    assert metrics["approx_kl"].item() == pytest.approx(0.25)
    assert metrics["clip_fraction"].item() == 1


def test_the_pessimistic_side_is_never_clipped():
    ppo = make(clip_coef=0.2, norm_adv=False)
    _, metrics = hand_made(ppo, [-1.0, 1.0])
    # min(-2, -1.2) = -2; min(0.5, 0.8) = 0.5; the mean is -0.75.
    assert metrics["policy_loss"].item() == pytest.approx(0.75)


def test_value_scale_divides_the_value_loss():
    ppo = make(clip_coef=0.2, vf_coef=0.5, ent_coef=0.1, norm_adv=False)
    _, metrics = hand_made(ppo, [1.0, -1.0])
    loss, same = hand_made(ppo, [1.0, -1.0], 10.0)
    assert same["value_loss"] == metrics["value_loss"]
    assert loss.item() == pytest.approx(-0.2 + 0.5 * 2.5 / 10 - 0.1 * 0.7)


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("norm_value", [True, False])
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_value_scale_is_the_variance_of_targets(
    norm_value: bool, separate: bool, scale: float, monkeypatch: pytest.MonkeyPatch
):
    options = {"gae_lambda": 1.0, "num_epochs": 1, "separate_critic": separate}
    ppo = make(norm_value=norm_value, **options)
    rollout = ppo.collector.collect()
    rollout.reward *= scale
    rollout.value *= scale
    rollout.next_value *= scale
    units, loss = [], ppo.loss
    monkeypatch.setattr(ppo, "loss", lambda *given: units.append(given[-1]) or loss(*given))
    monkeypatch.setattr(ppo.collector, "collect", lambda: rollout)
    ppo.iterate(0.0)
    done = rollout.terminated | rollout.truncated
    bootstrap = torch.where(rollout.terminated, 0.0, rollout.next_value)
    ends = done.clone()
    ends[:, -1] = True
    reward = rollout.reward + torch.where(ends, 0.99 * bootstrap, 0.0)
    variance = discounted_sum(reward, done, 0.99).var().item()
    assert (variance > 1) == (scale > 1)
    # With a shared memory, norm_value never raises the weight of the value loss.
    counted = norm_value and (separate or scale > 1)
    assert units == pytest.approx([variance if counted else 1.0] * len(units))


def test_value_clipping_by_hand():
    ppo = make(clip_value=1.0)
    _, metrics = hand_made(ppo, [1.0, -1.0])
    # The second value moved from 2 to 5, clipped to 3: max(3^2, 1^2) = 9; the first did not move.
    assert metrics["value_loss"].item() == pytest.approx((1 + 9) / 4)
    ppo.policy = Fixed([0.0, 0.0], [1.0, 1.9], 0.0)  # type: ignore[assignment]
    target = torch.tensor([[0.0, 2.0]])
    advantage = torch.tensor([[1.0, -1.0]])
    _, metrics = ppo.loss(played([3.0, 2.0]), torch.tensor([0]), advantage, target)
    # From 3 to 1, clipped to 2: max(1, 4) = 4; from 2 to 1.9, not clipped: 0.01.
    assert metrics["value_loss"].item() == pytest.approx((4 + 0.01) / 4)


def test_advantages_are_normalised_in_the_minibatch():
    ppo = make(clip_coef=10.0)
    _, metrics = hand_made(ppo, [5.0, 3.0])
    # Mean 4, deviation sqrt 2: +-1/sqrt 2, with ratios 2 and 1/2.
    assert metrics["policy_loss"].item() == pytest.approx(-(2 - 0.5) / math.sqrt(2) / 2, rel=1e-5)


def test_a_single_advantage_is_left_unchanged():
    ppo = make(clip_coef=10.0)
    ppo.policy = Fixed([math.log(2)], [1.0], 0.0)  # type: ignore[assignment]
    rollout = played([1.0, 2.0])
    rollout.log_prob = rollout.log_prob[:, :1]
    row, (advantage,) = torch.tensor([0]), ppo.normalized([torch.tensor([[3.0]])])
    _, metrics = ppo.loss(rollout, row, advantage, torch.tensor([[0.0]]))
    assert metrics["policy_loss"].item() == pytest.approx(-2 * 3)


@pytest.mark.parametrize("separate", [False, True])
def test_an_iteration_of_one_step_by_hand(separate: bool, monkeypatch: pytest.MonkeyPatch):
    env = Counting([3], [True])
    spaces = env.observation_space, env.action_space
    policy = ActorCritic(*spaces, separate_critic=separate, core="gru", hidden_size=8)
    options = {"num_steps": 1, "num_minibatches": 1, "separate_critic": separate}
    ppo: PPO = algos.make("ppo", env=env, policy=policy, seed=[0], **options)  # type: ignore[assignment]
    seen, loss = [], ppo.loss
    monkeypatch.setattr(ppo, "loss", lambda *given: seen.append(given) or loss(*given))
    for step in range(1, 7):
        metrics = ppo.iterate(0.0)
        assert all(math.isfinite(value) for value in metrics.values()), metrics
        # A single target has no variance to divide by or to explain.
        assert metrics["explained_variance"] == 1
        rollout, _, advantage, target, value_scale = seen[-1]
        assert value_scale == 1
        assert rollout.reward.item() == (step - 1) % 3 + 1
        by_hand = rollout.reward + 0.99 * rollout.next_value
        torch.testing.assert_close(target, by_hand)
        torch.testing.assert_close(advantage, by_hand - rollout.value)


def test_the_first_minibatch_has_ratio_one():
    ppo = make()
    rollout = ppo.collector.collect()
    ones = torch.ones(4, 6)
    _, metrics = ppo.loss(rollout, torch.arange(4), ones, ones)
    assert metrics["approx_kl"].item() == pytest.approx(0, abs=1e-6)


def test_target_kl_stops_the_epochs():
    assert make(num_epochs=3, target_kl=1e-12).iterate(0.0)["epochs"] == 1
    assert make(num_epochs=3, target_kl=1e6).iterate(0.0)["epochs"] == 3


def test_learning_rate_is_annealed():
    ppo = make(learning_rate=1e-3)
    assert ppo.iterate(0.25)["learning_rate"] == pytest.approx(7.5e-4)
    assert ppo.optimizer.learning_rate == pytest.approx(7.5e-4)
    assert make(learning_rate=1e-3, anneal_lr=False).iterate(0.25)["learning_rate"] == 1e-3


def test_a_non_finite_loss_stops_before_the_weights_change(monkeypatch: pytest.MonkeyPatch):
    ppo = make()
    ppo.iterate(0.0)
    rollout = ppo.collector.collect()
    rollout.reward[1, 2] = torch.nan
    before = {name: p.clone() for name, p in ppo.policy.named_parameters()}
    monkeypatch.setattr(ppo.collector, "collect", lambda: rollout)
    with pytest.raises(NonFiniteLoss, match="loss is nan"):
        ppo.iterate(0.0)
    for name, p in ppo.policy.named_parameters():
        assert torch.equal(p, before[name]), name


def test_state_dict_includes_the_optimizer(monkeypatch: pytest.MonkeyPatch):
    ppo, other = make(), make()
    ppo.iterate(0.0)
    other.policy.load_state_dict(ppo.policy.state_dict())
    # A copy: torch hands out its own tensors, which the next update changes.
    other.load_state_dict(copy.deepcopy(ppo.state_dict()))
    rollout = ppo.collector.collect()
    other.collector.collect()
    for each in (ppo, other):
        monkeypatch.setattr(each.collector, "collect", lambda: rollout)
        torch.manual_seed(1)
        each.iterate(0.0)
    for ours, theirs in zip(ppo.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_minibatches": 3}, "must divide num_envs"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1"),
        ({"num_epochs": -2}, "num_epochs must be"),
        ({"gamma": 1.5}, "gamma must be between 0 and 1, not 1.5"),
        ({"learning_rate": -1.0}, "must be above 0"),
        ({"gae_lamda": 0.9}, "did you mean gae_lambda"),
    ],
)
def test_bad_options_get_a_clear_line(options: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        make(**options)


@pytest.mark.learning
@pytest.mark.parametrize("core", ["gru", *by_night(["none", "ffm"])])
def test_learns_to_remember_a_bit(core: str, monkeypatch: pytest.MonkeyPatch):
    # Shapes are checked everywhere else; here that would take nine tenths of the time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    env = Echo(32, length=4)
    policy = ActorCritic(env.observation_space, env.action_space, core=core, hidden_size=32)
    ppo = PPO(env, policy, seed=[0] * 32, num_steps=16, learning_rate=3e-3)
    returns = torch.tensor([ppo.iterate(i / 40)["episode_return"] for i in range(40)])
    last = returns[-10:].median()
    assert abs(last) < 0.3 if core == "none" else last > 0.9, returns
