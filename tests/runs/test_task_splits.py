"""`tasks.json`: the task splits of a run, checked before an evaluation on held-out tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlmem import envs
from rlmem.envs.meta.splits import splits_of
from rlmem.errors import UsageError
from rlmem.runs import task_splits


def bandit(**options: object) -> envs.VecEnv:
    return envs.make("meta-bandit", num_envs=1, **options)


def test_the_same_definition_is_accepted(tmp_path: Path):
    task_splits.write(tmp_path, bandit())
    task_splits.write(tmp_path, bandit())
    # The tasks depend neither on the chosen split nor on the length of a trial.
    found = task_splits.check(tmp_path, bandit(split="heldout", episodes=7))
    assert found.fingerprint() == splits_of(bandit()).fingerprint()
    content = json.loads((tmp_path / task_splits.FILE).read_text())
    assert content["fingerprint"] == found.fingerprint()


def test_another_definition_is_reported(tmp_path: Path):
    task_splits.write(tmp_path, bandit())
    before = (tmp_path / task_splits.FILE).read_text()
    for step in (task_splits.write, task_splits.check):
        with pytest.raises(UsageError, match=r"heldout-arms.*\[\W*'?values'?, 3, 5\].*4"):
            step(tmp_path, bandit(heldout_arms=[3, 4]))
    assert (tmp_path / task_splits.FILE).read_text() == before


def test_an_environment_without_tasks_writes_no_file(tmp_path: Path):
    plain = envs.make("popgym-repeat", num_envs=1)
    task_splits.write(tmp_path, plain)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="has no task splits"):
        task_splits.check(tmp_path, plain)


def test_missing_and_damaged_files_are_reported(tmp_path: Path):
    with pytest.raises(UsageError, match="is missing"):
        task_splits.check(tmp_path, bandit())
    (tmp_path / task_splits.FILE).write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        task_splits.check(tmp_path, bandit())
