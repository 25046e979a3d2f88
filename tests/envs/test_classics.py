"""The memory classics: returns of random, memoryless and perfect play, seeds, spaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlmem import envs
from rlmem.envs.tensor_env import ScriptedEnv
from rlmem.errors import UsageError
from tests.envs.strategies import at_random, perfect, play

TASKS: list[tuple[str, dict[str, Any]]] = [
    ("tmaze-passive", {}),
    ("tmaze-passive", {"corridor_length": 1}),
    ("tmaze-passive", {"corridor_length": 1000}),
    ("tmaze-passive", {"corridor_length": 4, "add_timestep": True}),
    ("tmaze-active", {}),
    ("tmaze-active", {"corridor_length": 1, "ambiguous_position": False}),
    ("tmaze-active", {"corridor_length": 1000}),
    ("tmaze-active", {"corridor_length": 3, "oracle_length": 5, "add_timestep": True}),
    ("memory-chain", {}),
    ("memory-chain", {"length": 1}),
    ("memory-chain", {"length": 2, "size": 17}),
    ("memory-chain", {"length": 300, "size": 3}),
    ("copy", {}),
    ("copy", {"length": 1, "symbols": 2, "delay": 0}),
    ("copy", {"length": 3, "symbols": 4, "delay": 500}),
    ("mqar", {}),
    ("mqar", {"pairs": 5, "queries": 2, "keys": 5, "values": 3, "delay": 4}),
    ("mqar", {"pairs": 1, "queries": 1, "keys": 1}),
    ("joint-recall", {}),
    ("joint-recall", {"contexts": 1, "keys": 3, "queries": 1, "values": 2}),
    ("joint-recall", {"contexts": 3, "keys": 2, "queries": 6, "delay": 4}),
]
each_task = pytest.mark.parametrize(("name", "options"), TASKS, ids=str)


@each_task
def test_perfect_memory_gets_the_optimum(name: str, options: dict[str, Any]) -> None:
    env = envs.make(name, num_envs=6, **options)
    total = play(env, perfect(name, env))
    torch.testing.assert_close(total, torch.ones(6), atol=1e-5, rtol=0)


def _expected_walk(corridor: int, oracle: int) -> float:
    """The mean return of a random walk in a T-maze, by its transition probabilities."""
    end, length = corridor + oracle, corridor + 2 * oracle + 1
    cells = {(oracle, 0): 1.0}
    mean = 0.0
    for t in range(1, length + 1):
        after: dict[tuple[int, int], float] = {}
        for (x, y), chance in cells.items():
            for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
                new = (x + dx, y + dy)
                free = new in ((end, 1), (end, -1)) or (new[1] == 0 and 0 <= new[0] <= end)
                new = new if free else (x, y)
                after[new] = after.get(new, 0.0) + chance / 4
        cells = after
        if t < length:
            mean -= sum(c for (x, _), c in cells.items() if x < t - oracle) / corridor
    return mean + sum(c for (_, y), c in cells.items() if y) / 2


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("tmaze-passive", {}, _expected_walk(10, 0)),
        ("tmaze-passive", {"corridor_length": 1}, _expected_walk(1, 0)),
        ("tmaze-active", {}, _expected_walk(10, 1)),
        ("tmaze-active", {"corridor_length": 2, "oracle_length": 3}, _expected_walk(2, 3)),
        ("memory-chain", {"length": 3, "size": 2}, 0.0),
        ("copy", {}, 2 / 8 - 1),
        ("mqar", {"values": 5}, 2 / 5 - 1),
        ("joint-recall", {"values": 3}, 2 / 3 - 1),
    ],
    ids=str,
)
def test_random_play_gets_its_expected_return(
    name: str, options: dict[str, Any], expected: float
) -> None:
    env = envs.make(name, num_envs=8192, **options)
    total = play(env, at_random(env.action_space["action"].n))
    assert abs(total.mean() - expected) < 4 * total.std() / 8192**0.5


@pytest.mark.parametrize(
    ("name", "options", "bound"),
    [
        ("memory-chain", {"length": 4, "size": 3}, 0.0),
        ("copy", {"length": 4, "symbols": 4, "delay": 1}, 2 / 4 - 1),
        ("mqar", {"pairs": 4, "queries": 3, "keys": 5, "values": 3}, 2 / 3 - 1),
        ("joint-recall", {"contexts": 2, "keys": 3, "values": 4, "queries": 4}, 2 / 4 - 1),
    ],
    ids=str,
)
def test_memoryless_play_gets_its_bound(name: str, options: dict[str, Any], bound: float) -> None:
    # Learns the best answer to each observation and time on half of the environments.
    half = 8192
    env = envs.make(name, num_envs=2 * half, **options)
    obs = env.reset(3)
    gain = torch.zeros(half)
    for _ in range(env.length):
        views = torch.stack([leaf.reshape(2 * half, -1).sum(1) for leaf in obs.values()], 1)
        _, code = views.unique(dim=0, return_inverse=True)
        votes = torch.stack([_rewards(env, a) for a in range(env.action_space["action"].n)], 1)
        learned = torch.zeros(int(code.max()) + 1, votes.shape[1])
        learned.index_add_(0, code[:half], votes[:half])
        choice = learned.argmax(1)[code]
        gain += votes.gather(1, choice[:, None])[half:, 0]
        obs = env.step({"action": choice}).obs
    assert abs(gain.mean() - bound) < 4 * gain.std() / half**0.5


def _rewards(env: Any, action: int) -> Tensor:
    """The reward of an action in the present state of every environment."""
    actions = torch.full((env.num_envs,), action)
    if isinstance(env, ScriptedEnv):
        return env.score(env.state, env.t, actions)
    if env.t < env.length - 1:
        return torch.zeros(env.num_envs)
    return env.transition(env.state, env.t, {"action": actions})[1]


@each_task
def test_episodes_depend_on_the_seed_only(name: str, options: dict[str, Any]) -> None:
    def stream(seeds: list[int]) -> list[Tensor]:
        env = envs.make(name, num_envs=len(seeds), **options)
        leaves = list(env.reset(seeds).values())
        limit = env.action_space["action"].n
        for t in range(min(env.length + 3, 40)):
            action = (torch.tensor(seeds) * 7 + t) % limit
            step = env.step({"action": action})
            leaves += [step.reward, *step.obs.values(), *step.final_obs.values()]
        return leaves

    seeds = [3, 11, 4, 2, 99, 4]
    together = stream(seeds)
    apart = [stream(seeds[:1]), stream(seeds[1:])]
    for leaf, first, rest in zip(together, *apart, strict=True):
        assert torch.equal(leaf, torch.cat([first, rest]))
        assert torch.equal(leaf[2], leaf[5])
    others = stream([5, 8, 13, 1, 98, 21])
    assert any(not torch.equal(a, b) for a, b in zip(together, others, strict=True))


class Waits(TorchDispatchMode):
    """Counts the operators that make the host wait for a result."""

    OPERATORS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.OPERATORS
        return func(*args, **(kwargs or {}))


@each_task
def test_no_step_waits_for_the_device(name: str, options: dict[str, Any]) -> None:
    env = envs.make(name, num_envs=3, **options)
    env.reset(0)
    action = {"action": torch.zeros(3, dtype=torch.int64)}
    with Waits() as waits:
        # Beyond the end of an episode, unless it is long.
        for _ in range(min(env.length + 2, 60)):
            env.step(action)
    assert waits.count == 0
    with Waits() as waits:
        bool(torch.ones(3).any())
    assert waits.count == 1


@each_task
def test_observations_are_in_the_space(name: str, options: dict[str, Any]) -> None:
    env = envs.make(name, num_envs=5, **options)
    obs = env.reset(0)
    strategy = at_random(env.action_space["action"].n)
    for _ in range(min(env.length, 60)):
        step = env.step({"action": strategy([obs])})
        for key, space in env.observation_space.items():
            for leaf in (obs[key], step.final_obs[key]):
                rows = leaf.numpy()
                assert rows.dtype == space.dtype
                assert all(space.contains(row) for row in rows)
        obs = step.obs
        text = [env.describe_obs(obs, row) for row in range(5)]
        assert all(text)
        assert all("\n" not in line for line in text)


@pytest.mark.parametrize("name", sorted({name for name, _ in TASKS}))
def test_invalid_actions_are_refused(name: str) -> None:
    env = envs.make(name, num_envs=2, check_actions=True)
    env.reset(0)
    limit = env.action_space["action"].n
    for wrong in (torch.tensor([0, limit]), torch.tensor([0.0, 1.0]), torch.tensor([0])):
        with pytest.raises(ValueError, match=rf"'action' is not in Discrete\({limit}\)"):
            env.step({"action": wrong})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tmaze-passive", {"corridor_length": 0}, "corridor_length must be an integer of at least"),
        ("tmaze-active", {"oracle_length": 0}, "oracle_length must be an integer of at least 1"),
        ("tmaze-passive", {"penalty": 0.5}, "penalty must be at most 0, not 0.5"),
        ("tmaze-active", {"expose_goal": True}, "expose_goal needs ambiguous_position=false"),
        ("memory-chain", {"length": 0}, "length must be an integer of at least 1, not 0"),
        ("memory-chain", {"size": -1}, "size must be an integer of at least 1, not -1"),
        ("copy", {"symbols": 1}, "symbols must be an integer of at least 2, not 1"),
        ("copy", {"delay": -1}, "delay must be between 0 and 1000000, not -1"),
        ("mqar", {"pairs": 20}, "pairs=20 need as many different keys, but keys=16"),
        ("mqar", {"queries": 9}, "queries=9 are more than pairs=8"),
        ("joint-recall", {"queries": 17}, "queries=17 are more than contexts * keys = 16"),
    ],
)
def test_invalid_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("*", r"\*")):
        envs.make(name, num_envs=2, **options)
