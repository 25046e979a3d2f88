"""Control tasks: equal to Gymnasium's, or tested by mechanics."""

from __future__ import annotations

import itertools
from math import cos, pi, sin
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from rlmem.envs import counter_rng
from rlmem.envs.control import CONTROLS, ball_balance, cart, reacher
from rlmem.envs.control.base import near, runge_kutta, third, wrapped

ALL = sorted(CONTROLS)
# Gymnasium's name, the indices of its numbers in our states, and its actions for -1, 0 and 1.
ORIGINALS: dict[str, tuple[str, list[int], list[Any]]] = {
    "acrobot": ("Acrobot-v1", [0, 1, 2, 3], [0, 1, 2]),
    "cartpole": ("CartPole-v1", [0, 2, 1, 3], [0, 1, 1]),
    "mountain-car": ("MountainCar-v0", [0, 1], [0, 1, 2]),
    "pendulum": ("Pendulum-v1", [0, 1], [np.array([u], np.float32) for u in (-2, 0, 2)]),
}


def draws(count: int, seed: int = 0) -> counter_rng.RandomDraws:
    key = counter_rng.keys(range(seed, seed + count))
    return counter_rng.RandomDraws(key, torch.zeros_like(key))


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def worth(name: str, reward: float, terminated: bool) -> float | None:
    """Gymnasium's reward as worth, for the tasks with equivalent rewards."""
    if name == "pendulum":
        return 1 + reward / 16.2736044
    return 1.0 if name == "cartpole" else None


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_step_equals_that_of_gymnasium(name: str) -> None:
    id, order, actions = ORIGINALS[name]
    env: Any = gym.make(id).unwrapped
    task = CONTROLS[name]
    random = np.random.default_rng(0)
    ends = 0
    for episode in range(30):
        env.reset(seed=episode)
        if name != "cartpole":
            # States that random play rarely reaches: fast, everywhere, near the ends.
            env.state = random.uniform(-1, 1, len(order)) * np.array(
                {"pendulum": [9, 8], "mountain-car": [0.6, 0.07], "acrobot": [3, 3, 9, 20]}[name]
            )
        for _ in range(30):
            chosen = int(random.integers(3))
            state = torch.from_numpy(np.asarray(env.state, np.float64)[order])[:, None]
            obs, reward, terminated, _, _ = env.step(actions[chosen])
            moved, value, ended = task.transition(state, column(*[chosen - 1] * task.controls))
            expected = torch.from_numpy(np.asarray(env.state, np.float64)[order])[:, None]
            torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
            assert ended.item() == terminated
            np.testing.assert_allclose(task.observe(moved)[:, 0], obs, rtol=1e-6, atol=1e-6)
            if (same := worth(name, float(reward), terminated)) is not None:
                assert value.item() == pytest.approx(same, abs=1e-7)
            ends += terminated
            if terminated:
                break
    assert ends > 0 or name == "pendulum"


@pytest.mark.parametrize("name", ALL)
def test_every_task_is_bounded_finite_and_batched(name: str) -> None:
    task = CONTROLS[name]
    state = task.initial_state(draws(64))
    assert state.shape == (task.numbers, 64)
    assert state.dtype == torch.float64
    controls = torch.rand(300, task.controls, 64, dtype=torch.float64) * 2 - 1
    alone = state[:, 5:6].clone()
    for t, control in enumerate(controls):
        seen = task.observe(state)
        assert seen.shape == (len(task.scale), 64)
        before = state.clone()
        seen += 1
        assert torch.equal(state, before)
        state, value, ended = task.transition(state, control)
        alone, own_value, _ = task.transition(alone, control[:, 5:6])
        assert state.isfinite().all()
        assert (value >= 0).all()
        assert (value <= 1).all()
        assert not (ended.any() and t + 1 < task.shortest)
        torch.testing.assert_close(value[5:6], own_value)
        torch.testing.assert_close(state[:, 5:6], alone)


@pytest.mark.parametrize("name", ["acrobot", "cartpole"])
def test_no_episode_ends_before_the_shortest(name: str) -> None:
    task = CONTROLS[name]
    low, high = task.initial_state(draws(1000)).aminmax(dim=1)
    corners = torch.cartesian_prod(*torch.stack((low, high), 1)).T
    choices = (-1, 0, 1) if name == "acrobot" else (-1, 1)
    plans = torch.tensor([*itertools.product(choices, repeat=task.shortest - 1)])
    state = corners.repeat(1, len(plans))
    plan = plans.double().repeat_interleave(corners.shape[1], dim=0)
    for control in plan.T:
        state, _, ended = task.transition(state, control[None])
        assert not ended.any()


