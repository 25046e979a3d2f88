"""Environments shared out over another number of ranks go on in the same episodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlmem import envs
from rlmem.envs.base import CannotContinue, Tensors, reshard, state_of
from rlmem.envs.tensor_env import StateEnv
from rlmem.errors import UsageError
from tests.envs.test_tensor_state import assert_same, random_actions, saved

STEPS = 15
# Slow ones of the package of POPGym would only repeat the law of Gymnasium's environments.
ALL = [name for name in envs.names() if name not in ("meta-metaworld", "meta-dmc-projection")]


def made(name: str, count: int, **options: Any) -> Any:
    try:
        return envs.make(name, num_envs=count, **options)
    except UsageError as error:
        pytest.skip(str(error))  # its package is not installed


def part(action: Tensors, first: int, count: int) -> Tensors:
    return {key: leaf[first : first + count] for key, leaf in action.items()}


def shared_out(name: str, states: list[Any], counts: list[int], **options: Any) -> list[Any]:
    """New environments, `counts[i]` in the i-th batch, that go on with those of `states`."""
    found, first = [], 0
    for count in counts:
        env = made(name, count, **options)
        env.reset(123)
        env.load_state_dict(reshard(env, [saved(state) for state in states], first))
        found.append(env)
        first += count
    return found


def law(name: str, **options: Any) -> None:
    """One batch of 6, shared out over three ranks, then over two, goes on as one left alone."""
    whole = made(name, 6, **options)
    whole.reset(7)
    for action in random_actions(whole, 17, 1):
        whole.step(action)
    ranks = [whole]
    for counts in ([2, 2, 2], [3, 3], [6]):
        ranks = shared_out(name, [state_of(each) for each in ranks], counts, **options)
        for action in random_actions(whole, STEPS, 2):
            step, first = whole.step(action), 0
            for env, count in zip(ranks, counts, strict=True):
                own = env.step(part(action, first, count))
                rows = slice(first, first + count)
                assert_same(own, step._replace(
                    **{key: part(leaf, first, count) if isinstance(leaf, dict) else leaf[rows]
                       for key, leaf in step._asdict().items()}
                ))  # fmt: skip
                first += count
    # The streams of random numbers continue, too.
    again = ranks[0].reset()
    assert all(torch.equal(leaf, again[key]) for key, leaf in whole.reset().items())


@pytest.mark.by_day(3)
@pytest.mark.parametrize("name", ALL)
def test_every_environment(name: str) -> None:
    law(name)


@pytest.mark.parametrize("name", ["popgym-battleship", "popgym-noisy-position-only-cartpole"])
def test_environments_that_do_not_read_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateEnv, "_may_ask", False)
    law(name)


@pytest.mark.parametrize("id", ["CartPole-v1", "FrozenLake-v1"])
def test_gymnasium(id: str) -> None:
    law("gym", id=id, previous_action=True)


def test_other_environments_are_refused() -> None:
    ranks = [made("memory-chain", 2, length=4) for _ in range(2)]
    states = []
    for number, env in enumerate(ranks):
        env.reset(0)
        for action in random_actions(env, number, 0):
            env.step(action)
        states.append(state_of(env))
    whole = made("memory-chain", 4, length=4)
    whole.reset(0)
    with pytest.raises(CannotContinue, match="stopped at different places"):
        reshard(whole, states, 0)
    with pytest.raises(CannotContinue, match="cannot be shared out anew"):
        reshard(object(), states, 0)  # type: ignore[arg-type]
