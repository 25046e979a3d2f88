"""`threads=auto`: the choice of the probe, the saved number, and resumed runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import rlmem
from rlmem.cli.main import main
from rlmem.errors import UsageError
from rlmem.runs import checkpoint, threads
from rlmem.runs.build import load_config

TINY: dict[str, Any] = {"hidden_size": 16, "num_envs": 4, "eval_episodes": 2, "core": "gru"}
TINY |= {"log.tensorboard": False, "log.progress": False, "total_steps": 144, "device": "cpu"}
TINY |= {"algo.num_steps": 9, "algo.num_minibatches": 2, "algo.anneal_lr": False}


@pytest.fixture(autouse=True)
def _temporary_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)))


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.4, 6: 0.3}, 6),
        ({1: 1.0, 2: 0.6, 4: 0.58, 6: 0.1}, 2),  # a small gain ends the search
        ({1: 1.0, 2: 0.95}, 1),
        ({1: 1.0, 2: 1.9}, 1),
        ({1: 1.0, 2: 2.1}, 1),  # ends at its deadline
    ],
)
def test_the_fastest_number_is_found(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], best: int
) -> None:
    class Given(threads.Probe):
        def __init__(self, *arguments: Any) -> None:
            pass

        def seconds(self, most: float = float("inf")) -> float:
            spent = seconds[torch.get_num_threads()]
            if spent > most:
                raise threads.Late
            return spent

    cores(monkeypatch, 6)
    monkeypatch.setattr(threads, "Probe", Given)
    before = torch.get_num_threads()
    found, reason = threads.fastest(OmegaConf.create(), None)
    assert found == best
    assert reason.startswith("fastest in a probe of")
    assert torch.get_num_threads() == before


def test_an_endless_iteration_ends_at_its_deadline() -> None:
    rlmem.train("popgym-repeat", run_dir="run", **TINY)
    probe = threads.Probe(load_config("run"), None)
    with pytest.raises(threads.Late):
        probe.seconds(0.0)
    assert probe.seconds() > 0
    assert not probe.algo.policy.core.__dict__.get("scan")


def test_a_run_saves_its_number_and_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cores(monkeypatch, 2)
    rlmem.train("popgym-repeat", run_dir="first", threads="auto", **TINY)
    assert "threads=" in capsys.readouterr().err
    number = load_config("first").threads
    assert number in (1, 2)
    rlmem.train("popgym-repeat", run_dir="same", threads=number, **TINY)
    one, two = (checkpoint.load(each).weights for each in ("first", "same"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    capsys.readouterr()
    rlmem.train(resume="first", total_steps=288, threads="auto")
    error = capsys.readouterr().err
    assert f"threads={number}: as before\n" in error
    assert "exactly where it was\n" in error
    assert load_config("first").threads == number


def test_one_core_needs_no_probe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cores(monkeypatch, 1)
    options = [f"{key}={value}" for key, value in TINY.items()]
    assert main(["train", "env=popgym-repeat", "threads=auto", "run_dir=run", *options]) == 0
    assert "threads=1: there is one core\n" in capsys.readouterr().err


@pytest.mark.parametrize("algo", ["pqn", "r2d2", "sac", "amago"])
@pytest.mark.slow
def test_every_algorithm_is_measured(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)
    options = ["env=popgym-battleship", "env.action_mask=true", f"algo={algo}", "hidden_size=16"]
    with initialize_config_module("rlmem.configs", version_base="1.3"):
        cfg = compose("train", [*options, "num_envs=16", "device=cpu", "threads=auto"])
    threads.decide(cfg, None)
    assert cfg.threads in (1, 2)


def test_other_words_are_refused() -> None:
    with pytest.raises(UsageError, match="threads must be an integer, auto or null, not 'fast'"):
        rlmem.train("popgym-repeat", run_dir="run", threads="fast", **TINY)
    with pytest.raises(UsageError, match="threads must be an integer of at least 1, not 0"):
        rlmem.train("popgym-repeat", run_dir="run", threads=0, **TINY)