@pytest.mark.parametrize("name", ["ball-balance", "mountain-car", "swing-up"])
def test_fast_play_does_not_end_an_episode_before_the_shortest(name: str) -> None:
    task = CONTROLS[name]
    state = task.initial_state(draws(4096))
    control = torch.tensor([*itertools.product((-1.0, 1.0), repeat=task.controls)]).double()
    control = control.repeat(2048 // task.controls, 1).T
    steps, ended = 0, torch.tensor(False)
    while not ended.any():
        state, _, ended = task.transition(state, control)
        steps += 1
        if name == "mountain-car":
            control = state[1:].sign()
    assert task.shortest <= steps < 200


def test_the_reacher_without_damping_conserves_energy() -> None:
    def energy(motion: Tensor) -> Tensor:
        _, elbow, spin, bend = motion.unbind()
        coupled = spin * (spin + bend) * elbow.cos() / 2
        # Each rod rotates around its own centre; the centre of the lower rod also moves.
        return (spin**2 / 3 + (spin + bend) ** 2 / 3 + spin**2) / 2 + coupled

    motion = torch.rand(4, 50, dtype=torch.float64) * 6 - 3
    before = energy(motion)
    for _ in range(200):
        motion = runge_kutta(lambda m: reacher.slope(m, m[:2] * 0, damping=0.0), motion, 0.005)
    torch.testing.assert_close(energy(motion), before, rtol=1e-6, atol=0)


def test_accelerations_of_the_reacher_by_hand() -> None:
    bent = column(0, pi / 2, 0, 0)
    slope = reacher.slope(bent, column(1, 0))
    torch.testing.assert_close(slope, column(0, 0, 0.75, -0.75))
    spinning = reacher.slope(column(0, pi / 2, 1, 0), column(0, 0), damping=0.0)
    # The spin of the upper link accelerates the lower one: C = 1/2 (0, 1), det M = 4/9.
    torch.testing.assert_close(spinning, column(1, 0, 0.375, -1.875))
    torch.testing.assert_close(reacher.hand(*column(0, pi / 2)), column(1, 1))


def test_worth_of_the_reacher() -> None:
    task = CONTROLS["reacher"]
    state = column(0, pi / 2, 0, 0, 1, 1)
    away = column(0, pi / 2, 0, 0, 1, 1 + reacher.HALF)
    assert task.observe(state)[-2:].abs().max() < 1e-12
    assert task.transition(state, column(0, 0))[1].item() == 1
    assert task.transition(away, column(0, 0))[1].item() == pytest.approx(0.5)
    distance = torch.linalg.vector_norm(task.initial_state(draws(1000))[4:], dim=0)
    low, high = reacher.TARGETS
    assert low <= distance.min() < low + 0.01
    assert high - 0.01 < distance.max() <= high


def test_a_ball_on_a_resting_plate_conserves_energy() -> None:
    task = CONTROLS["ball-balance"]
    tilt = 0.1
    state = column(0.5, 0.1, 0, 0.2, tilt, 0)

    def energy(state: Tensor) -> float:
        along, _, speed, _, _, _ = state[:, 0].tolist()
        return 0.7 * speed**2 + ball_balance.GRAVITY * along * sin(tilt)

    before = energy(state)
    for _ in range(30):
        state, _, _ = task.transition(state, column(0, 0))
    assert state[0, 0] < 0.4
    # The error of the method: half a step's fall.
    assert energy(state) == pytest.approx(before, rel=0.02)
    torch.testing.assert_close(state[1], torch.tensor([0.1 + 0.6 * 0.2]).double())


def test_a_turning_plate_accelerates_the_ball_and_stops_at_the_largest_tilt() -> None:
    slope = ball_balance.slope(column(0.5, 0.2), column(0, 0), column(1, 2))
    # The acceleration is 5/7 w (w . x), with w . x = 0.9.
    torch.testing.assert_close(slope, column(5 / 7 * 0.9, 5 / 7 * 1.8))
    task = CONTROLS["ball-balance"]
    state = column(0, 0, 0, 0, 0, 0)
    for _ in range(10):
        state, _, _ = task.transition(state, column(1, -1))
    torch.testing.assert_close(state[4:], column(0.25, -0.25))
    off = column(0.99, 0, 1, 0, 0, 0)
    assert task.transition(off, column(0, 0))[2].item()


def test_swing_up_has_the_dynamics_of_cartpole() -> None:
    task, pole = CONTROLS["swing-up"], CONTROLS["cartpole"]
    state = torch.rand(4, 20, dtype=torch.float64)
    for control in (-1.0, 1.0):
        whole = torch.full((1, 20), control, dtype=torch.float64)
        assert torch.equal(
            task.transition(state.clone(), whole)[0], pole.transition(state.clone(), whole)[0]
        )
    # Half a push at rest and upright, computed by hand with m l / M = 1 / 22.
    moved = task.transition(column(0, 0, 0, 0), column(0.5))[0]
    force = 5 / 1.1
    spin = -force / (0.5 * (4 / 3 - 0.1 / 1.1))
    expected = column(0, 0, 0.02 * (force - 0.05 * spin / 1.1), 0.02 * spin)
    torch.testing.assert_close(moved, expected)


def test_worth_of_swing_up() -> None:
    task = CONTROLS["swing-up"]
    for place, angle in ((0.0, 0.0), (0.0, pi), (1.2, 0.0), (0.0, pi / 2)):
        value = task.transition(column(place, angle, 0, 0), column(0))[1].item()
        share = (2 - (place / cart.LIMITS[0]) ** 2) / 2
        assert value == pytest.approx((1 + cos(angle)) / 2 * share, abs=1e-12)
    assert task.transition(column(2.41, 0, 0, 0), column(0))[2].item()


def test_helper_functions() -> None:
    torch.testing.assert_close(near(column(0, 0.5, 1)[:, 0], 0.5), column(1, 0.5, 0.2)[:, 0])
    given = column(-1, -0.34, -0.33, 0, 0.33, 0.34, 1)[:, 0]
    assert third(given).tolist() == [-1, -1, 0, 0, 0, 1, 1]
    turned = wrapped(torch.tensor([0.0, 4.0, -4.0, 7.0]))
    torch.testing.assert_close(turned, torch.tensor([0, 4 - 2 * pi, 2 * pi - 4, 7 - 2 * pi]))
    # x'' = -x from 1: the error after a quarter of a period is below 1e-6.
    state = column(1, 0)
    for _ in range(100):
        state = runge_kutta(lambda s: torch.stack((s[1], -s[0])), state, pi / 200)
    torch.testing.assert_close(state, column(0, -1), atol=1e-7, rtol=0)
