"""Random projections: the distribution of matrices, and the tasks behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rlmem import envs, tree
from rlmem.envs import counter_rng
from rlmem.envs.control import CONTROLS
from rlmem.envs.meta.projection import GAIN, orthogonal
from rlmem.errors import UsageError
from tests.envs import distribution_asserts

CART, MANY = "meta-cartpole-projection", "meta-control-projection"
NAMES = list(CONTROLS)


def make(name: str, num_envs: int = 64, seed: int = 0, **options: Any) -> Any:
    """The `TaskEnv` inside the trials, after a reset."""
    env: Any = envs.make(name, num_envs=num_envs, **options)
    env.reset(seed)
    return env.env


def sights(env: Any) -> set[tuple[float, ...]]:
    return set(map(tuple, env.task.sight.flatten(1).tolist()))


def matrices(count: int, rows: int, columns: int) -> Tensor:
    key = counter_rng.keys(range(count))
    return orthogonal(counter_rng.RandomDraws(key, torch.zeros_like(key)), rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 3), (2, 6), (3, 1), (1, 1)])
def test_matrices_are_submatrices_of_orthogonal_ones(rows: int, columns: int) -> None:
    drawn = matrices(500, rows, columns)
    assert drawn.shape == (500, rows, columns)
    product = drawn.mT @ drawn if rows >= columns else drawn @ drawn.mT
    torch.testing.assert_close(product, torch.eye(min(rows, columns)).expand_as(product))


def test_matrices_are_drawn_uniformly() -> None:
    # In two dimensions: rotations by uniform angles, with a reflection in half of the cases.
    plane = matrices(4000, 2, 2)
    angle = torch.atan2(plane[:, 1, 0], plane[:, 0, 0]) / (2 * torch.pi) + 0.5
    mirrored = torch.linalg.det(plane) < 0
    for some in (angle, angle[mirrored], angle[~mirrored]):
        distribution_asserts.assert_follows(some, "uniform")
    assert stats.binomtest(int(mirrored.sum()), 4000).pvalue > distribution_asserts.LEAST
    # In more dimensions a column is a point on a sphere, which gives the distribution of its
    # entries.
    entries = matrices(4000, 4, 4)
    for row, column in ((0, 0), (3, 1), (2, 3)):
        entry = (entries[:, row, column].double() + 1) / 2
        assert (
            stats.kstest(entry.numpy(), stats.beta(1.5, 1.5).cdf).pvalue
            > distribution_asserts.LEAST
        )


@pytest.mark.parametrize("split", ["train", "heldout", "heldout-families"])
def test_each_row_has_its_own_task_and_matrices(split: str) -> None:
    env = make(MANY, split=split, length=60, repeat=1)
    generator = torch.Generator().manual_seed(0)
    ends = 0
    for _ in range(125):
        task, state = env.task, env.state.state
        motion, steps = state.motion.clone(), state.steps.clone()
        family, sight, grip = task.family.clone(), task.sight.clone(), task.grip.clone()
        action = torch.rand(64, 2, generator=generator) * 2 - 1
        step = env.step({"action": action})
        ends += int(step.done.sum())
        for row in range(0, 64, 15):
            dynamics = CONTROLS[NAMES[family[row]]]
            control = (grip[row].T @ action[row]).clamp(-1, 1)[: dynamics.controls]
            before = motion[row, : dynamics.numbers, None].clone()
            after, worth, ended = dynamics.transition(before, control.double()[:, None])
            left = 60 - int(steps[row])
            value = left if dynamics.solved and ended else worth.item()
            assert step.reward[row].item() == pytest.approx(value / 60, abs=1e-6)
            assert step.terminated[row] == ended
            assert step.truncated[row] == (left == 1)
            seen = dynamics.observe(after)[:, 0] / torch.tensor(dynamics.scale)
            shown = sight[row, :, : len(seen)] @ seen.float()
            torch.testing.assert_close(step.final_obs["obs"][row], shown, atol=1e-5, rtol=1e-5)
    assert ends > 64


def test_every_control_can_be_reached() -> None:
    env = make(MANY, 256)
    control = torch.rand(256, 2) * 2 - 1
    action = (env.task.grip @ control[:, :, None])[:, :, 0] / GAIN**2
    assert action.abs().max() <= 1
    torch.testing.assert_close((env.task.grip.mT @ action[:, :, None])[:, :, 0], control)


@pytest.mark.slow
@pytest.mark.parametrize(("obs_dim", "act_dim"), [(5, 2), (8, 3)])
def test_the_oracle_earns_the_return_of_its_law(obs_dim: int, act_dim: int) -> None:
    sizes = {"obs_dim": obs_dim, "act_dim": act_dim, "length": 50, "repeat": 1, "episodes": 1}
    env = make(MANY, 42, families=NAMES, heldout_families=[], **sizes)
    task = tree.map(torch.clone, env.task)
    plan = env.distribution.plan(task)
    state = env.state.state.motion.t().clone()
    total, alone = torch.zeros(42), torch.zeros(42)
    over, ended = total.bool(), total.bool()
    for t in range(50):
        action = env.distribution.best_action(plan, task, env.state.state)
        assert action["action"].abs().max() <= 1
        step = env.step(action)
        total += torch.where(over, 0.0, step.reward)
        over |= step.done
        for index, name in enumerate(NAMES):
            rows = (task.family == index).nonzero()[:, 0]
            dynamics = CONTROLS[name]
            motion = state[: dynamics.numbers, rows]
            moved, worth, end = dynamics.transition(motion.clone(), dynamics.steer(motion))
            state[: dynamics.numbers, rows] = moved
            worth = torch.where(end, 50 - t, worth) if dynamics.solved else worth
            alone[rows] += torch.where(ended[rows], 0.0, worth / 50).float()
            ended[rows] |= end
    assert over.all()
    for index in range(len(NAMES)):
        rows = task.family == index
        # Actions are float32: close to a switch of the law a step may differ.
        assert total[rows].mean().item() == pytest.approx(alone[rows].mean().item(), abs=0.01)


def test_the_oracle_with_one_action_comes_closest_to_the_controls() -> None:
    env = make(MANY, 256, act_dim=1)
    task, motion = env.task, env.state.state.motion
    tasks = env.distribution
    action = tasks.best_action(tasks.plan(task), task, env.state.state)["action"]
    assert action.shape == (256, 1)
    assert action.dtype == torch.float32
    assert all(env.action_space["action"].contains(row.numpy()) for row in action)
    missing = torch.zeros(256)
    for index, dynamics in tasks.families.items():
        rows = (task.family == index).nonzero()[:, 0]
        control = dynamics.steer(motion[rows, : dynamics.numbers].t()).t().float()
        grip = task.grip[rows, 0, : dynamics.controls]
        missing[rows] = ((control - grip * action[rows]) * grip).sum(1)
    # No larger action would come closer, unless the action is already at its bound.
    full = action[:, 0].abs() == 1
    assert 20 < full.sum() < 236
    assert missing[~full].abs().max() < 1e-5
    assert (missing * action[:, 0])[full].min() > -1e-5


def test_families_are_those_of_the_split() -> None:
    expected = {
        "train": {"cartpole", "mountain-car", "acrobot", "reacher"},
        "heldout": {"cartpole", "mountain-car", "acrobot", "reacher"},
        "heldout-families": {"pendulum", "swing-up", "ball-balance"},
    }
    drawn = {}
    for split, names in expected.items():
        env = make(MANY, 1000, split=split)
        counts = env.task.family.bincount(minlength=len(NAMES))
        assert {NAMES[i] for i in counts.nonzero()[:, 0].tolist()} == names
        assert stats.chisquare(counts[counts > 0].numpy()).pvalue > distribution_asserts.LEAST
        drawn[split] = set(env.task.projection.tolist())
        assert len(drawn[split]) == 1000
    assert not drawn["train"] & (drawn["heldout"] | drawn["heldout-families"])


def test_matrices_last_for_a_trial() -> None:
    env = make(CART, 32, episodes=3)
    action = {"action": torch.ones(32, 1)}
    seen = set()
    for _ in range(120):
        before, sight = env.state.episode.clone(), env.task.sight.clone()
        seen |= set(before.tolist())
        done = env.step(action).done
        same = (env.task.sight == sight).flatten(1).all(1)
        assert torch.equal(same, ~(done & (before == 2)))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("count", [1, 3])
def test_a_limited_number_of_training_projections(count: int) -> None:
    env, other = make(CART, 200, projections=count), make(CART, 200, 777, projections=count)
    known = {
        row for each in (env, other) for row in map(tuple, each.task.sight.flatten(1).tolist())
    }
    assert len(known) == count
    unknown = make(CART, 200, projections=count, split="heldout")
    assert not known & sights(unknown)
    assert len(unknown.task.projection.unique()) == 200
    assert env.splits.fingerprint() != make(CART).splits.fingerprint()


def test_solving_earns_the_worth_of_the_remaining_steps() -> None:
    env = make(MANY, 16, families=["mountain-car"], length=200, repeat=1, episodes=1)
    task = env.task
    total, over = torch.zeros(16), torch.zeros(16, dtype=torch.bool)
    for t in range(200):
        speed = env.state.state.motion[:, 1]
        control = torch.stack((torch.where(speed < 0, -1.0, 1.0), torch.zeros(16)), 1)
        action = (task.grip @ control[:, :, None])[:, :, 0] / GAIN**2
        grip = task.grip.clone()
        step = env.step({"action": action})
        task = env.task
        arrived = step.terminated & ~over
        paid = step.reward[arrived]
        torch.testing.assert_close(paid, torch.full_like(paid, 1 - t / 200))
        total += torch.where(over, 0.0, step.reward)
        over |= step.done
        if over.all():
            break
        assert torch.equal(task.grip[~over], grip[~over])
    assert over.all()
    assert ((total > 0.3) & (total < 1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["cartpol"]}, "did you mean cartpole"),
        ({"families": []}, "at least one"),
        ({"families": ["swing-up"]}, "overlaps with training's in family"),
        ({"obs_dim": 0}, "obs_dim"),
        ({"projections": 0}, "projections"),
        ({"length": 0}, "length"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        envs.make(MANY, num_envs=2, **options)


def test_other_sizes_of_observations_and_actions() -> None:
    env = make(MANY, 8, obs_dim=3, act_dim=5)
    assert env.task.sight.shape == (8, 3, 8)
    assert env.task.grip.shape == (8, 5, 2)
    seen = env.step({"action": torch.zeros(8, 5)}).obs["obs"]
    assert seen.shape == (8, 3)
    assert np.isfinite(seen.numpy()).all()


@pytest.mark.by_day(2)
@pytest.mark.parametrize("repeat", [2, 4])
def test_repeat_equals_repeated_actions(repeat: int) -> None:
    one, many = (
        make(MANY, 256, length=160 // k, repeat=k, families=NAMES, heldout_families=[])
        for k in (1, repeat)
    )
    plan = many.distribution.plan(many.task)
    playing = torch.ones(256, dtype=torch.bool)
    solves = torch.tensor([CONTROLS[NAMES[f]].solved for f in one.task.family.tolist()])
    solved = failed = 0
    for _ in range(160 // repeat):
        # Solves some tasks; in every second environment the negated action may fail.
        action = many.distribution.best_action(plan, many.task, many.state.state)["action"]
        action = {"action": torch.where(torch.arange(256)[:, None] % 2 == 0, action, -action)}
        paid, over = torch.zeros(256), torch.zeros(256, dtype=torch.bool)
        for _ in range(repeat):
            step = one.step(action)
            paid += step.reward.masked_fill(over, 0)
            over |= step.done
        step = many.step(action)
        torch.testing.assert_close(step.reward[playing], paid[playing])
        assert torch.equal(step.done[playing], over[playing])
        solved += int((step.terminated & playing & solves).sum())
        failed += int((step.terminated & playing & ~solves).sum())
        playing &= ~over
        states = one.state.state.motion[playing], many.state.state.motion[playing]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    assert min(solved, failed) > 3
    assert not playing.any()
