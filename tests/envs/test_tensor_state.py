"""Environments saved in the middle of their episodes go on as if nothing had happened."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from rlmem import envs
from rlmem.envs.base import CannotContinue, Tensors, Transition, find_wrapped
from rlmem.envs.tensor_env import StateEnv, TensorEnv
from rlmem.errors import UsageError
from rlmem.runs.checkpoint import _check_loadable

STEPS = 200
ALL = envs.names()


def made(name: str, **options: Any) -> Any:
    try:
        env = envs.make(name, num_envs=3, **options)
    except UsageError as error:
        pytest.skip(str(error))  # its package is not installed
    if find_wrapped(env, TensorEnv) is None:
        env.close()
        pytest.skip("not on tensors")
    return env


def saved(state: Any) -> Any:
    """The state, through a file of a checkpoint."""
    _check_loadable(state, "state")
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def random_actions(env: Any, steps: int, seed: int) -> list[Tensors]:
    generator = torch.Generator().manual_seed(seed)
    return [_action(env, generator) for _ in range(steps)]


def _action(env: Any, generator: torch.Generator) -> Tensors:
    found = {}
    for key, space in env.action_space.items():
        space.seed(int(torch.randint(2**31, (), generator=generator)))
        rows = [torch.as_tensor(space.sample()) for _ in range(env.num_envs)]
        found[key] = torch.stack(rows)
    return found


def assert_same(a: Transition, b: Transition) -> None:
    for one, other in zip(a, b, strict=True):
        leaves = one.keys() if isinstance(one, dict) else [None]
        for key in leaves:
            x, y = (one, other) if key is None else (one[key], other[key])
            assert torch.equal(x, y) or torch.equal(x.isnan(), y.isnan()), key
            assert x.dtype == y.dtype


def goes_on(name: str, **options: Any) -> None:
    """Saved and loaded twice, the environment continues as the one that is left alone."""
    env = made(name, **options)
    env.reset(7)
    for before, after in ((1, 9), (36, STEPS)):  # the second state is of a restored environment
        for action in random_actions(env, before, before):
            env.step(action)
        other = made(name, **options)
        other.reset(123)
        other.load_state_dict(saved(env.state_dict()))
        for action in random_actions(env, after, 2):
            assert_same(env.step(action), other.step(action))
        # The streams of random numbers continue, too.
        again = other.reset()
        assert all(torch.equal(leaf, again[key]) for key, leaf in env.reset().items())
        env = other


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", ALL)
def test_every_environment_goes_on(name: str) -> None:
    goes_on(name)


@pytest.mark.parametrize(
    "name", ["popgym-battleship", "popgym-noisy-position-only-cartpole", "meta-dark-room"]
)
def test_environments_that_do_not_read_results_go_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateEnv, "_may_ask", False)
    goes_on(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("meta-dark-room", {"episodes": 3}),
        ("meta-frozen-lake", {"episodes": 2, "stop_returns": True}),
        ("popgym-minesweeper", {"action_mask": True, "check_obs": True}),
        ("popgym-repeat", {"privileged": True, "previous_action": True}),
    ],
)
def test_wrapped_environments_go_on(name: str, options: dict[str, Any]) -> None:
    goes_on(name, **options)


def test_states_of_other_environments_are_refused() -> None:
    env = made("memory-chain", length=4)
    assert env.state_dict() is None
    env.reset(0)
    state = saved(env.state_dict())
    with pytest.raises(CannotContinue, match="num_envs was 3"):
        envs.make("memory-chain", num_envs=2, length=4).load_state_dict(state)
    with pytest.raises(CannotContinue, match="options of the environment were others"):
        made("memory-chain", length=4, size=2).load_state_dict(state)
    with pytest.raises(CannotContinue, match="is another one"):
        made("popgym-repeat", previous_action=False).load_state_dict(state)
