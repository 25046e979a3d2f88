"""Fixtures: a temporary working folder for every test, recorded configurations, error lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from rlmem.cli.main import main

USUAL = r"(?:(?:[^\n]+ → |checkpoints: |[^\n]+ goes on at step |[^\n]+ was edited )[^\n]+\n)*"


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """Replaces training; lists the configurations it was called with."""
    configs: list[DictConfig] = []

    def run(cfg: DictConfig, unique: bool = False) -> float:
        configs.append(cfg)
        return 0.5

    monkeypatch.setattr("rlmem.runs.train.run", run)
    return configs


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the program with bad input; returns its only line of output.

    Trainings also describe their inputs, the cost of their checkpoints, and how they resume.
    """

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        err = capsys.readouterr().err
        match = re.fullmatch(rf"{USUAL}rlmem: ([^\n]+)\n", err)
        assert match, err
        return match[1]

    return run
