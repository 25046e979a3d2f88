"""The torchrl examples learn with a core in place of torchrl's LSTM, and run with both.

`python examples/torchrl_NAME.py --core LSTMModule` prints the curves with torchrl's own module.
"""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.warm_python import warm_python

pytest.importorskip("torchrl")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def example(name: str) -> ModuleType:
    with warnings.catch_warnings():
        # Importing torchrl's collectors warns about their own classes.
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module(f"torchrl_{name}")


def ends(values: list[float]) -> tuple[float, float]:
    """The means of the first and the last sixth."""
    some = len(values) // 6
    return sum(values[:some]) / some, sum(values[-some:]) / some


@pytest.mark.slow
@pytest.mark.learning
def test_dqn_balances_a_pole_without_velocities() -> None:
    curves = example("dqn").train("gru", steps=20_480, every=0)
    (first, last), (begun, left) = ends(curves.returns), ends(curves.losses)
    assert last > 1.5 * first
    assert left < 0.5 * begun


@pytest.mark.slow
@pytest.mark.learning
def test_ppo_recalls_earlier_cards() -> None:
    curves = example("ppo").train("ffm", steps=49_000, every=0)
    (first, last), (begun, left) = ends(curves.returns), ends(curves.losses)
    # Without memory the return is at most -0.49.
    assert first < -0.45
    assert last > -0.25
    assert left < 0.9 * begun


@pytest.mark.slow
@pytest.mark.learning
def test_sac_lifts_a_pendulum_without_velocity() -> None:
    curves = example("sac").train("s5", steps=10_000, every=0)
    (first, last), (begun, left) = ends(curves.returns), ends(curves.losses)
    assert last > first + 150
    assert left < 0.8 * begun


@pytest.mark.slow
@pytest.mark.learning
def test_ppo_learns_with_two_collector_processes() -> None:
    """In a separate process, which is killed if a worker hangs."""
    options = {"core": "ffm", "workers": 2, "steps": 39_168, "every": 1}
    command = [*warm_python(), str(EXAMPLES / "torchrl_ppo.py")]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^batch \d+: return (\S+), loss (\S+)$", done.stdout, re.M)
    assert len(lines) == 12
    (first, begun), (last, left) = (
        [float(word) for word in line] for line in lines[:: len(lines) - 1]
    )
    assert first < -0.4
    assert last > first + 0.05
    assert left < 0.9 * begun


@pytest.mark.by_day(2)
@pytest.mark.parametrize("core", ["LSTMModule", "lru"])
@pytest.mark.parametrize("name", ["dqn", "ppo", "sac"])
def test_examples_run(
    name: str, core: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example(name)
    monkeypatch.setattr(sys, "argv", ["example", "--steps", "1", "--every", "1", "--core", core])
    threads = torch.get_num_threads()
    runpy.run_path(str(EXAMPLES / f"torchrl_{name}.py"), run_name="__main__")
    assert re.search(r"^batch 1: return \S+, loss \d\S*$", capsys.readouterr().out, re.M)
    assert torch.get_num_threads() == threads
