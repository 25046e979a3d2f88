"""`StateEnv`: episodes do not depend on how initial states are drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem import envs
from rlmem.envs.base import Transition
from rlmem.envs.tensor_env import StateEnv

NAMES = ["popgym-battleship", "popgym-minesweeper", "popgym-noisy-position-only-cartpole"]
STEPS = 300


def make(name: str, num_envs: int) -> Any:
    return envs.make(name, num_envs=num_envs, previous_action=False)


def actions(env: Any, rows: int) -> list[Tensor]:
    """Random actions; those of environment i do not depend on the other ones."""
    space = env.action_space["action"]
    high = torch.as_tensor(getattr(space, "nvec", getattr(space, "n", None)))
    numbers = torch.rand(STEPS, rows, *high.shape, generator=torch.Generator().manual_seed(0))
    return list((numbers * high).long())


def play(env: Any, seed: Any, chosen: list[Tensor]) -> list[Transition]:
    env.reset(seed)
    return [env.step({"action": action}) for action in chosen]


def assert_same(a: list[Transition], b: list[Transition]) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one._asdict(), other._asdict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_episodes_do_not_depend_on_reading_results(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make(name, 16)
    chosen = actions(env, 16)
    asking = play(env, 3, chosen)
    assert sum(int((step.terminated | step.truncated).sum()) for step in asking) > 48
    monkeypatch.setattr(StateEnv, "_may_ask", False)
    assert_same(play(env, 3, chosen), asking)


@pytest.mark.by_day(2)
@pytest.mark.parametrize("may_ask", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_episodes_do_not_depend_on_the_number_of_spares(
    name: str, may_ask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StateEnv, "_may_ask", may_ask)
    env = make(name, 5)
    chosen = actions(env, 5)
    expected = play(env, 3, chosen)
    for spares in (1, 3):
        env.spares = spares
        assert_same(play(env, 3, chosen), expected)


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_does_not_depend_on_the_batch(name: str) -> None:
    together = make(name, 6)
    chosen = actions(together, 6)
    expected = play(together, 10, chosen)
    for rows in (slice(0, 1), slice(2, 6)):
        some = make(name, rows.stop - rows.start)
        played = play(some, [*range(10, 16)][rows], [action[rows] for action in chosen])
        for step, whole in zip(played, expected, strict=True):
            assert torch.equal(step.reward, whole.reward[rows])
            assert torch.equal(step.obs["obs"], whole.obs["obs"][rows])
            assert torch.equal(step.final_obs["obs"], whole.final_obs["obs"][rows])


@pytest.mark.parametrize("name", NAMES)
def test_returned_tensors_are_never_written_to(name: str) -> None:
    env = make(name, 8)
    kept = [env.reset(0)["obs"]]
    copies = [kept[0].clone()]
    for action in actions(env, 8):
        step = env.step({"action": action})
        leaves = [step.obs["obs"], step.final_obs["obs"], *step[1:4]]
        kept += leaves
        copies += [leaf.clone() for leaf in leaves]
    assert all(torch.equal(one, copy) for one, copy in zip(kept, copies, strict=True))
