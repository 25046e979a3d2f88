"""Complete runs from the command line: train, evaluate, interrupt, resume, fail."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from torch import nn

from rlmem.cli.main import main
from rlmem.runs import checkpoint
from tests.cli.common import SMALL, python


def test_interrupt_before_the_first_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(cfg: DictConfig, unique: bool) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlmem.runs.train.run", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr() == ("", "interrupted before anything was saved\n")


def test_interrupt_after_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(cfg: DictConfig, unique: bool) -> float:
        Path(cfg.run_dir).mkdir(parents=True)
        checkpoint.save(cfg.run_dir, 77, nn.Linear(1, 1), {})
        raise KeyboardInterrupt

    monkeypatch.setattr("rlmem.runs.train.run", interrupt)
    assert main(["train", "run_dir=a"]) == 130
    expected = "saved a/checkpoints/step-000000077; resume with: rlmem train resume=a\n"
    assert capsys.readouterr() == ("", expected)


def test_train_evaluate_and_resume(
    capsys: pytest.CaptureFixture[str], error_line: Callable[..., str]
) -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"greedy return -?\d\.\d+ over 2 episodes after 256 steps .*: a\n", out)
    assert err == "obs: Discrete → one-hot, 4 inputs\n"
    assert main(["eval", "run=a", "episodes=3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(Path("a/eval.json").read_text())
    assert printed["return_mean"] == pytest.approx(sum(written["returns"]) / 3)
    assert (printed["step"], printed["episodes"]) == (256, 3)
    assert main(["train", "resume=a", "total_steps=384"]) == 0
    assert checkpoint.steps("a")[-1] == 384
    assert "no checkpoint '999'" in error_line("eval", "run=a", "checkpoint=999")
    wider = error_line("train", "resume=a", "hidden_size=16", "total_steps=512")
    assert re.search(
        r"does not fit this model: its '\S+' has shape \[.*8.*\], .* has \[.*16.*\]", wider
    )
    (checkpoint.find("a") / "model.safetensors").write_bytes(b"")
    assert "cannot read the checkpoint a/checkpoints/" in error_line("eval", "run=a")


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(
    capsys: pytest.CaptureFixture[str], error_line: Callable[..., str]
) -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    capsys.readouterr()
    line = error_line("train", "resume=a", "total_steps=1024", "algo.learning_rate=1e30")
    assert re.search(
        r"stopped at step \d+: .*(nan|inf).* checkpoint is a/checkpoints/step-\d+", line
    )
    assert main(["eval", "run=a", "episodes=1"]) == 0


def test_ctrl_c_saves_a_checkpoint_that_can_be_resumed(tmp_path: Path) -> None:
    arguments = [*SMALL, "total_steps=100000000", "run_dir=a"]
    with python("-m", "rlmem", "train", *arguments) as process:
        metrics = tmp_path / "a" / "metrics.csv"
        deadline = time.monotonic() + 90
        while not metrics.exists() or metrics.read_text().count("\n") < 3:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    saved = checkpoint.last("a")
    assert saved is not None
    assert err.endswith(f"saved {saved}; resume with: rlmem train resume=a\n")
    steps = checkpoint.steps("a")[-1]
    assert main(["train", "resume=a", f"total_steps={steps + 128}"]) == 0
    assert checkpoint.steps("a")[-1] == steps + 128
