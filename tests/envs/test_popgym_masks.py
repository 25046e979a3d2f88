"""Legal actions of Battleship, MineSweeper and Concentration: by hand, and with the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem import envs
from rlmem.envs.popgym.concentration import Table
from rlmem.envs.popgym.task import DIFFICULTIES
from rlmem.errors import UsageError
from rlmem.spaces.action_mask import ActionMask
from tests.envs import popgym_state_boards, popgym_state_cards
from tests.envs.popgym_parity import original

ATTACH = {**popgym_state_cards.ATTACH, **popgym_state_boards.ATTACH}
TASKS = ("popgym-battleship", "popgym-minesweeper", "popgym-concentration")
MASK = "obs.action_mask"


def make(name: str, num_envs: int = 1, **options: Any) -> Any:
    return envs.make(name, num_envs=num_envs, action_mask=True, **options)


def tensor_env(name: str, **options: Any) -> Any:
    return make(name, previous_action=False, **options)


def illegal(obs: dict[str, Tensor]) -> list[list[int]]:
    """The places of the first environment that are not legal."""
    return (obs[MASK][0] == 0).nonzero().tolist()


def test_squares_of_battleship_are_legal_until_they_are_shot_at():
    env = tensor_env("popgym-battleship")
    assert illegal(env.reset(0)) == []
    env.state.board.zero_()
    env.state.board[0, 3] = 1
    for shot, expected in (([0, 3], [[0, 3]]), ([1, 0], [[0, 3], [1, 0]])):
        assert illegal(env.step({"action": torch.tensor([shot])}).obs) == expected
    # A second shot changes nothing.
    assert illegal(env.step({"action": torch.tensor([[0, 3]])}).obs) == [[0, 3], [1, 0]]


def test_squares_of_minesweeper_are_legal_until_they_are_opened_and_mines_stay_legal():
    env = tensor_env("popgym-minesweeper")
    env.reset(0)
    env.state = env.lay(torch.tensor([[0], [5]], dtype=torch.int32))
    assert illegal(env.observe(env.state)) == []
    assert illegal(env.step({"action": torch.tensor([[1, 0]])}).obs) == [[1, 0]]
    step = env.step({"action": torch.tensor([[3, 3]])})
    assert illegal(step.obs) == [[1, 0], [3, 3]]
    # The mine ends the episode; all squares of the next one are legal.
    step = env.step({"action": torch.tensor([[1, 1]])})
    assert step.terminated
    assert illegal(step.obs) == []


def test_cards_of_concentration_are_legal_while_they_are_face_down():
    env = tensor_env("popgym-concentration")
    assert illegal(env.reset(0)) == []
    state: Table = env.state
    state.cards[0, :4] = torch.tensor([0, 0, 1, 0], dtype=torch.uint8)

    def turn(place: int) -> list[int]:
        return [place for (place,) in illegal(env.step({"action": torch.tensor([place])}).obs)]

    assert turn(0) == [0]  # it waits for a second card
    assert turn(1) == [0, 1]  # a pair
    assert turn(2) == [0, 1, 2]
    assert turn(3) == [0, 1]  # no pair: both are turned back, though they are still seen
    assert env.state.board[0, :4].tolist() == [0, 0, 1, 0]
    assert turn(2) == [0, 1, 2]
    assert turn(0) == [0, 1]  # a face-up card: the one that waited is turned back too


def package_legal(name: str, env: Any) -> np.ndarray:
    """The legal actions, from the hidden state of the package's environment."""
    if name == "popgym-battleship":
        return env.guesses == 0
    if name == "popgym-minesweeper":
        return env.hidden_grid != 2
    face_down = np.ones(len(env.deck), bool)
    for place in [*env.deck["face_up_idx"], *env.deck["in_play_idx"]]:
        face_down[place] = False
    return face_down


def choose(rng: np.random.Generator, legal: np.ndarray, any_action: bool) -> np.ndarray:
    found = np.argwhere(np.ones_like(legal) if any_action else legal)
    return found[rng.integers(len(found))]


