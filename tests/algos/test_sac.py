"""SAC's targets and losses against numbers worked out by hand, and whom each gradient reaches."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem import algos
from rlmem.algos import NonFiniteLoss
from rlmem.algos.sac import REPLAY, SAC, RewardScale
from rlmem.data.batch import SequenceBatch
from rlmem.errors import UsageError
from rlmem.policies import SoftPolicy
from rlmem.policies.soft import ActorOutput
from tests.algos.echo import Echo
from tests.data.counting import Counting

DISCRETE = {"action.0": spaces.Discrete(3)}
MIXED = {**DISCRETE, "action.1": spaces.Box(-2, 2, (2,))}
LOG2 = math.log(2)


def make(actions: dict[str, spaces.Space] = DISCRETE, **options: Any) -> SAC:
    env = Counting([3, 4, 5, 6], [True, False, False, True])
    env.action_space = actions  # type: ignore[assignment]
    options["replay"] = {**REPLAY, "capacity": 400, "length": 6, "stride": 2} | options.get(
        "replay", {}
    )
    num_critics = options.pop("num_critics", 2)
    policy = SoftPolicy(
        env.observation_space, env.action_space, core="gru", hidden_size=8, num_critics=num_critics
    )
    return algos.make("sac", env=env, policy=policy, seed=[0, 2, 4, 6], **options)  # type: ignore[return-value]


def rows(
    reward: list[list[float]],
    terminated: list[list[int]],
    truncated: list[list[int]],
    mask: list[list[int]],
) -> SequenceBatch:
    """Rows of steps in which everything else is drawn at random, actions of `MIXED`."""
    rewards = torch.tensor(reward)
    batch, steps = rewards.shape
    return SequenceBatch(
        obs={"obs": torch.rand(batch, steps + 1, 2)},
        start=torch.zeros(batch, steps + 1, dtype=torch.bool),
        action={
            "action.0": torch.randint(3, (batch, steps)),
            "action.1": torch.rand(batch, steps, 2) * 2 - 1,
        },
        reward=rewards,
        terminated=torch.tensor(terminated).bool(),
        truncated=torch.tensor(truncated).bool(),
        mask=torch.tensor(mask).bool(),
        state=torch.zeros(batch, 8),
        weight=torch.ones(batch),
        segment=torch.arange(batch),
    )


def some_rows() -> SequenceBatch:
    flags = [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    return rows(torch.rand(2, 5).tolist(), *flags, [[1, 1, 1, 0, 1], [1, 1, 0, 1, 1]])


def says(*critics: list[list[float]]) -> SimpleNamespace:
    """A target network whose critics say this of the choices at each step of one row."""
    return SimpleNamespace(critics=lambda *_: torch.tensor(critics).unsqueeze(1))


def test_targets_of_choices_by_hand():
    sac = make(gamma=0.9, alpha=0.5, reward_scale=2.0)
    sac.target.network = says(
        [[9.0, 9.0], [1.0, 4.0], [2.0, 8.0], [5.0, 5.0]],
        [[9.0, 9.0], [3.0, 2.0], [4.0, 4.0], [6.0, 3.0]],
    )
    p = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75]]]).clamp(min=1e-30)
    plan = ActorOutput(p.log(), torch.zeros(1, 4, 0), torch.zeros(1, 4))
    batch = rows([[1.0, 2.0, 3.0]], [[0, 1, 0]], [[0, 0, 1]], [[1, 1, 1]])
    target = sac.targets(batch, torch.zeros(1, 4, 8), plan)
    # The least of the critics: (1, 2), (2, 4), (5, 3).
    first = 2 * 1 + 0.9 * ((1 + 2) / 2 + 0.5 * LOG2)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    # Truncated: what follows counts all the same.
    last = 2 * 3 + 0.9 * (0.25 * 5 + 0.75 * 3 + 0.5 * entropy)
    torch.testing.assert_close(target, torch.tensor([[first, 2 * 2.0, last]]))


def test_targets_of_numbers_by_hand():
    sac = make(gamma=0.5, alpha=0.2, reward_scale=1.0)
    sac.target.network = says([[7.0], [4.0], [6.0]], [[7.0], [5.0], [2.0]])
    plan = ActorOutput(torch.zeros(1, 3, 1), torch.zeros(1, 3, 1), torch.tensor([[9.0, 0.5, -1.5]]))
    batch = rows([[1.0, -1.0]], [[0, 0]], [[0, 0]], [[1, 1]])
    target = sac.targets(batch, torch.zeros(1, 3, 8), plan)
    # 1 + (4 - 0.2 * 0.5) / 2; -1 + (2 + 0.2 * 1.5) / 2
    torch.testing.assert_close(target, torch.tensor([[2.95, 0.15]]))


class Fixed:
    """A policy of two choices whose critics and actor say what they are told of one row."""

    continuous = None

    def __init__(self, p: list[list[float]], *critics: list[list[float]]) -> None:
        p_next = [*p, [0.5, 0.5]]
        self.p, self.q = torch.tensor([p_next]), torch.tensor(critics).unsqueeze(1)

    core = SimpleNamespace(scan=lambda x, state, start: (torch.zeros(*start.shape, 8), None))
    encoder = legal = staticmethod(lambda obs: None)

    def actor_output(self, features: Tensor, legal: None) -> ActorOutput:
        return ActorOutput(self.p.log(), features[..., :0], features[..., 0])

    def values(self, features: Tensor, action: object) -> Tensor:
        return self.q

    chosen = SoftPolicy.chosen

    discrete = SimpleNamespace(index=lambda action: action["action.0"])


def test_losses_by_hand():
    two = {"action.0": spaces.Discrete(2)}
    sac = make(two, alpha=0.5, discrete_target_entropy=0.8, reward_scale=1.0)
    sac.policy = Fixed(  # type: ignore[assignment]
        [[0.5, 0.5], [0.9, 0.1], [0.25, 0.75]],
        [[1.0, 2.0], [9.0, 9.0], [3.0, 5.0]],
        [[2.0, 0.0], [9.0, 9.0], [4.0, 4.0]],
    )
    sac.targets = lambda *_: torch.tensor([[1.0, 7.0, 2.0]])  # type: ignore[method-assign]
    sac.target.network = sac.policy
    batch = rows([[0.0, 0.0, 0.0]], [[0, 0, 0]], [[0, 0, 0]], [[1, 0, 1]])
    batch.action = {"action.0": torch.tensor([[0, 0, 1]])}
    losses = sac.losses(batch)
    # Choice 0 of the first step: (1 - 1)^2 + (2 - 1)^2; choice 1 of the third: 3^2 + 2^2; halved.
    assert losses.critic.item() == pytest.approx((1 / 2 + 13 / 2) / 2)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    # Least values (1, 0) and (3, 4).
    value = (0.5 + 0.5 * LOG2 + 0.25 * 3 + 0.75 * 4 + 0.5 * entropy) / 2
    assert losses.actor.item() == pytest.approx(-value)
    torch.testing.assert_close(losses.entropy, torch.tensor([(LOG2 + entropy) / 2, 0.0]))
    assert losses.alpha.item() == pytest.approx(0.5 * ((LOG2 + entropy) / 2 - 0.8 * LOG2))
    # Mean errors 1/2 and 5/2 of the critics; what is masked is not the worst.
    torch.testing.assert_close(losses.error, torch.tensor([2.5]))
    assert losses.value.item() == pytest.approx((1 + 2) / 2)
    heavy = sac.losses(replace(batch, weight=torch.tensor([3.0])))
    torch.testing.assert_close(heavy.critic, 3 * losses.critic)
    torch.testing.assert_close(heavy.error, losses.error)


def reached(loss: Tensor, sac: SAC) -> set[str]:
    """The parts of the policy that a gradient moves."""
    parts = dict(sac.policy.named_children())
    found = set()
    for name, part in parts.items():
        weights = list(part.parameters())
        if weights:
            slopes = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            if any(slope is not None and slope.any() for slope in slopes):
                found.add(name)
    return found


@pytest.mark.parametrize("numbers", [False, True])
def test_every_gradient_reaches_what_it_is_for(numbers: bool):
    sac = make(MIXED if numbers else DISCRETE)
    losses = sac.losses(some_rows())
    assert reached(losses.critic, sac) == {"encoder", "core", "critics"}
    assert reached(losses.actor, sac) == {"actor"}
    assert not losses.error.requires_grad
    (slope,) = torch.autograd.grad(losses.alpha, [sac.log_alpha])
    assert slope.ne(0).tolist() == [True, numbers]


def slopes(sac: SAC, batch: SequenceBatch) -> list[Tensor]:
    """All losses, and where they take the weights."""
    torch.manual_seed(1)
    losses = sac.losses(batch)
    weights = [*sac.policy.parameters(), sac.log_alpha]
    total = losses.critic + losses.actor + losses.alpha
    return [*losses, *torch.autograd.grad(total, weights)]


def test_what_is_masked_leaves_no_trace():
    sac, batch = make(MIXED), some_rows()
    before = slopes(sac, batch)
    batch.reward[~batch.mask] = torch.nan
    batch.action["action.1"][~batch.mask] = 0.5
    batch.terminated[~batch.mask] = True
    for ours, theirs in zip(slopes(sac, batch), before, strict=True):
        assert torch.equal(ours, theirs)
    sac.scale.update(batch)
    assert math.isfinite(sac.scale.factor)


def test_burn_in_is_read_and_not_learned_from():
    sac, batch = make(), some_rows()
    batch.mask[:, :2] = False
    # Discrete actions involve no random numbers: masked or skipped is the same.
    skipped = replace(batch, burn_in=2)
    losses = sac.losses(skipped)
    for ours, theirs in zip(losses, sac.losses(batch), strict=True):
        torch.testing.assert_close(ours, theirs)
    skipped.obs["obs"][:, 0] += 1
    assert not torch.isclose(sac.losses(skipped).value, losses.value, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("target", "sign"), [(0.0, -1), (1.0, 1)])
def test_temperature_moves_against_what_the_entropy_lacks(target: float, sign: int):
    numbers = 10.0 if target else -10.0
    sac = make(MIXED, discrete_target_entropy=target, continuous_target_entropy=numbers)
    torch.nn.init.normal_(sac.policy.actor.out.weight)
    before = sac.alpha
    sac.learn(some_rows())
    assert (sac.alpha - before).sign().tolist() == [sign, sign]


def test_target_entropies_by_hand():
    sac = make(
        MIXED,
        discrete_target_entropy=0.8,
        discrete_target_entropy_end=0.2,
        continuous_target_entropy=-0.5,
    )
    for progress, share in ((0.0, 0.8), (0.5, 0.5), (1.0, 0.2)):
        sac.progress = progress
        expected = torch.tensor([share * math.log(3), -0.5 * 2])
        torch.testing.assert_close(sac.target_entropy, expected)


def test_the_temperature_of_what_is_not_there_stays():
    sac = make(alpha=0.3)
    metrics, _ = sac.learn(some_rows())
    assert sac.alpha[1].item() == pytest.approx(0.3)
    assert "discrete_alpha" in metrics
    assert "continuous_alpha" not in metrics


def test_the_target_follows_encoder_memory_and_critics():
    sac = make(tau=0.25)
    before = copy.deepcopy(sac.policy)
    sac.learn(some_rows())
    slow = sac.target.network
    for part in ("encoder", "core", "critics"):
        trio = (getattr(each, part).parameters() for each in (slow, before, sac.policy))
        for ours, old, new in zip(*trio, strict=True):
            assert not torch.equal(old, new), part
            torch.testing.assert_close(ours, 0.75 * old + 0.25 * new)


def test_usual_rewards_have_usual_sums():
    scale = RewardScale(0.99, None)
    assert scale.factor == 1
    batch = rows([[3.0, 4.0, 99.0]], [[0] * 3], [[0] * 3], [[1, 1, 0]])
    scale.update(batch)
    # E[r^2] = (9 + 16) / 2: sums of 100 such rewards are 10.
    assert scale.factor * math.sqrt(12.5) * 100 == pytest.approx(10)
    scale.update(replace(batch, reward=torch.zeros(1, 3)))
    assert scale.factor * math.sqrt(6.25) * 100 == pytest.approx(10)
    endless = RewardScale(1.0, None)
    endless.update(batch)
    assert endless.factor * math.sqrt(12.5) * 1000 == pytest.approx(10)
    given = RewardScale(0.99, 7.0)
    given.update(batch)
    assert given.factor == 7


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    sac, batch = make(reward_scale=1.0), some_rows()
    batch.reward[0, 0] = torch.nan
    before = copy.deepcopy(sac.policy.state_dict())
    with pytest.raises(NonFiniteLoss, match="of SAC"):
        sac.learn(batch)
    for name, weight in sac.policy.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_state_dict_is_all_that_learning_needs():
    sac, other = make(MIXED, tau=0.1), make(MIXED, tau=0.1)
    batch = some_rows()
    sac.learn(batch)
    other.policy.load_state_dict(sac.policy.state_dict())
    other.load_state_dict(copy.deepcopy(sac.state_dict()))
    for each in (sac, other):
        torch.manual_seed(1)
        each.learn(batch)
    assert torch.equal(sac.alpha, other.alpha)
    for mine in (lambda each: each.policy, lambda each: each.target.network):
        for ours, theirs in zip(mine(sac).parameters(), mine(other).parameters(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("batching", ["segments", "tape"])
def test_plays_and_learns_from_any_batching(batching: str):
    sac = make(learning_starts=40, num_steps=8, replay={"batching": batching, "burn_in": 0})
    metrics: dict[str, float] = {}
    for step in range(6):
        metrics |= sac.iterate(step / 6)
    assert sac.collector.updates == 5
    named = {"critic_loss", "actor_loss", "discrete_entropy", "episode_return"}
    assert named <= metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.5}, "gamma must be between 0 and 1, not 1.5"),
        ({"discrete_target_entropy": -0.1}, "discrete_target_entropy must be between 0 and 1"),
        ({"alpha": 0.0}, "alpha and reward_scale must be above 0"),
        ({"reward_scale": -1.0}, "reward_scale must be above 0"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"num_critics": 0}, "num_critics must be an integer of at least 1"),
        ({"replay": {"lenght": 3}}, "did you mean length"),
    ],
)
def test_bad_options_get_a_clear_line(options: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        make(**options)


def test_too_many_joint_discrete_actions_are_refused():
    algos.require_supported("sac", MIXED)
    message = r"at most 4096 joint discrete actions.*algorithms that fit: .*ppo"
    with pytest.raises(UsageError, match=message):
        algos.require_supported("sac", {"action": spaces.MultiBinary(13)})


@pytest.mark.learning
@pytest.mark.parametrize("core", ["ffm", "gru", "none"])
def test_learns_to_remember_a_bit(core: str, monkeypatch: pytest.MonkeyPatch):
    # Shapes are checked everywhere else; here that would take nine tenths of the time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    env = Echo(32, length=4)
    policy = SoftPolicy(env.observation_space, env.action_space, core=core, hidden_size=32)
    replay = {**REPLAY, "capacity": 10_000, "length": 10, "batch_size": 64, "stride": 5}
    sac = SAC(env, policy, [0] * 32, 4, 1, 500, 3e-3, tau=0.05, replay=replay)
    returns = [sac.iterate(i / 70).get("episode_return", 0.0) for i in range(70)]
    last = torch.tensor(returns[-20:]).mean()
    assert abs(last) < 0.2 if core == "none" else last > 0.8, returns
