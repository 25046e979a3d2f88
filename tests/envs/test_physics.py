"""Carts and pendulums: rare ends, and starts and noise that are as likely as the package's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import popgym.envs
import pytest
import torch
from scipy import stats
from torch import Tensor

from rlmem import envs
from rlmem.envs import streams
from rlmem.envs.popgym.cartpole import LIMITS, CartPole
from tests.envs import fair
from tests.envs.beside import Beside
from tests.envs.hidden_physics import ATTACH, motions

STARTS = 10_000
ORDER = [0, 2, 1, 3]  # of a cart's numbers in the package
CARTS = [name for name in ATTACH if "cartpole" in name]
NOISY = [name for name in ATTACH if "noisy" in name]
TERMINATED, TRUNCATED = (True, False), (False, True)


def make(name: str, num_envs: int, difficulty: str = "easy") -> Any:
    return envs.make(name, num_envs=num_envs, difficulty=difficulty, previous_action=False)


def balance(env: Any) -> Any:
    """Pushes to where the pole is going to fall."""
    x, speed, angle, spin = env.state
    return np.int64(angle + 0.5 * spin + 0.05 * x + 0.1 * speed > 0)


def run_away(env: Any) -> Any:
    """Keeps the pole leaning to the right, and so the cart running there."""
    _, _, angle, spin = env.state
    return np.int64(angle + 0.2 * spin > 0.05)


def speed_up(env: Any) -> Any:
    """Turns the pendulum further the way it goes, until it can go no faster."""
    return np.array([np.copysign(2.0, env.state[1])], np.float32)


@pytest.mark.parametrize(
    ("name", "difficulty"),
    [
        ("popgym-position-only-cartpole", "easy"),
        ("popgym-velocity-only-cartpole", "medium"),
        ("popgym-position-only-cartpole", "hard"),
        ("popgym-noisy-position-only-cartpole", "medium"),
    ],
)
def test_a_balanced_pole_is_truncated_as_the_packages(name: str, difficulty: str) -> None:
    beside = Beside(name, difficulty, ATTACH[name], num_envs=2)

    def player(env: Any) -> Any:
        # What falls doubles the difference in rounding every nine steps.
        if env.num_steps % 200 == 0:
            beside.env.env.state.motion.copy_(motions(beside.originals, ORDER))
        return balance(env)

    assert set(beside.check_episodes(at_least=4, player=player)) == {TRUNCATED}


@pytest.mark.parametrize("name", CARTS)
def test_a_cart_that_leaves_the_track_is_the_packages(name: str) -> None:
    beside = Beside(name, "hard", ATTACH[name], num_envs=2)
    places: list[float] = []

    def player(env: Any) -> Any:
        places.append(env.state[0])
        return run_away(env)

    assert set(beside.check_episodes(at_least=4, player=player)) == {TERMINATED}
    # The last place that is seen before the end: a step from the edge of the track.
    assert max(places) > LIMITS[0] - 0.2


def test_a_pendulum_goes_no_faster_than_the_packages() -> None:
    name = "popgym-position-only-pendulum"
    fastest: list[float] = []

    def player(env: Any) -> Any:
        fastest.append(abs(env.state[1]))
        return speed_up(env)

    ends = Beside(name, "easy", ATTACH[name], num_envs=4).check_episodes(8, player)
    assert set(ends) == {TRUNCATED}
    assert max(fastest) == 8


def test_no_pole_falls_before_the_first_step_in_which_one_can() -> None:
    steps = CartPole.shortest
    corners = list(itertools.product((-0.05, 0.05), repeat=4))
    pushes = list(itertools.product((0, 1), repeat=steps))
    env = make("popgym-position-only-cartpole", len(corners) * len(pushes))
    env.reset(0)
    env.state.motion[:] = torch.tensor(corners, dtype=torch.float64).T.repeat(1, len(pushes))
    push = torch.tensor(pushes).repeat_interleave(len(corners), dim=0)
    fallen = [env.step({"action": action}).terminated.any() for action in push.T]
    assert fallen == [False] * (steps - 1) + [True]


def package_starts(name: str, order: list[int]) -> Tensor:
    original = getattr(popgym.envs, name)()
    original.reset(seed=0)
    states = []
    for _ in range(STARTS):
        original.reset()
        states.append(motions([original], order)[:, 0])
    return torch.stack(states, 1)


@pytest.mark.parametrize(
    ("name", "package", "order"),
    [
        ("popgym-position-only-cartpole", "PositionOnlyCartPoleEasy", ORDER),
        ("popgym-position-only-pendulum", "PositionOnlyPendulumEasy", [0, 1]),
    ],
)
def test_starts_are_as_likely_as_the_packages(name: str, package: str, order: list[int]) -> None:
    env = make(name, STARTS)
    env.reset(3)
    motion = env.motion if hasattr(env, "motion") else env.state.motion
    for ours, theirs in zip(motion, package_starts(package, order), strict=True):
        assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > fair.LEAST
    scaled = (motion / motion.abs().max(1, keepdim=True).values + 1) / 2
    for one, other in itertools.combinations(scaled.clamp(max=1 - 1e-9), 2):
        fair.assert_independent(one, other)


def deviations(env: Any, obs: Tensor) -> Tensor:
    """By how many sigma the cart is seen elsewhere than it is."""
    return (obs[:, 0] - env.state.motion[0]) / env.sigma


@pytest.mark.parametrize(("difficulty", "sigma"), [("easy", 0.1), ("medium", 0.2), ("hard", 0.3)])
def test_noise_is_normal_at_the_start_and_in_every_step(difficulty: str, sigma: float) -> None:
    env = make("popgym-noisy-position-only-cartpole", STARTS, difficulty)
    assert env.sigma == sigma
    seen = [deviations(env, env.reset(5)["obs"])]
    for _ in range(3):
        step = env.step({"action": torch.zeros(STARTS, dtype=torch.int64)})
        assert not step.terminated.any()
        seen.append(deviations(env, step.obs["obs"]))
    for noise in seen:
        fair.assert_follows(noise, "norm")
    for one, other in itertools.combinations([stats.norm.cdf(noise.numpy()) for noise in seen], 2):
        fair.assert_independent(torch.from_numpy(one), torch.from_numpy(other))


@pytest.mark.parametrize("name", NOISY)
def test_both_numbers_have_noise_of_their_own(name: str) -> None:
    env = make(name, STARTS)
    env.reset(1)
    key = streams.keys(range(STARTS))
    for noise in (env.noise(), env.noise(), env.first_noise(streams.Draws(key, key * 0))):
        for number in noise:
            fair.assert_follows(number, "norm")
        uniform = torch.special.ndtr(noise.double())
        fair.assert_independent(uniform[0], uniform[1])


def test_one_environments_noise_is_normal_over_time() -> None:
    steps = streams.Steps(streams.keys([7]))
    noise = torch.stack([steps.normals() for _ in range(STARTS)])[:, :, 0]
    for number in noise.T:
        fair.assert_follows(number, "norm")
    uniform = torch.special.ndtr(noise.double())
    fair.assert_independent(uniform[:, 0], uniform[:, 1])
    fair.assert_independent(uniform[1:, 0], uniform[:-1, 1])


def test_noise_stays_in_the_space() -> None:
    for name in NOISY:
        env = make(name, STARTS, "hard")
        obs = env.reset(0)["obs"]
        high = torch.from_numpy(env.observation_space["obs"].high)
        assert (obs.abs() <= high).all()
        assert (obs.abs() == high).any()


def test_motions_can_be_read() -> None:
    cart = make("popgym-position-only-cartpole", 1)
    obs = cart.reset(0)
    cart.state.motion[:, 0] = torch.tensor([1.0, -0.1, 2.0, 0.5])
    assert cart.reveal(0) == "position +1.000 angle -0.100 speed +2.000 spin +0.500"
    assert cart.describe_action({"action": torch.tensor([1])}, 0) == "right"
    assert len(cart.describe_obs(obs, 0).split()) == 2
    pendulum = make("popgym-position-only-pendulum", 1)
    obs = pendulum.reset(0)
    pendulum.motion[:, 0] = torch.tensor([1.0, -0.1])
    assert pendulum.reveal(0) == "angle +1.000 spin -0.100"
    assert pendulum.describe_action({"action": torch.tensor([[0.5]])}, 0) == "torque +0.50"
    assert pendulum.describe_obs(obs, 0).startswith("cosine ")
