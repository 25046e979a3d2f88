"""Memory of a run: estimates, and requests that fail."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from rlmem.cli.hydra_errors import compose
from rlmem.errors import UsageError
from rlmem.runs import memory

CPU = torch.device("cpu")


def config(*overrides: str) -> Any:
    cfg = compose("train", ["run_dir=x", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("layers=100000 hidden_size=512", "layers=100000 of hidden_size=512"),
        ("hidden_size=60000", "layers=1 of hidden_size=60000"),
        ("num_envs=1000000000000", "num_envs=1000000000000"),
        ("algo=sac algo.replay.capacity=1000000000000", "algo.replay.capacity=1000000000000"),
        ("algo.num_steps=1000000000", "num_envs=64 times algo.num_steps=1000000000"),
        ("algo=r2d2 algo.replay.batch_size=100000000", "algo.replay.batch_size=100000000 times"),
    ],
)
def test_a_run_that_cannot_fit_is_refused(
    options: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 32e9)
    with pytest.raises(UsageError, match=f"this run needs at least .* for {re.escape(named)}"):
        memory.require(config(*options.split()), CPU)


def test_runs_of_usual_sizes_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 1e9)
    for options in ("", "algo=sac", "algo=amago hidden_size=512", "layers=4", "core=none"):
        memory.require(config(*options.split()), CPU)
    memory.require(config("algo=sac", "algo.replay.capacity=1e9", "algo.replay.directory=x"), CPU)


@pytest.mark.parametrize(
    "added",
    [
        "++algo.batch_size=[-1]",
        "++algo.length={a:1}",
        "++algo.replay=5",
        "++algo.replay.capacity=x",
    ],
)
def test_options_that_the_algorithm_does_not_have_are_left_to_it(added: str) -> None:
    memory.require(config(added), CPU)


def test_memory_is_that_of_the_machine() -> None:
    assert 1e8 < memory.available(CPU) < 1e15


def test_failed_requests_are_one_line() -> None:
    for request in (
        lambda: torch.empty(2**50),
        lambda: torch.zeros(2**40, 2**40),
        lambda: bytearray(2**60),
        lambda: [0] * 2**70,
    ):
        expected = pytest.raises(UsageError, match=r"not enough memory.*: give smaller")
        with expected as error, memory.errors():
            request()
        assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="another"), memory.errors():
        raise RuntimeError("another")
    with pytest.raises(UsageError, match="mine"), memory.errors():
        raise UsageError("mine: out of memory")
