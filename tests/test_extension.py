"""A new core needs one Python file and one YAML file: for list, command line and core tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CORE = '''
"""A leaky average of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlmem.cores.base import LinearCore, register


@register("leaky")
class Leaky(LinearCore):
    def __init__(
        self, input_size: int, output_size: int | None = None, leak: float = 0.1
    ) -> None:
        super().__init__(input_size, output_size)
        self.leak = leak
        self.state_size = self.output_size
        self.map = nn.Linear(self.input_size, self.output_size)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value = self.leak * self.map(x).to(self.state_dtype)
        return torch.full_like(value[(0,) * (value.dim() - 1)], 1 - self.leak), value

    def decode(self, h: Tensor, x: Tensor) -> Tensor:
        return h
'''
YAML = """\
# a leaky average
name: leaky  # rlmem.cores registry name
leak: 0.1  # weight of the new input
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library and its tests with two new files and no changed file."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("rlmem", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "rlmem" / "cores" / "leaky.py").write_text(CORE)
    (root / "rlmem" / "configs" / "core" / "leaky.yaml").write_text(YAML)
    return root


def run(root: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_list_shows_the_new_core(extended: Path):
    assert ["leaky", "a", "leaky", "average"] in [
        line.split() for line in run(extended, "rlmem", "list").splitlines()
    ]


def test_the_command_line_trains_the_new_core(extended: Path):
    sizes = ["num_envs=8", "algo.num_steps=16", "total_steps=256", "eval_episodes=2"]
    run(extended, "rlmem", "train", "core=leaky", "core.leak=0.3", "run_dir=run", *sizes)
    assert "leak: 0.3" in (extended / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_the_core_tests_cover_the_new_core(extended: Path):
    report = run(extended, "pytest", "tests/cores/test_laws.py", "-k", "leaky", "-p", "no:xdist")
    assert " passed" in report
    assert "failed" not in report
