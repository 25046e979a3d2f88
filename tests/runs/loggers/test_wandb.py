"""Weights & Biases without a network: the file has the numbers of the CSV files."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlmem
from tests.runs.loggers.common import OFF, SIZES, Curves, logged
from tests.runs.loggers.wandb_file import Content, read

wandb = pytest.importorskip("wandb")

LOG = {"log": OFF | {"wandb": True, "project": "memory"}, "eval_every": "50%"}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def contents(run: str) -> list[Content]:
    """What each part of a run has written; wandb's own process may need a moment for the end."""
    paths = sorted(Path(run).glob("wandb/offline-run-*/*.wandb"))
    for _ in range(300):
        if all(read(path).exit_code >= 0 for path in paths):
            break
        time.sleep(0.1)
    return [read(path) for path in paths]


def curves(found: list[Content]) -> Curves:
    """Numbers by name and step, without wandb's own."""
    read: Curves = {}
    for content in found:
        for step, row in content.rows.items():
            assert row.get("step", step) == step
            for key, value in row.items():
                if not key.startswith("_") and key != "step":
                    read.setdefault(key, {})[step] = float(value)
    return read


def test_numbers_and_configuration_also_after_resuming(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = rlmem.train("popgym-repeat", run_dir="a", **SIZES | LOG | {"total_steps": 256})
    (first,) = contents("a")
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert f"log.wandb: run {first.id}, offline (wandb sync a/wandb/offline-run-" in err
    assert curves([first]) == logged(Path("a"))
    assert curves([first])["eval/return_mean"][256] == result.return_mean
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    found = {key: value for key, value in first.config.items() if key != "_wandb"}
    hidden = ("run_dir", "resume", "record", "log")
    assert found == {key: value for key, value in config.items() if key not in hidden}
    assert (first.project, first.exit_code) == ("memory", 0)
    assert json.loads(Path("a/loggers.json").read_text()) == {"wandb": first.id}

    rlmem.train(resume="a", total_steps=512)
    parts = contents("a")
    assert [part.id for part in parts] == [first.id, first.id]
    assert sorted(parts[1].rows) == [384, 512]
    assert curves(parts) == logged(Path("a"))
    assert parts[1].config["total_steps"] == 512


class Failing(rlmem.Callback):
    """Fails at the second iteration."""

    def on_iteration(self, training: rlmem.Training, metrics: object) -> None:
        if training.step == 256:
            raise ZeroDivisionError


def test_a_failed_run_is_marked() -> None:
    with pytest.raises(ZeroDivisionError):
        rlmem.train("popgym-repeat", run_dir="a", callbacks=[Failing()], **SIZES | LOG)
    (found,) = contents("a")
    assert (sorted(found.rows), found.exit_code) == ([128, 256], 1)


def test_a_run_without_a_key_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.teardown()  # it keeps the variables of its first call
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    result = rlmem.train("popgym-repeat", run_dir="a", **SIZES | LOG)
    assert result.step == 512
    lines = [each for each in capsys.readouterr().err.splitlines() if "wandb" in each]
    assert len(lines) == 1
    assert lines[0].startswith("log.wandb failed, and is off now: UsageError: No API key")
    wandb.teardown()


def test_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlmem.runs.loggers.base import Run
    from rlmem.runs.loggers.wandb_log import WandbLogger

    training: Any = object.__new__(rlmem.Training)
    logger = WandbLogger(Run(Path(), 0, {"seed": 0, "run_dir": "a"}), "memory")
    training.step, training.row = 10, {"step": 10, "loss": math.nan, "other": -math.inf}
    logger.on_iteration(training, {})
    logger.close(failed=False)
    found = curves(contents("."))
    assert math.isnan(found["loss"][10])
    assert found["other"] == {10: -math.inf}
