"""Real runs from the command line: train, evaluate, interrupt, go on, go wrong."""

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

from rlmem import checkpoint
from rlmem.cli import main
from tests.cli.common import SMALL, python


def test_interrupted_before_anything_was_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(cfg: DictConfig) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlmem.train.run", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr() == ("", "interrupted before anything was saved\n")


def test_interrupted_with_something_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(cfg: DictConfig) -> float:
        Path(cfg.run_dir).mkdir(parents=True)
        checkpoint.save(cfg.run_dir, 77, nn.Linear(1, 1), {})
        raise KeyboardInterrupt

    monkeypatch.setattr("rlmem.train.run", interrupt)
    assert main(["train", "run_dir=a"]) == 130
    expected = "saved a/checkpoints/step-000000077; resume with: rlmem train resume=a\n"
    assert capsys.readouterr() == ("", expected)


def test_train_eval_and_resume_for_real(
    capsys: pytest.CaptureFixture[str], refusal: Callable[..., str]
) -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"greedy return -?\d\.\d+ over 2 episodes after 256 steps .*: a\n", out)
    assert err == ""
    assert main(["eval", "run=a", "episodes=3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(Path("a/eval.json").read_text())
    assert printed["return_mean"] == pytest.approx(sum(written["returns"]) / 3)
    assert (printed["step"], printed["episodes"]) == (256, 3)
    assert main(["train", "resume=a", "total_steps=384"]) == 0
    assert checkpoint.steps("a")[-1] == 384
    assert "no checkpoint '999'" in refusal("eval", "run=a", "checkpoint=999")
    wider = refusal("train", "resume=a", "hidden_size=16", "total_steps=512")
    assert re.search(r"does not fit this model: its '\S+' is \[.*8.*\], .* is \[.*16.*\]", wider)
    (checkpoint.find("a") / "model.safetensors").write_bytes(b"")
    assert "cannot read the checkpoint a/checkpoints/" in refusal("eval", "run=a")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    capsys: pytest.CaptureFixture[str], refusal: Callable[..., str]
) -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    capsys.readouterr()
    line = refusal("train", "resume=a", "total_steps=1024", "algo.learning_rate=1e30")
    assert re.search(
        r"stopped at step \d+: .*(nan|inf).* checkpoint is a/checkpoints/step-\d+", line
    )
    assert main(["eval", "run=a", "episodes=1"]) == 0


def test_ctrl_c_saves_and_resume_goes_on(tmp_path: Path) -> None:
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
