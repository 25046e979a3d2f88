"""Laws of all environments that draw tasks: tasks depend on seeds only, splits are disjoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from rlmem import envs, tree
from rlmem.envs.base import Transition, registry
from rlmem.envs.meta.reference import references
from rlmem.envs.meta.splits import TRAIN, Instances, Ranges, Values, splits_of
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.envs.tensor_env import StateEnv
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError


def draws_tasks(name: str) -> bool:
    """Whether it is a `TaskEnv`. Packages (option `vectorization`) have their own tests."""
    options = registry.options(name)
    return name.startswith("meta-") and "split" in options and "vectorization" not in options


NAMES = [name for name in envs.names() if draws_tasks(name)]


def make(name: str, num_envs: int, **options: Any) -> Any:
    """With short trials by default."""
    allowed = registry.options(name)
    short = {"episodes": 2, "length": 4}
    given = {key: value for key, value in short.items() if key in allowed} | options
    env = envs.make(name, num_envs=num_envs, **given)
    assert isinstance(env, Trials)
    assert isinstance(env.env, TaskEnv)
    return env


HELD_OUT = [(n, s) for n in NAMES for s in make(n, 1).env.splits.names() if s != TRAIN]


def actions(env: Any, rows: int, t: int, seed: int = 0) -> dict[str, Tensor]:
    """Random actions; those of environment i do not depend on the other ones."""
    (space,) = env.action_space.values()
    generator = torch.Generator().manual_seed(1000 * seed + t)
    if isinstance(space, Box):
        numbers = torch.rand(rows, *space.shape, generator=generator)
        low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        return {"action": low + (high - low) * numbers}
    return {"action": torch.randint(int(space.n), (rows,), generator=generator)}


def play(env: Any, seed: int, rows: range, steps: int, luck: int = 0) -> Iterator[Transition]:
    """Steps of the environments `rows` of six, with their seeds and actions among the six."""
    env.reset([seed + row for row in rows])
    chosen = [actions(env, 6, t, luck)["action"][rows.start : rows.stop] for t in range(steps)]
    for action in chosen:
        yield env.step({"action": action})


ALL = range(6)


def record(env: Any, seed: int, rows: range, steps: int) -> dict[str, Tensor]:
    """All results of `play`, and the hidden tasks; each [steps, N, ...]."""
    found: dict[str, list[Tensor]] = {}
    for step in play(env, seed, rows, steps):
        leaves = {f"task.{i}": leaf for i, leaf in enumerate(tree.leaves(env.env.task))}
        leaves |= step.obs | {f"final.{key}": leaf for key, leaf in step.final_obs.items()}
        flags = {
            "terminated": step.terminated,
            "truncated": step.truncated,
            "start": step.memory_reset,
        }
        for key, leaf in {**leaves, **flags, "reward": step.reward}.items():
            found.setdefault(key, []).append(leaf.clone())
    return {key: torch.stack(leaves) for key, leaves in found.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Equal up to rounding, which may depend on the batch size."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def rows_of(leaves: Sequence[Tensor]) -> set[bytes]:
    """The rows as bytes."""
    table = torch.cat([leaf.double().reshape(len(leaf), -1) for leaf in leaves], 1).numpy()
    return {row.tobytes() for row in table}


def draw_tasks(name: str, split: str) -> tuple[Tensor, Any]:
    """Ids and tasks of many trials; all splits use the same seeds."""
    env = make(name, 300, split=split)
    env.reset(0)
    found = []
    for _ in range(3):
        found.append((env.env.task_id.clone(), tree.map(Tensor.clone, env.env.task)))
        env.reset()
    return tree.map(lambda *leaves: torch.cat(leaves), found[0], *found[1:])


@pytest.mark.parametrize(("name", "split"), HELD_OUT)
def test_held_out_tasks_are_not_training_tasks(name: str, split: str) -> None:
    splits = make(name, 1).env.splits
    ids, tasks = draw_tasks(name, TRAIN)
    other_ids, others = draw_tasks(name, split)
    # By construction: ids differ in their last bit, and changed domains are disjoint.
    assert (ids % 2 == 0).all()
    assert (other_ids % 2 == 1).all()
    train, heldout = splits[TRAIN], splits[split]
    changed = [key for key in train if train[key] is not heldout[key]]
    assert not any(train[key].overlaps(heldout[key]) for key in changed)
    assert changed or any(isinstance(domain, Instances) for domain in train.values())
    # In the drawn tasks.
    assert not rows_of(list(tree.leaves(tasks))) & rows_of(list(tree.leaves(others)))
    for key in changed:
        if not isinstance(heldout[key], Instances):
            assert not rows_of([getattr(tasks, key)]) & rows_of([getattr(others, key)])
    for domains, drawn in ((train, tasks), (heldout, others)):
        for key, domain in domains.items():
            if isinstance(domain, Values | Ranges):
                assert domain.contains(getattr(drawn, key)).all(), key


@pytest.mark.parametrize("name", NAMES)
def test_there_are_many_tasks(name: str) -> None:
    ids, tasks = draw_tasks(name, TRAIN)
    assert len(ids.unique()) == len(ids) == 900
    assert len(rows_of(list(tree.leaves(tasks)))) > 60


@pytest.mark.parametrize("name", NAMES)
def test_a_task_lasts_for_exactly_one_trial(name: str) -> None:
    env = make(name, 6)
    trials, before = torch.zeros(6, dtype=torch.int64), None
    for step in play(env, 3, ALL, 25):
        ids = env.env.task_id.clone()
        if before is not None:
            assert torch.equal(ids != before, step.memory_reset)
        assert torch.equal(env.env.state.episode, env.episode)
        trials, before = trials + step.memory_reset, ids
    assert trials.min() >= 2


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", NAMES)
def test_tasks_depend_on_seed_and_trial_only(name: str) -> None:
    """Ids do not depend on actions, the number of episodes, or the other environments."""

    def tasks(rows: range, luck: int, **options: Any) -> dict[tuple[int, int], int]:
        env = make(name, len(rows), **options)
        trial = [0] * env.num_envs
        found: dict[tuple[int, int], int] = {}
        for step in play(env, 3, rows, 40, luck):
            trial = [t + s for t, s in zip(trial, step.memory_reset.tolist(), strict=True)]
            ids = zip(rows, trial, env.env.task_id.tolist(), strict=True)
            found |= {(row, number): id for row, number, id in ids}
        return found

    one = tasks(ALL, 0)
    assert len(set(one.values())) == len(one)
    for other in (tasks(ALL, 1), tasks(range(2, 5), 0), tasks(ALL, 0, episodes=3)):
        both = one.keys() & other.keys()
        assert len(both) >= 2 * len({row for row, _ in other})
        assert all(one[key] == other[key] for key in both)


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", NAMES)
def test_an_environment_does_not_depend_on_the_batch(name: str) -> None:
    together = record(make(name, 6), 10, ALL, 25)
    for rows in (range(1), range(2, 6)):
        mine = {key: leaf[:, rows.start : rows.stop] for key, leaf in together.items()}
        assert_same(record(make(name, len(rows)), 10, rows, 25), mine)


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_drawing_ahead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = record(make(name, 6), 3, ALL, 25)
    for may_ask, spares in ((True, 1), (True, 3), (False, 1), (False, 3)):
        monkeypatch.setattr(StateEnv, "_may_ask", may_ask)
        env = make(name, 6)
        env.env.spares = spares
        assert_same(record(env, 3, ALL, 25), expected)


@pytest.mark.parametrize("name", NAMES)
def test_observations_are_in_the_space_and_never_written_to(name: str) -> None:
    env = make(name, 6)
    given = [*env.reset(0).values()]
    copies = [leaf.clone() for leaf in given]
    for step in play(env, 0, ALL, 25):
        for obs in (step.obs, step.final_obs):
            for key, space in env.observation_space.items():
                assert space.contains(obs[key][0].numpy().astype(space.dtype)), key
                assert obs[key].dtype == (torch.float32 if isinstance(space, Box) else torch.int64)
        assert step.reward.dtype == torch.float32
        now = [
            *step.obs.values(),
            *step[1:4],
            *step.final_obs.values(),
            step.memory_reset,
            env.episode,
        ]
        given += now
        copies += [leaf.clone() for leaf in now]
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", NAMES)
def test_steps_stay_on_the_device_and_never_wait_for_it(name: str) -> None:
    """The meta device has no memory, so waiting for a result would fail."""
    env = make(name, 3, device="meta")
    first = env.reset(0)
    for t in range(12):
        step = env.step({"action": actions(env, 3, t)["action"].to("meta")})
    leaves = [*first.values(), *step.obs.values(), *step[1:4], *step.final_obs.values()]
    assert {leaf.device.type for leaf in leaves} == {"meta"}


@pytest.mark.parametrize("name", NAMES)
def test_fingerprints_depend_on_the_definition_only(name: str) -> None:
    splits, same = splits_of(make(name, 1)), splits_of(make(name, 3, split="heldout"))
    assert splits is not None
    assert same is not None
    assert splits.fingerprint() == same.fingerprint()
    assert len(splits.fingerprint()) == 16


def test_different_definitions_have_different_fingerprints() -> None:
    definitions: list[tuple[str, dict[str, Any]]] = [
        *((name, {}) for name in NAMES),
        ("meta-bandit", {"arms": [9]}),
        ("meta-bandit", {"prior": [[1, 2]]}),
        ("meta-bandit", {"heldout_prior": [[2, 2]]}),
        ("meta-gaussian-bandit", {"noise": 0.5}),
        ("meta-tabular-mdp", {"states": 9}),
        ("meta-dark-room", {"split_seed": 1}),
        ("meta-frozen-lake", {"frozen": 0.8}),
        ("meta-wind", {"strength": [[0.0, 0.05]]}),
    ]
    prints = [make(name, 1, **options).env.splits.fingerprint() for name, options in definitions]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_splits_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown split 'hedlout'; did you mean heldout"):
        make(name, 1, split="hedlout")


@pytest.mark.parametrize("name", NAMES)
def test_invalid_actions_name_the_space(name: str) -> None:
    env = make(name, 3, check_actions=True)
    env.reset(0)
    right = actions(env, 3, 0)["action"]
    other = torch.float32 if right.dtype == torch.int64 else torch.int64
    for wrong in ({}, {"action": right[:2]}, {"action": right.to(other)}, {"action": right + 100}):
        with pytest.raises(ValueError, match="action"):
            env.step(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_descriptions(name: str) -> None:
    env = make(name, 2)
    env.reset(0)
    texts = set()
    for t, step in enumerate(play(env, 0, range(2), 25)):
        obs = {key: step.obs[key] for key in env.env.observation_space}
        words = env.env.describe_obs(obs, 1), env.env.describe_action(actions(env, 2, t), 1)
        texts.add((*words, env.env.reveal(1)))
        assert env.env.reveal(1)
    assert len(texts) > 5


@pytest.mark.by_day(2)
@pytest.mark.parametrize("name", NAMES)
def test_references_play_and_the_oracle_is_best(name: str) -> None:
    long = {"length": 30} if "length" in registry.options(name) else {}
    env = make(name, 100, episodes=8, **long)
    players = references(env)
    assert next(iter(players)) == "random"
    torch.manual_seed(0)
    score = {}
    for key, player in players.items():
        obs, state = env.reset(5), player.initial_state(env.num_envs)
        start, total = torch.ones(env.num_envs, dtype=torch.bool), 0.0
        for _ in range(60):
            choice = player.act(obs, state, start)
            step = env.step(choice.action)
            obs, state, start = step.obs, choice.state, step.memory_reset
            total += float(step.reward.mean())
        # If all steps earn the same, better play has started fewer episodes.
        score[key] = total, -int(env.env.state.episode.sum())
    if "oracle" in score:
        assert score["oracle"] == max(score.values()) > score["random"]
