"""Color-Cubes: rules by hand, the visibility of teleports, the optimum, random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem import envs
from rlmem.envs.base import Tensors
from rlmem.errors import UsageError
from tests.envs import distribution_asserts

RIGHT, UP, LEFT, DOWN, TAKE = range(5)


def make(num_envs: int = 1, **options: Any) -> Any:
    return envs.make("color-cubes", num_envs=num_envs, **options)


def act(env: Any, moves: Tensor | int) -> Any:
    return env.step({"action": torch.as_tensor(moves).expand(env.num_envs)})


def best(env: Any) -> Tensor:
    return env.best_action()["action"]


def test_moves_and_walls() -> None:
    env = make(size=3, teleport=0.0)
    env.reset(0)
    for move, step in ((RIGHT, (1, 0)), (UP, (0, 1)), (LEFT, (-1, 0)), (DOWN, (0, -1))):
        for _ in range(3):
            cell = int(env.state.agent)
            act(env, move)
            x, y = cell % 3 + step[0], cell // 3 + step[1]
            assert int(env.state.agent) == min(max(x, 0), 2) + 3 * min(max(y, 0), 2)


def test_takes_are_rewarded_at_the_asked_cube_only() -> None:
    env = make(500, teleport=0.0, targets=20, penalty=-0.5)
    env.reset(0)
    for _ in range(12):
        before = env.state
        here = before.cells.gather(1, before.target[:, None])[:, 0] == before.agent
        step = act(env, TAKE)
        assert torch.equal(step.reward, torch.where(here, 0.05, -0.5))
        after = env.state
        assert torch.equal(after.found, before.found + here)
        # The next phase asks for another colour; the taken cube is elsewhere.
        assert torch.equal(after.target != before.target, here)
        assert torch.equal((after.cells != before.cells).sum(1) > 0, here)
        act(env, best(env))
    assert (env.state.found > 0).any()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cubes": 1, "targets": 3},
        {"size": 2, "cubes": 3, "teleport": 1.0},
        {"hide_colors": True, "teleport": 0.5},
        {"show_all": True, "size": 8, "cubes": 9},
    ],
    ids=str,
)
def test_perfect_play_gets_the_optimum_within_the_limit(options: dict[str, Any]) -> None:
    env = make(50, **{"targets": 5} | options)
    env.reset(0)
    total, over = torch.zeros(50), torch.zeros(50, dtype=torch.bool)
    for _ in range(env.length):
        step = act(env, best(env))
        assert not (step.truncated & ~over).any()
        total += torch.where(over, 0, step.reward)
        over |= step.terminated
    torch.testing.assert_close(total, torch.ones(50))


def read(env: Any, obs: Tensors, known: Tensor) -> Tensor:
    """The remembered cells [N, K], after one more observation."""

    def cell(place: Tensor) -> Tensor:
        x, y = (place * (env.size - 1)).round().long().unbind(-1)
        return x + y * env.size

    cubes = obs["obs.cubes"].unflatten(1, (env.cubes, 3))
    known = torch.where(cubes[..., 0] > 0, cell(cubes[..., 1:]), known)
    if env.hide_colors:
        moved = obs["obs.moved"]
        same = (known == cell(moved[:, 1:3])[:, None]) & (moved[:, :1] > 0)
        known = torch.where(same, cell(moved[:, 3:])[:, None], known)
    return known


@pytest.mark.parametrize("options", [{}, {"show_all": True}, {"hide_colors": True}], ids=str)
def test_observations_suffice_to_know_all_cells(options: dict[str, Any]) -> None:
    env = make(200, teleport=0.5, targets=30, **options)
    known = read(env, env.reset(0), torch.full((200, 3), -1))
    changes = 0
    for _ in range(30):
        before = env.state.cells
        step = act(env, best(env))
        known = read(env, step.obs, known)
        assert torch.equal(known, env.state.cells)
        changed = env.state.cells != before
        changes += int(changed.sum())
        assert (changed.sum(1) <= 1).all()
        visible = step.obs["obs.cubes"].unflatten(1, (3, 3))[..., 0] > 0
        if options == {"hide_colors": True}:
            assert not visible.any()
        elif not options:
            assert torch.equal(visible, changed)
        # Cubes stay apart, and the asked one stays where it is.
        assert (env.state.cells.sort(1).values.diff(dim=1) > 0).all()
    assert changes > 2000


def test_random_numbers() -> None:
    env = make(6000, teleport=0.25, cubes=3, size=3)
    env.reset(0)
    first = env.state
    distribution_asserts.assert_uniform(first.agent, 9)
    distribution_asserts.assert_uniform(first.target, 3)
    distribution_asserts.assert_uniform(first.cells[:, 0] * 9 + first.agent, 81)
    act(env, RIGHT)
    changed = env.state.cells != first.cells
    moved = changed.any(1)
    distribution_asserts.assert_frequencies(moved.long(), [0.75, 0.25])
    colour = changed[moved].long().argmax(1)
    assert (colour != first.target[moved]).all()
    distribution_asserts.assert_uniform((colour - first.target[moved] - 1) % 3, 2)
    # Free cells are equally likely, also for each place of the free cell among all of them.
    cell = env.state.cells[moved].gather(1, colour[:, None])[:, 0]
    rank = cell - (first.cells[moved] < cell[:, None]).sum(1)
    distribution_asserts.assert_uniform(rank, 6)
    # Teleports do not depend on moves, as long as no cube is taken.
    one, other = make(50, teleport=0.5), make(50, teleport=0.5)
    one.reset(1)
    other.reset(1)
    for t in range(20):
        act(one, t % 4)
        act(other, LEFT)
        assert torch.equal(one.state.cells, other.state.cells)


def test_random_play() -> None:
    env = make(4000)
    env.reset(0)
    total = torch.zeros(4000)
    generator = torch.Generator().manual_seed(0)
    for _ in range(env.length):
        total += act(env, torch.randint(5, (4000,), generator=generator)).reward
    assert 0.04 < float(total.mean()) < 0.06


def test_descriptions() -> None:
    env = make(size=2, cubes=2, teleport=1.0, hide_colors=True)
    obs = env.reset(0)
    cells, target = env.state.cells[0].tolist(), int(env.state.target)
    places = [f"({cell % 2},{cell // 2})" for cell in [int(env.state.agent), *cells]]
    shown = f"red {places[1]}, green {places[2]}"
    assert env.describe_obs(obs, 0) == f"{places[0]} fetch {('red', 'green')[target]}, {shown}"
    assert env.reveal(0) == f"red {places[1]} green {places[2]}"
    step = act(env, RIGHT)
    now = env.state.cells[0, 1 - target].item()
    moved = f"{places[2 - target]} → ({now % 2},{now // 2})"
    assert env.describe_obs(step.obs, 0).endswith(f", {moved}")
    assert env.describe_action({"action": torch.tensor([TAKE])}, 0) == "take"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "size must be an integer of at least 2, not 1"),
        ({"size": 2, "cubes": 4}, r"cubes=4 leave no free cell of size \* size = 4"),
        ({"targets": 0}, "targets must be an integer of at least 1, not 0"),
        ({"teleport": 1.5}, "teleport must be between 0 and 1, not 1.5"),
        ({"penalty": 1.0}, "penalty must be at most 0, not 1.0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**options)
