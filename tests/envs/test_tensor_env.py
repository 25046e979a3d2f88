"""Laws of all environments on tensors: seeds, checks of actions, ends, devices."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from rlmem import envs
from rlmem.envs.base import Tensors, Transition, VecEnv, registry
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.popgym.task import FAMILIES
from rlmem.envs.previous_action import PreviousAction
from rlmem.envs.tensor_env import LockstepEnv, StateEnv, TensorEnv
from tests.envs import distribution_asserts

envs.names()  # fills FAMILIES


def make(name: str, num_envs: int = 1, **options: Any) -> Any:
    if "previous_action" in registry.options(name):
        options = {"previous_action": False} | options
    return envs.make(name, num_envs=num_envs, **CLASSICS.get(name, {}), **options)


CLASSICS: dict[str, dict[str, Any]] = {"tmaze-endless": {"corridor_length": 1}, "color-cubes": {}}
TASKS = [name for name in [*FAMILIES, *CLASSICS] if isinstance(make(name), TensorEnv)]


class Lives(NamedTuple):
    """A countdown from a random number, which is observed at the start only."""

    left: Tensor
    seen: Tensor


class Countdown(StateEnv[Lives]):
    """Episodes of 2 to 9 steps; each action 1 shortens them by one step."""

    shortest = 2
    spares = 3

    def __init__(self, num_envs: int, asks: bool = True) -> None:
        super().__init__(num_envs, Discrete(10), Discrete(2))
        self.asks = asks
        self.drawn = 0

    @property
    def _may_ask(self) -> bool:
        return self.asks

    def initial_state(self, draws: RandomDraws) -> Lives:
        self.drawn += 1
        left = draws.below(7, 1)[0] + 3
        return Lives(left, left.clone())

    def transition(self, state: Lives, action: Tensors) -> tuple[Lives, Tensor, Tensor, Tensor]:
        left = state.left - 1 - (action["action"] * (state.left > 2))
        return Lives(left, torch.zeros_like(left)), left.float(), left <= 0, left < -9

    def observe(self, state: Lives) -> Tensors:
        return {"obs": state.seen.clone()}


def actions(env: VecEnv, rows: int, seed: int) -> Tensor:
    """Random actions, sampled faster than by the space."""
    space: Any = env.action_space["action"]
    rng = np.random.default_rng(seed)
    shape = (rows, *(space.shape or ()))
    if isinstance(space, Box):
        return torch.from_numpy(rng.uniform(space.low, space.high, shape).astype(np.float32))
    limit = space.nvec if isinstance(space, MultiDiscrete) else space.n
    return torch.from_numpy(rng.integers(0, limit, shape))


def episode_length(name: str) -> int:
    return getattr(make(name), "length", 200)


def assert_same_row(many: Transition, i: int, one: Transition) -> None:
    for a, b in zip(many[1:4], one[1:4], strict=True):
        assert torch.equal(a[i : i + 1], b)
    for seen, other in ((many.obs, one.obs), (many.final_obs, one.final_obs)):
        assert seen.keys() == other.keys()
        assert all(torch.equal(seen[key][i : i + 1], other[key]) for key in seen)


def assert_rows_play_alone(many: Any, alone: list[Any], seed: int, steps: int) -> None:
    """Environment i of `many` equals `alone[i]` with the seed `seed + i`."""
    obs = many.reset(seed)
    for i, one in enumerate(alone):
        first = one.reset(seed + i)
        assert all(torch.equal(obs[key][i : i + 1], first[key]) for key in obs)
    ended = 0
    for t in range(steps):
        action = actions(many, many.num_envs, t)
        step = many.step({"action": action})
        ended += int((step.terminated | step.truncated).sum())
        for i, one in enumerate(alone):
            assert_same_row(step, i, one.step({"action": action[i : i + 1]}))
    assert ended >= 2 * many.num_envs


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", TASKS)
def test_a_seed_does_not_depend_on_the_batch(name: str) -> None:
    many, alone = make(name, 7), [make(name), make(name)]
    steps = 2 * episode_length(name) + 3
    assert_rows_play_alone(many, alone, 40, steps)


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("spares", [1, 2, 3, 5])
def test_episodes_do_not_depend_on_the_number_of_spares(asks: bool, spares: int) -> None:
    many = Countdown(7, asks)
    many.spares = spares
    alone = [Countdown(1) for _ in range(7)]
    assert_rows_play_alone(many, alone, 3, 100)
    assert many.drawn <= 2 + 100 / (2 * spares)


@pytest.mark.parametrize("name", TASKS)
def test_a_reset_without_a_seed_continues_the_streams(name: str) -> None:
    one, other = make(name, 50), make(name, 50)

    def hidden(env: Any) -> Tensor:
        """The results of the first two steps of an episode."""
        steps = [env.step({"action": actions(env, 50, t)}) for t in range(12)]
        return torch.cat([s.obs[k].reshape(50, -1).float() for s in steps for k in s.obs], 1)

    one.reset(3)
    other.reset(3)
    first = hidden(one)
    assert torch.equal(first, hidden(other))
    one.reset()
    other.reset()
    second = hidden(one)
    assert torch.equal(second, hidden(other))
    assert not torch.equal(first, second)
    one.reset(3)
    assert torch.equal(hidden(one), first)
    one.reset([*range(3, 53)])
    assert torch.equal(hidden(one), first)
    # Without any seed the seeds are random.
    fresh, fresher = make(name, 50), make(name, 50)
    fresh.reset()
    fresher.reset()
    assert not torch.equal(hidden(fresh), hidden(fresher))


def test_environments_are_independent_of_their_neighbours() -> None:
    suits = make("popgym-repeat", 20_000).reset(5)["obs"]
    distribution_asserts.assert_uniform(suits[1:] * 4 + suits[:-1], 16)
    lives = Countdown(20_000).reset(5)["obs"] - 3
    distribution_asserts.assert_uniform(lives[1:] * 7 + lives[:-1], 49)


def wrong_actions(right: Tensor) -> list[tuple[Tensors, str]]:
    """Invalid actions that are always refused, and their error messages."""
    other = torch.float32 if right.dtype == torch.int64 else torch.int64
    return [
        ({}, "must have the keys action of .*not none"),
        ({"act": right}, "must have the keys action of .*not act"),
        ({"action": right, "more": right}, "not action, more"),
        ({"action": right[:-1]}, "'action' is not in .*: expected shape"),
        ({"action": right[..., None]}, "'action' is not in .*: expected shape"),
        ({"action": right.to(other)}, "'action' is not in .*: expected dtype"),
        ({"action": right.bool()}, "'action' is not in .*: expected dtype"),
    ]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("check_actions", [True, False])
def test_invalid_actions_name_the_space(name: str, check_actions: bool) -> None:
    env = make(name, 3, check_actions=check_actions)
    right = {"action": actions(env, 3, 0)}
    with pytest.raises(ValueError, match="step before reset"):
        env.step(right)
    env.reset(0)
    for wrong, message in wrong_actions(right["action"]):
        with pytest.raises(ValueError, match=message):
            env.step(wrong)
    env.step(right)


@pytest.mark.parametrize("name", TASKS)
def test_actions_out_of_range_name_the_space_with_check_actions(name: str) -> None:
    env = make(name, 3, check_actions=True)
    env.reset(0)
    space = env.action_space["action"]
    right = actions(env, 3, 0)
    values: list[float]
    if isinstance(space, Box):
        values = [float(space.high.max()) + 1, float("nan"), float("inf")]
    else:
        limit = space.nvec.max() if isinstance(space, MultiDiscrete) else space.n
        values = [int(limit), -1]
    for value in values:
        wrong = right.clone()
        wrong.view(-1)[-1] = value
        with pytest.raises(ValueError, match=r"'action' is not in .*: expected values"):
            env.step({"action": wrong})
    env.step({"action": right})


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("previous", [True, False])
def test_returned_tensors_are_never_written_to(name: str, previous: bool) -> None:
    env: Any = make(name, 5)
    env = PreviousAction(env) if previous else env
    first = env.reset(1)
    given = [*first.values()]
    copies = [leaf.clone() for leaf in given]
    for t in range(200):
        action = actions(env, 5, t)
        step = env.step({"action": action})
        now = [action, *step.obs.values(), *step[1:4], *step.final_obs.values()]
        given += now
        copies += [leaf.clone() for leaf in now]
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_an_ended_environment_is_already_in_its_next_episode(name: str) -> None:
    env = make(name, 20)
    obs = env.reset(2)
    ended = 0
    steps = [env.step({"action": actions(env, 20, t)}) for t in range(episode_length(name) + 2)]
    for before, step in pairwise([None, *steps]):
        assert step is not None
        done = step.terminated | step.truncated
        ended += int(done.sum())
        for key in obs:
            assert torch.equal(step.obs[key][~done], step.final_obs[key][~done])
        assert before is None or before.obs.keys() == step.obs.keys()
    assert ended >= 20


@pytest.mark.parametrize("name", TASKS)
def test_steps_stay_on_the_device_and_never_wait_for_it(name: str) -> None:
    """The meta device refuses tensors of other devices, and waiting for a result would fail."""
    env: Any = PreviousAction(make(name, 3, device="meta"))
    action = {"action": actions(env, 3, 0).to("meta")}
    inner = env.env
    if isinstance(inner, StateEnv):
        inner.shortest = inner.spares = 2
    first = env.reset(0)
    if isinstance(inner, LockstepEnv):
        inner.t = inner.length - 3
    for _ in range(6):
        step = env.step(action)
    leaves = [*first.values(), *step.obs.values(), *step[1:4], *step.final_obs.values()]
    assert {leaf.device.type for leaf in leaves} == {"meta"}
    plain = PreviousAction(make(name, 3))
    shapes = {key: (leaf.shape, leaf.dtype) for key, leaf in plain.reset(0).items()}
    assert {key: (leaf.shape, leaf.dtype) for key, leaf in step.obs.items()} == shapes


@pytest.mark.parametrize("name", TASKS)
def test_descriptions(name: str) -> None:
    env = make(name, 2)
    obs, texts = env.reset(0), set()
    for t in range(60):
        action = {"action": actions(env, 2, t)}
        texts.add((env.describe_obs(obs, 1), env.describe_action(action, 1), env.reveal(1)))
        obs = env.step(action).obs
    assert len(texts) > 5
    assert all(isinstance(text, str) for words in texts for text in words)
