"""A short form of scripts/corrupt.py: damaged files, killed trainings, hostile folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import corrupt


@pytest.mark.slow
def test_no_corruption_is_silent(tmp_path: Path) -> None:
    found = [result for *_, result in corrupt.corruptions(tmp_path, 12, seed=3)]
    assert len(found) == 12
    assert not {"silent", "traceback"} & set(found)


@pytest.mark.slow
def test_a_training_killed_at_an_operation_on_files_can_be_used(tmp_path: Path) -> None:
    corrupt.make_run(tmp_path)  # imports everything before the forks
    corrupt.shutil.rmtree(tmp_path / "a")
    found = corrupt.crash_points(tmp_path, every=29)
    assert found["resumed"] > 2
    assert not found["unusable"]


@pytest.mark.slow
def test_hostile_folders_run_no_code(tmp_path: Path) -> None:
    for name, result, peak in corrupt.hostile(tmp_path):
        assert set(result.split()) <= {"ran", "refused"}, name
        assert peak < 1024, name
