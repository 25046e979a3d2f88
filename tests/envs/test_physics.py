"""Carts and pendulums: rare ends of episodes, and the distributions of starts and noise."""

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
from rlmem.envs import counter_rng
from rlmem.envs.popgym.cartpole import LIMITS, CartPole
from tests.envs import distribution_asserts
from tests.envs.popgym_parity import Parity
from tests.envs.popgym_state_physics import ATTACH, motions

STARTS = 10_000
ORDER = [0, 2, 1, 3]  # the order of a cart's numbers in the package
CARTS = [name for name in ATTACH if "cartpole" in name]
NOISY = [name for name in ATTACH if "noisy" in name]
TERMINATED, TRUNCATED = (True, False), (False, True)


def make(name: str, num_envs: int, difficulty: str = "easy") -> Any:
    return envs.make(name, num_envs=num_envs, difficulty=difficulty, previous_action=False)


def balance(env: Any) -> Any:
    """Pushes toward the side on which the pole would fall."""
    x, speed, angle, spin = env.state
    return np.int64(angle + 0.5 * spin + 0.05 * x + 0.1 * speed > 0)


def run_away(env: Any) -> Any:
    """Keeps the pole leaning to the right, so that the cart runs to the right."""
    _, _, angle, spin = env.state
    return np.int64(angle + 0.2 * spin > 0.05)


def speed_up(env: Any) -> Any:
    """Accelerates the pendulum to its highest speed."""
    return np.array([np.copysign(2.0, env.state[1])], np.float32)


@pytest.mark.by_day(5)
@pytest.mark.parametrize(
    ("name", "difficulty"),
    [
        ("popgym-position-only-cartpole", "easy"),
        ("popgym-velocity-only-cartpole", "medium"),
        ("popgym-position-only-cartpole", "hard"),
        ("popgym-noisy-position-only-cartpole", "medium"),
    ],
)
def test_a_balanced_pole_is_truncated_as_in_the_package(name: str, difficulty: str) -> None:
    parity = Parity(name, difficulty, ATTACH[name], num_envs=2)

    def choose(env: Any) -> Any:
        # Rounding errors of a falling pole double every nine steps.
        if env.num_steps % 200 == 0:
            parity.env.env.state.motion.copy_(motions(parity.originals, ORDER))
        return balance(env)

    assert set(parity.check_episodes(at_least=4, choose=choose)) == {TRUNCATED}


@pytest.mark.by_day(3)
@pytest.mark.parametrize("name", CARTS)
def test_a_cart_off_the_track_terminates_as_in_the_package(name: str) -> None:
    parity = Parity(name, "hard", ATTACH[name], num_envs=2)
    places: list[float] = []

    def choose(env: Any) -> Any:
        places.append(env.state[0])
        return run_away(env)

    assert set(parity.check_episodes(at_least=4, choose=choose)) == {TERMINATED}
    # The last position before the end: one step from the end of the track.
    assert max(places) > LIMITS[0] - 0.2


def test_the_speed_limit_of_the_pendulum_is_that_of_the_package() -> None:
    name = "popgym-position-only-pendulum"
    fastest: list[float] = []

    def choose(env: Any) -> Any:
        fastest.append(abs(env.state[1]))
        return speed_up(env)

    ends = Parity(name, "easy", ATTACH[name], num_envs=4).check_episodes(8, choose)
    assert set(ends) == {TRUNCATED}
    assert max(fastest) == 8


def test_no_pole_falls_before_the_shortest_episode() -> None:
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
def test_starts_are_distributed_as_in_the_package(
    name: str, package: str, order: list[int]
) -> None:
    env = make(name, STARTS)
    env.reset(3)
    motion = env.state.motion
    for ours, theirs in zip(motion, package_starts(package, order), strict=True):
        assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > distribution_asserts.LEAST
    scaled = (motion / motion.abs().max(1, keepdim=True).values + 1) / 2
    for one, other in itertools.combinations(scaled.clamp(max=1 - 1e-9), 2):
        distribution_asserts.assert_independent(one, other)


def deviations(env: Any, obs: Tensor) -> Tensor:
    """The error of the observed position in units of sigma."""
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
        distribution_asserts.assert_follows(noise, "norm")
    for one, other in itertools.combinations([stats.norm.cdf(noise.numpy()) for noise in seen], 2):
        distribution_asserts.assert_independent(torch.from_numpy(one), torch.from_numpy(other))


@pytest.mark.parametrize("name", NOISY)
def test_both_numbers_have_independent_noise(name: str) -> None:
    env = make(name, STARTS)
    env.reset(1)
    key = counter_rng.keys(range(STARTS))
    for noise in (env.noise(), env.noise(), env.first_noise(counter_rng.RandomDraws(key, key * 0))):
        for number in noise:
            distribution_asserts.assert_follows(number, "norm")
        uniform = torch.special.ndtr(noise.double())
        distribution_asserts.assert_independent(uniform[0], uniform[1])


def test_noise_of_one_environment_is_normal_over_time() -> None:
    steps = counter_rng.RandomSteps(counter_rng.keys([7]))
    noise = torch.stack([steps.normals() for _ in range(STARTS)])[:, :, 0]
    for number in noise.T:
        distribution_asserts.assert_follows(number, "norm")
    uniform = torch.special.ndtr(noise.double())
    distribution_asserts.assert_independent(uniform[:, 0], uniform[:, 1])
    distribution_asserts.assert_independent(uniform[1:, 0], uniform[:-1, 1])


def test_noise_stays_in_the_space() -> None:
    for name in NOISY:
        env = make(name, STARTS, "hard")
        obs = env.reset(0)["obs"]
        high = torch.from_numpy(env.observation_space["obs"].high)
        assert (obs.abs() <= high).all()
        assert (obs.abs() == high).any()


def test_descriptions() -> None:
    cart = make("popgym-position-only-cartpole", 1)
    obs = cart.reset(0)
    cart.state.motion[:, 0] = torch.tensor([1.0, -0.1, 2.0, 0.5])
    assert cart.reveal(0) == "position +1.000 angle -0.100 speed +2.000 spin +0.500"
    assert cart.describe_action({"action": torch.tensor([1])}, 0) == "right"
    assert len(cart.describe_obs(obs, 0).split()) == 2
    pendulum = make("popgym-position-only-pendulum", 1)
    obs = pendulum.reset(0)
    pendulum.state.motion[:, 0] = torch.tensor([1.0, -0.1])
    assert pendulum.reveal(0) == "angle +1.000 spin -0.100"
    assert pendulum.describe_action({"action": torch.tensor([[0.5]])}, 0) == "torque +0.50"
    assert pendulum.describe_obs(obs, 0).startswith("cosine ")
