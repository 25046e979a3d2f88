"""What a run was trained on is written down, and nothing else is evaluated as held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlmem import envs, tasks
from rlmem.envs.meta.splits import splits_of
from rlmem.errors import UsageError


def bandit(**options: object) -> envs.VecEnv:
    return envs.make("meta-bandit", num_envs=1, **options)


def test_the_same_definition_is_accepted(tmp_path: Path):
    tasks.write(tmp_path, bandit())
    tasks.write(tmp_path, bandit())
    # Neither the split that is played nor the length of a trial says which tasks there are.
    found = tasks.check(tmp_path, bandit(split="heldout", episodes=7))
    assert found.fingerprint() == splits_of(bandit()).fingerprint()
    said = json.loads((tmp_path / tasks.FILE).read_text())
    assert said["fingerprint"] == found.fingerprint()


def test_another_definition_is_refused_and_named(tmp_path: Path):
    tasks.write(tmp_path, bandit())
    before = (tmp_path / tasks.FILE).read_text()
    for step in (tasks.write, tasks.check):
        with pytest.raises(UsageError, match=r"heldout-arms.*\[\W*'?values'?, 3, 5\].*4"):
            step(tmp_path, bandit(heldout_arms=[3, 4]))
    assert (tmp_path / tasks.FILE).read_text() == before


def test_an_environment_without_tasks_leaves_nothing(tmp_path: Path):
    plain = envs.make("popgym-repeat", num_envs=1)
    tasks.write(tmp_path, plain)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="draws no tasks"):
        tasks.check(tmp_path, plain)


def test_a_missing_and_a_damaged_file_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is missing"):
        tasks.check(tmp_path, bandit())
    (tmp_path / tasks.FILE).write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        tasks.check(tmp_path, bandit())
