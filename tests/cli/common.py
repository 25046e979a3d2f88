"""Shared code of the command line tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]

# Trains for a second or two; one thread, because tests run in parallel.
SMALL = [
    "threads=1",
    "num_envs=4",
    "hidden_size=8",
    "total_steps=256",
    "eval_episodes=2",
    "algo.num_steps=32",
    "algo.num_minibatches=2",
    "log.tensorboard=false",
]


def python(*arguments: str, new: bool = False) -> subprocess.Popen[str]:
    """Start a Python process that can import the package from any folder.

    `new`: an interpreter that has imported nothing.
    """
    return subprocess.Popen(
        [*([sys.executable] if new else warm_python()), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
