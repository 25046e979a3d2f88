"""Every test runs in a new folder, and may look at what training is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from rlmem.cli import main


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[DictConfig]:
    """The configurations that training was asked for, instead of training."""
    asked: list[DictConfig] = []

    def run(cfg: DictConfig) -> float:
        asked.append(cfg)
        return 0.5

    monkeypatch.setattr("rlmem.train.run", run)
    return asked


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the program with bad input; returns the one line that it says."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert re.fullmatch(r"rlmem: [^\n]+\n", err), err
        return err.removeprefix("rlmem: ").rstrip()

    return run
