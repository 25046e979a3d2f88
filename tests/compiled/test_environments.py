"""Every environment on tensors gives the same steps when its steps are captured and replayed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from rlmem import envs
from rlmem.compiled import Graphs, obstacle
from rlmem.envs import counter_rng
from rlmem.envs.base import VecEnv, find_wrapped
from rlmem.envs.tensor_env import LockstepEnv, StateEnv
from tests.recorded_graph import RecordedGraph
from tests.test_waits import all_options, middle

STEPS, MOST_STEPS = 50, 230


def steps_of(env: VecEnv) -> int:
    """Enough steps for each kind of step to come three times."""
    inner = find_wrapped(env, LockstepEnv)
    return STEPS if inner is None else min(2 * inner.length + 3, MOST_STEPS)


def trace(env: VecEnv, graphs: Graphs | None) -> tuple[list[Tensor], Any]:
    """All results of some steps with fixed actions, in order, and the state after them."""
    obs = env.reset(3)
    action = {key: middle(space)[: env.num_envs] for key, space in env.action_space.items()}
    rows: list[Tensor] = []
    now, most = torch.zeros(1, dtype=torch.int64), steps_of(env)

    def step() -> None:
        nonlocal now, rows
        made = env.step(action)
        found = [*made.obs.values(), *made.final_obs.values(), *made[1:4], made.memory_reset]
        if not rows:
            rows = [torch.zeros(most, *leaf.shape, dtype=leaf.dtype) for leaf in found]
        for row, leaf in zip(rows, found, strict=True):
            row.index_copy_(0, now, leaf[None])
        now = now + 1

    def put(values: Any) -> None:
        nonlocal now
        now = values[1]

    steps = None if graphs is None else graphs.steps("a step", obstacle(env))
    assert (steps is None) == (graphs is None)
    # In two parts, because a collector makes rows.
    for count in (most // 3, most - most // 3):
        if steps is None:
            for _ in range(count):
                step()
        else:
            steps(step, lambda: (env, now), put, count)
            assert not steps.failed
    return [*obs.values(), *rows], env.state_dict()  # type: ignore[attr-defined]


@pytest.mark.by_day(14)
@pytest.mark.parametrize(
    ("name", "options"), [case for case in all_options() if "action_mask" not in case[1]], ids=str
)
def test_captured_steps_are_the_steps_of_the_environment(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a device: a step reads no value, and few random numbers are made at a time.
    monkeypatch.setattr(StateEnv, "_may_ask", False)
    monkeypatch.setattr(counter_rng, "BLOCK", 12)
    lines: list[str] = []
    graphs = Graphs(torch.device("cpu"), RecordedGraph, lines.append)
    torch.manual_seed(0)
    expected, place = trace(envs.make(name, num_envs=3, **options), None)
    torch.manual_seed(0)
    before = RecordedGraph.replays
    found, same_place = trace(envs.make(name, num_envs=3, **options), graphs)
    assert not lines
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    env = envs.make(name, num_envs=3, **options)
    assert RecordedGraph.replays > before or steps_of(env) == MOST_STEPS  # no kind came twice
    # Random numbers that are made already, and the steps until the next pool, are the same too.
    leaves, structure = tree_flatten(place)
    same, same_structure = tree_flatten(same_place)
    assert same_structure == structure
    for one, other in zip(same, leaves, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def test_obstacles_are_named() -> None:
    assert obstacle(envs.make("popgym-repeat", num_envs=2)) is None
    assert obstacle(envs.make("meta-bandit", num_envs=2)) is None
    checked = envs.make("popgym-repeat", num_envs=2, check_actions=True)
    assert obstacle(checked) == "check_actions reads every action"
    checked = envs.make("meta-bandit", num_envs=2, check_obs=True)
    assert obstacle(checked) == "its observations or masks are checked on the host"
    masked = envs.make("popgym-minesweeper", num_envs=2, action_mask=True)
    assert obstacle(masked) == "its observations or masks are checked on the host"
    env = envs.make("gym", num_envs=2, id="CartPole-v1", vectorization="sync")
    assert (obstacle(env) or "").endswith("runs on the host")
    env.close()
