"""Hidden states of POPGym's tasks and the classics, also at the ends of episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete
from popgym.envs.minesweeper import HiddenSquare
from torch import Tensor

from rlmem import envs
from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.popgym.task import DIFFICULTIES
from rlmem.errors import UsageError
from tests.envs.popgym_parity import Hidden, Parity
from tests.envs.test_popgym_tensor import ATTACH

TASKS = sorted(ATTACH)
CLASSICS = ["tmaze-passive", "tmaze-active", "tmaze-endless", "color-cubes"]


def numbers(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values, np.float32))


def whole(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values, np.int64).flatten())


def cards_and_left(env: Any) -> Tensors:
    cards, left = env.get_state()
    return {"privileged.cards": whole(cards), "privileged.left": numbers(left)}


def first_and_left(env: Any) -> Tensors:
    first, left = env.get_state()
    return {"privileged.first": torch.tensor(int(first)), "privileged.left": numbers(left)}


def deck_and_hand(env: Any) -> Tensors:
    cards, _, hand = env.get_state()
    # The package deals from the end.
    return {"privileged.cards": whole(cards[::-1]), "privileged.hand": numbers(hand)[0]}


def counts(env: Any) -> Tensors:
    return {"privileged": numbers(env.get_state()[:2])}


def single(env: Any) -> Tensors:
    return {"privileged": numbers(env.get_state())}


def sea(env: Any) -> Tensors:
    board, shots, _ = env.get_state()
    return {"privileged": whole(board + 2 * shots)}


def field(env: Any) -> Tensors:
    state = env.get_state()
    assert set(state) <= {HiddenSquare.CLEAR, HiddenSquare.MINE, HiddenSquare.VIEWED}
    return {"privileged": whole(state)}


def table(env: Any) -> Tensors:
    waits = torch.tensor(len(env.deck["in_play"]))
    return {"privileged.cards": whole(env.get_state()[0]), "privileged.waits": waits}


def motion(env: Any) -> Tensors:
    return {"privileged": numbers(env.get_state()[[0, 2, 1, 3]])}


HIDDEN: dict[str, Hidden] = {
    "popgym-repeat": cards_and_left,
    "popgym-repeat-first": first_and_left,
    "popgym-autoencode": deck_and_hand,
    "popgym-count-recall": counts,
    "popgym-higher-lower": single,
    "popgym-bandit": single,
    "popgym-battleship": sea,
    "popgym-minesweeper": field,
    "popgym-concentration": table,
    "popgym-position-only-cartpole": motion,
    "popgym-velocity-only-cartpole": motion,
    "popgym-noisy-position-only-cartpole": motion,
    "popgym-position-only-pendulum": single,
    "popgym-noisy-position-only-pendulum": single,
}


@pytest.mark.by_day(3)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", TASKS)
def test_hidden_states_are_those_of_the_package(name: str, difficulty: str) -> None:
    Parity(name, difficulty, ATTACH[name], hidden=HIDDEN[name], num_envs=3).check_episodes(3)


@pytest.mark.parametrize("name", [*TASKS, *CLASSICS])
def test_hidden_states_are_in_their_space_and_change_nothing(name: str) -> None:
    plain = envs.make(name, num_envs=3)
    env = envs.make(name, num_envs=3, privileged=True, check_obs=True)
    added = env.observation_space.keys() - plain.observation_space.keys()
    assert added
    assert {key.partition(".")[0] for key in added} == {"privileged"}
    expected, seen = plain.reset(3), env.reset(3)
    kept: list[tuple[Tensor, Tensor]] = []
    for _ in range(250):
        assert all(torch.equal(seen[key], leaf) for key, leaf in expected.items())
        for key in added:
            space = env.observation_space[key]
            kept.append((seen[key], seen[key].clone()))
            assert all(space.contains(np.asarray(row, space.dtype)) for row in seen[key].numpy()), (
                key
            )
        action = random_action(plain)
        expected, seen = plain.step(action).obs, env.step(action).obs
    # A rollout holds on to observations.
    assert all(torch.equal(*pair) for pair in kept)


def random_action(env: VecEnv) -> Tensors:
    space = env.action_space["action"]
    if isinstance(space, Box):
        return {"action": torch.rand(env.num_envs, *space.shape) * 2 - 1}
    sizes = torch.tensor(space.nvec if isinstance(space, MultiDiscrete) else space.n)  # type: ignore[attr-defined]
    return {"action": (torch.rand(env.num_envs, *space.shape) * sizes).long()}


def test_the_goal_of_a_t_maze_is_visible() -> None:
    env: Any = envs.make("tmaze-active", num_envs=50, privileged=True, corridor_length=4)
    obs = env.reset(0)
    assert set(obs["privileged"][:, 0].tolist()) == {-1.0, 1.0}
    assert torch.equal(obs["privileged"][:, 0].long(), env.state.goal)
    left, right = torch.full((50,), 2), torch.full((50,), 0)
    step = env.step({"action": left})
    assert (step.obs["privileged"][:, 1] == 0).all()
    assert (step.obs["privileged"][:, 3] == 1).all(), "the goal was shown"
    for _ in range(5):
        step = env.step({"action": right})
    assert (step.obs["privileged"][:, 1] == 1).all()


def test_the_package_offers_no_state() -> None:
    with pytest.raises(UsageError, match="privileged=true needs backend=tensor"):
        envs.make("popgym-repeat", num_envs=1, backend="package", privileged=True)