@pytest.mark.parametrize("any_action", [False, True])
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("name", TASKS)
def test_masks_are_those_of_the_package_step_by_step(
    name: str, difficulty: str, any_action: bool
) -> None:
    originals = [original(name, difficulty) for _ in range(4)]
    env = tensor_env(name, num_envs=4, difficulty=difficulty)
    env.shortest = env.spares = 1  # new initial states in every step
    ATTACH[name](env, originals)
    for i, each in enumerate(originals):
        each.reset(seed=i)
    obs, rng, ended = env.reset(0), np.random.default_rng(0), 0
    for _ in range(110):
        legal = np.stack([package_legal(name, each) for each in originals])
        np.testing.assert_array_equal(obs[MASK].numpy(), legal)
        actions = [choose(rng, each, any_action) for each in legal]
        if legal.ndim == 2:
            actions = [action[0] for action in actions]
        for each, action in zip(originals, actions, strict=True):
            _, _, terminated, truncated, _ = each.step(action)
            if terminated or truncated:
                ended += 1
                each.reset()
        obs = env.step({"action": torch.as_tensor(np.stack(actions))}).obs
        assert obs[MASK].flatten(1).any(1).all()
    assert ended > 0 or difficulty != "easy"


@pytest.mark.parametrize("name", TASKS)
def test_the_package_itself_offers_the_same_masks(name: str) -> None:
    env = make(name, num_envs=3, backend="package", previous_action=False)
    ours = tensor_env(name)
    assert env.observation_space == ours.observation_space
    obs, rng = env.reset(0), np.random.default_rng(0)
    for _ in range(60):
        inner = [each.unwrapped for each in env.envs.envs]
        legal = np.stack([package_legal(name, each) for each in inner])
        np.testing.assert_array_equal(obs[MASK].numpy(), legal)
        actions = np.stack([choose(rng, each, False) for each in legal])
        actions = actions[:, 0] if legal.ndim == 2 else actions
        obs = env.step({"action": torch.as_tensor(actions)}).obs
    env.close()


@pytest.mark.parametrize("name", TASKS)
def test_observations_beside_the_mask_are_unchanged(name: str) -> None:
    masked, plain = make(name, num_envs=5), envs.make(name, num_envs=5)
    assert set(masked.observation_space) == {
        *(plain.observation_space.keys() - {"obs"}),
        "obs.observation",
        MASK,
    }
    assert ActionMask.find(masked.observation_space, masked.action_space) is not None
    one, other = masked.reset(3), plain.reset(3)
    space = plain.action_space["action"]
    space.seed(0)
    for _ in range(60):
        assert torch.equal(one["obs.observation"], other["obs"])
        assert torch.equal(one["previous_action"], other["previous_action"])
        action = {"action": torch.as_tensor(np.stack([space.sample() for _ in range(5)]))}
        a, b = masked.step(action), plain.step(action)
        assert torch.equal(a.reward, b.reward)
        assert torch.equal(a.final_obs["obs.observation"], b.final_obs["obs"])
        one, other = a.obs, b.obs


def test_spaces_and_dtypes() -> None:
    env = make("popgym-battleship", num_envs=2, difficulty="hard", check_obs=True)
    assert env.observation_space[MASK] == spaces.Box(0, 1, (12, 12), np.uint8)
    obs = env.reset(0)
    assert obs[MASK].dtype == torch.uint8
    assert env.env.describe_obs(obs, 0) == "miss"


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("check_obs", [False, True])
def test_masks_beside_the_hidden_state(name: str, check_obs: bool) -> None:
    env = make(name, num_envs=2, privileged=True, check_obs=check_obs)
    plain = make(name, num_envs=2)
    assert {key for key in env.observation_space if key not in plain.observation_space}
    obs, other = env.reset(0), plain.reset(0)
    assert all(torch.equal(obs[key], leaf) for key, leaf in other.items())
    inner: Any = env.env
    assert inner._obs_check.mask is not None
    assert inner._obs_check.values == check_obs


def test_other_tasks_have_no_such_option() -> None:
    with pytest.raises(UsageError, match="unknown option of env 'popgym-repeat': 'action_mask'"):
        envs.make("popgym-repeat", num_envs=1, action_mask=True)
