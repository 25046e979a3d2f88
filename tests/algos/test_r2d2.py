"""R2D2's errors, loss and priorities against numbers worked out by hand, and that it remembers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from gymnasium import spaces

from rlmem import algos
from rlmem.algos import NonFiniteLoss
from rlmem.algos.r2d2 import R2D2, epsilons
from rlmem.data.batch import SequenceBatch
from rlmem.data.replay_options import DEFAULTS
from rlmem.errors import UsageError
from rlmem.policies import QPolicy
from tests.algos.test_ppo import Echo
from tests.data.counting import Counting

SMALL = {"capacity": 400, "batch_size": 4, "length": 8, "burn_in": 3, "stride": 4}


def make(core: str = "gru", replay: dict[str, Any] | None = None, **options: Any) -> R2D2:
    env = Counting([3, 4, 5, 6], [True, False, False, True])
    policy = QPolicy(env.observation_space, env.action_space, core=core, hidden_size=8)
    options = {"num_steps": 6, "num_updates": 2, "learning_starts": 0, **options}
    replay = SMALL | (replay or {})
    made = algos.make("r2d2", env=env, policy=policy, seed=[0] * 4, replay=replay, **options)
    assert isinstance(made, R2D2)
    return made


def after_play(**options: Any) -> R2D2:
    """One whose replay has something in it."""
    r2d2 = make(**options)
    for _ in range(3):
        r2d2.collector.collect()
    return r2d2


def batch(steps: list[bool], **changes: Any) -> SequenceBatch:
    """One row of three steps, rewards 1, 2, 3, actions 0, 1, 0; step 1 terminates if changed so."""
    never = torch.zeros(1, 3, dtype=torch.bool)
    given = {
        "obs": {"obs": torch.zeros(1, 4, 2)},
        "start": torch.zeros(1, 4, dtype=torch.bool),
        "action": {"action": torch.tensor([[0, 1, 0]])},
        "reward": torch.tensor([[1.0, 2.0, 3.0]]),
        "terminated": never,
        "truncated": never,
        "mask": torch.tensor([steps]),
        "state": None,
        "weight": torch.ones(1),
        "segment": torch.tensor([0]),
    }
    return SequenceBatch(**{**given, **changes})


HERE = torch.tensor([[[0.5, 0.0], [1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]])
THERE = torch.tensor([[[9.0, 9.0], [8.0, 4.0], [2.0, 6.0], [8.0, 16.0]]])


def errors(found: SequenceBatch, **options: Any) -> list[float]:
    r2d2 = make(gamma=0.5, rescale_eps=None, **options)
    return r2d2.errors(HERE, THERE, found)[0].tolist()


def test_errors_by_hand() -> None:
    # Values of what the online network picks: 4, 2, 16. Of two steps, the last two of one:
    # 1 + 1/2 2 + 1/4 2 - 0.5; 2 + 1/2 3 + 1/4 16 - 2; 3 + 1/2 16 - 3.
    assert errors(batch([True] * 3), n_step=2) == [2.0, 5.5, 8.0]
    # The target network's own maxima are 8, 6, 16.
    assert errors(batch([True] * 3), n_step=2, double=False) == [3.0, 5.5, 8.0]
    assert errors(batch([True] * 3), n_step=1) == [2.5, 1.0, 8.0]


def test_errors_at_ends_by_hand() -> None:
    ended = torch.tensor([[False, True, False]])
    # Terminated: 1 + 1/2 2 - 0.5; 2 - 2. What follows has nothing done in it.
    assert errors(batch([True, True, False], terminated=ended), n_step=3) == [1.5, 0.0, 0.0]
    # Truncated: 1 + 1/2 2 + 1/4 2 - 0.5; 2 + 1/2 2 - 2.
    assert errors(batch([True, True, False], truncated=ended), n_step=3) == [2.0, 1.0, 0.0]
    # Truncated inside a trial, step 1 is not learned from, nor does step 0 look beyond it:
    # 1 + 1/2 4 - 0.5; 3 + 1/2 16 - 3.
    assert errors(batch([True, False, True], truncated=ended), n_step=3) == [2.5, 0.0, 8.0]


def test_rescaled_errors_by_hand() -> None:
    # h^-1(8) = 80 where eps is 0: h(3 + 1/2 80) = sqrt(44) - 1, of which Q = 3.
    there = THERE.clone()
    there[0, 3, 1] = 8.0
    r2d2 = make(gamma=0.5, rescale_eps=0.0, n_step=1)
    got = r2d2.errors(HERE, there, batch([True] * 3))[0]
    # h^-1(4) = 24: h(1 + 12) = sqrt(14) - 1; h^-1(2) = 8: h(2 + 4) = sqrt(7) - 1.
    want = [math.sqrt(14) - 1 - 0.5, math.sqrt(7) - 1 - 2, math.sqrt(44) - 1 - 3]
    assert got.tolist() == pytest.approx(want)


def test_loss_and_priorities_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    r2d2 = after_play(eta=0.75, replay={"batch_size": 2, "length": 3, "burn_in": 0})
    delta = torch.tensor([[1.0, -3.0, 0.0], [2.0, 2.0, 2.0]], requires_grad=True)
    monkeypatch.setattr(r2d2, "errors", lambda *_: delta)
    losses = []
    monkeypatch.setattr(
        r2d2.optimizer, "step", lambda loss, *_: losses.append(loss) or loss.detach()
    )
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = r2d2.collector.replay.sample(0.0)
    found = replace(found, weight=torch.tensor([1.0, 0.5]), mask=mask)
    metrics, priority = r2d2.learn(found)
    # (1 + 9 + (4 + 4 + 4) / 2) / 2 / 5 steps
    assert losses[0].item() == pytest.approx(1.6)
    # 3/4 3 + 1/4 (1 + 3) / 2; all 2.
    assert priority.tolist() == pytest.approx([2.75, 2.0])
    assert metrics["td_error"].item() == pytest.approx(2.0)


def test_no_gradient_comes_from_the_burn_in_or_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    r2d2 = after_play()
    found = r2d2.collector.replay.sample(0.0)
    shown = found.obs["obs"].requires_grad_()
    seen = []

    def step(loss: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(torch.autograd.grad(loss, shown)[0])
        return loss.detach()

    monkeypatch.setattr(r2d2.optimizer, "step", step)
    r2d2.learn(found)
    (gradient,) = seen
    assert (gradient[:, :3] == 0).all()
    assert (gradient[:, 3:].abs().amax((0, 2)) > 0).any()


def test_both_networks_read_the_same_history() -> None:
    """With equal weights the errors are those of one walk, step by step, from the stored state."""
    torch.manual_seed(0)
    r2d2 = after_play(n_step=1, gamma=1.0, rescale_eps=None, core="ffm")
    found = r2d2.collector.replay.sample(0.0)
    with torch.no_grad():
        state, value = found.state, []
        for t in range(found.start.shape[1]):
            obs = {"obs": found.obs["obs"][:, t]}
            features, state = r2d2.policy.core.step(
                r2d2.policy.encoder(obs), state, found.start[:, t]
            )
            value.append(r2d2.policy.q(features))
    values = torch.stack(value, 1)[:, 3:]
    rest = found.past_burn_in(None)
    played = values[:, :-1].gather(-1, rest.action["action"][..., None])[..., 0]
    following = torch.where(rest.terminated, 0, values[:, 1:].amax(-1))
    want = torch.where(rest.mask, rest.reward + following - played, 0)
    got: list[torch.Tensor] = []
    errors = r2d2.errors
    r2d2.errors = lambda *a: got.append(errors(*a)) or got[0]  # type: ignore[method-assign]
    r2d2.learn(found)
    torch.testing.assert_close(got[0].detach(), want, rtol=1e-4, atol=1e-5)


def test_epsilons_by_hand() -> None:
    # 0.4^1, 0.4^4.5 and 0.4^8.
    want = torch.tensor([0.4, 0.4**4.5, 0.4**8])
    torch.testing.assert_close(epsilons(3, 0.4, 7.0), want)
    torch.testing.assert_close(epsilons(1, 0.4, 7.0), torch.tensor([0.4]))
    torch.testing.assert_close(
        make(epsilon=0.1, epsilon_alpha=0.0).policy.epsilon, torch.full((4,), 0.1)
    )


@pytest.mark.parametrize("batching", ["segments", "tape", "trajectory"])
def test_it_plays_and_learns(batching: str) -> None:
    torch.manual_seed(0)
    r2d2 = make(replay={"batching": batching}, target_period=2)
    before = {name: p.clone() for name, p in r2d2.policy.named_parameters()}
    for _ in range(3):
        metrics = r2d2.iterate(0.0)
    assert metrics["q_loss"] > 0
    assert metrics["grad_norm"] > 0
    assert r2d2.collector.updates == 2 * 3 - 2 * (batching != "tape")
    assert any(not torch.equal(p, before[name]) for name, p in r2d2.policy.named_parameters())
    slow = r2d2.target.network.parameters()
    assert all(torch.equal(a, b) for a, b in zip(slow, r2d2.policy.parameters(), strict=True))


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    r2d2 = after_play()
    found = r2d2.collector.replay.sample(0.0)
    found.reward[found.mask.any(1).nonzero()[0], 5] = torch.nan
    found.mask[:, 5] = True
    before = {name: p.clone() for name, p in r2d2.policy.named_parameters()}
    with pytest.raises(NonFiniteLoss, match="of R2D2"):
        r2d2.learn(found)
    for name, p in r2d2.policy.named_parameters():
        assert torch.equal(p, before[name]), name


def test_only_actions_that_can_be_counted() -> None:
    with pytest.raises(UsageError, match="does not fit this environment"):
        algos.require_supported("r2d2", {"action": spaces.Box(-1, 1, (1,))})
    algos.require_supported("r2d2", {"action": spaces.Discrete(3)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.5}, "gamma must be between 0 and 1, not 1.5"),
        ({"n_step": 0}, "n_step must be an integer of at least 1"),
        ({"rescale_eps": -1.0}, "rescale_eps must be at least 0"),
        ({"num_updates": 0}, "num_updates must be"),
        ({"target_tau": 0.0}, "tau must be above 0"),
        ({"n_steps": 3}, "did you mean n_step"),
        ({"replay": {"lenght": 3}}, "did you mean length"),
    ],
)
def test_bad_options_get_a_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)


@pytest.mark.learning
@pytest.mark.parametrize("core", ["gru", "none"])
def test_learns_to_remember_a_bit(core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Shapes are checked everywhere else; here that would take nine tenths of the time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.manual_seed(0)
    env = Echo(32, length=4)
    policy = QPolicy(env.observation_space, env.action_space, core=core, hidden_size=32)
    replay = {**DEFAULTS, "capacity": 10_000, "length": 8, "burn_in": 4, "stride": 8}
    r2d2 = R2D2(env, policy, [0] * 32, learning_starts=500, target_period=20, replay=replay)
    for _ in range(75):
        r2d2.iterate(0.0)
    policy.epsilon = torch.zeros(32)
    r2d2.collector.replay.episode_metrics()
    r2d2.collector.collect()
    last = r2d2.collector.replay.episode_metrics()["episode_return"]
    assert abs(last) < 0.4 if core == "none" else last > 0.9
