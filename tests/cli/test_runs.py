"""Complete runs from the command line: train, evaluate, resume, runs that cannot learn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from rlmem.cli.main import main
from rlmem.runs import checkpoint, folder
from tests.cli.common import SMALL


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
    assert re.fullmatch(
        r"return -?\d\.\d{3} \(memory score -?\d\.\d\d: 0 = no memory, 1 = optimum\) "
        r"over 2 episodes after 256 steps \(\d+ s, [\d,]+ steps/s\); next: rlmem play run=a\n",
        out,
    )
    assert re.fullmatch(
        r"obs: Discrete → one-hot, 4 inputs\n"
        r"checkpoints: \d+, \d+ ms each \(\d+\.\d % of the time\), the last one 0\.\d MiB\n",
        err,
    )
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
    capsys.readouterr()
    assert main(["eval", "run=a", "episodes=3"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 256
    assert re.search(r"cannot read the checkpoint a/checkpoints/.*; using that of step 256", err)
    (checkpoint.find("a", 256) / "trainer.pt").unlink()
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


def files(folder: str) -> dict[str, bytes]:
    """The content of all files in a folder."""
    return {str(p): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_a_finished_run_is_not_resumed(error_line: Callable[..., str]) -> None:
    assert main(["train", *SMALL, "run_dir=a", "total_steps=300"]) == 0
    before = files("a")
    for options in ([], ["total_steps=300"], ["total_steps=384"], ["algo.gamma=0.5"]):
        line = error_line("train", "resume=a", *options)
        assert line.startswith("a is finished: it has trained 384 steps, and total_steps is 3")
        assert line.endswith("already; give a larger total_steps")
    assert files("a") == before


def test_a_resumed_run_keeps_its_configurations() -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    assert main(["train", "resume=a", "total_steps=512", "algo.gamma=0.5"]) == 0
    assert main(["train", "resume=a", "total_steps=640"]) == 0
    found = {path.name: OmegaConf.load(path) for path in Path("a").glob("*.yaml")}
    settings = {name: (cfg.total_steps, cfg.algo.gamma) for name, cfg in found.items()}
    assert settings == {
        "config-000000256.yaml": (256, 0.99),
        "config-000000512.yaml": (512, 0.5),
        "config.yaml": (640, 0.5),
    }


def test_a_run_that_is_being_trained_is_not_resumed(error_line: Callable[..., str]) -> None:
    assert main(["train", *SMALL, "run_dir=a"]) == 0
    with folder.lock("a"):
        assert "another process trains a" in error_line("train", "resume=a", "total_steps=999")
    assert main(["train", "resume=a", "total_steps=384"]) == 0


REPLAY = ["algo=r2d2", "algo.num_steps=8", "num_envs=4", "hidden_size=8", "eval_episodes=1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("algo=r2d2 total_steps=4000 num_envs=16", "does not learn in its first 10,000 steps"),
        ("algo=sac total_steps=4000", "would never learn: it ends at total_steps=4,000"),
        # A row of 129 entries.
        ("algo=amago total_steps=6000", "algo amago does not learn in its first 8,255 steps"),
        # A row of 21 + 40 entries in each of 64 environments.
        ("algo=r2d2 total_steps=3000 algo.learning_starts=0", "in its first 3,903 steps"),
        ("algo=r2d2 total_steps=20000 algo.replay.capacity=2000", "it must leave at least 122"),
        ("algo=ppo total_steps=8191", "less than one iteration of algo ppo, 8,192 steps"),
        ("algo=pqn total_steps=100", "less than one iteration of algo pqn"),
    ],
)
def test_a_run_that_would_never_learn_does_not_start(
    options: str, message: str, error_line: Callable[..., str]
) -> None:
    assert message in error_line("train", *options.split(), "run_dir=a")
    assert not Path("a").exists()


def test_the_first_step_count_that_learns(error_line: Callable[..., str]) -> None:
    few = [*REPLAY, "algo.learning_starts=256", "run_dir=a", "log.tensorboard=false"]
    few += ["algo.replay.length=8", "algo.replay.burn_in=0", "algo.replay.stride=4"]
    assert "never learn" in error_line("train", *few, "total_steps=256")
    assert main(["train", *few, "total_steps=257"]) == 0
    assert "q_loss" in Path("a/metrics.csv").read_text()


def test_a_run_without_a_complete_episode_says_that_it_has_not_learned(
    error_line: Callable[..., str],
) -> None:
    # An episode has 51 steps: there is none in 40 steps of each environment.
    tape = ["algo.replay.batching=tape", "algo.replay.length=8", "algo.learning_starts=0"]
    line = error_line("train", *REPLAY, *tape, "total_steps=160", "run_dir=a")
    assert line.startswith("algo r2d2 never learned in 160 steps: its batches need an episode")
    assert checkpoint.steps("a")[-1] == 160
    assert main(["train", "resume=a", "total_steps=320"]) == 0
    assert "q_loss" in Path("a/metrics.csv").read_text()


def test_periodic_checkpoints_by_default() -> None:
    few = ["algo.num_steps=8", "total_steps=640", "checkpoint_keep=100", "run_dir=a"]
    assert main(["train", *SMALL, *few]) == 0
    # Of so short a run the first one takes more than 1 % of the time; later ones wait.
    assert checkpoint.steps("a") == [64, 640]
    assert main(["train", *SMALL, *few[:-1], "run_dir=b", "checkpoint_every=null"]) == 0
    assert checkpoint.steps("b") == [640]
    assert main(["train", *SMALL, *few[:-1], "run_dir=c", "checkpoint_every=200"]) == 0
    assert checkpoint.steps("c") == [224, 448, 640]
    weights = [checkpoint.load(run).weights for run in "abc"]
    for name, weight in weights[0].items():
        assert all(torch.equal(weight, other[name]) for other in weights[1:]), name


@pytest.mark.slow
def test_the_quick_experiment_solves_its_task() -> None:
    assert main(["train", "experiment=quick-repeat", "seed=100", "run_dir=a"]) == 0
    assert json.loads(Path("a/eval.json").read_text())["return_mean"] >= 0.95
