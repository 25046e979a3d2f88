"""Shared code of the core tests: all registered cores; data and comparisons of `rlmem.testing`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rlmem import cores
from rlmem.cores.base import registry
from rlmem.testing.law import Subject
from rlmem.testing.rows import (
    INPUT,
    OUTPUT,
    TOLERANCE,
    B,
    Data,
    Run,
    T,
    close,
    data,
    fold,
    fresh,
    gradients_close,
    identical,
    learnable,
    rows,
    run,
    runs_close,
    scan,
    some_starts,
    states_close,
    warm_state,
    weighted,
)

__all__ = [
    "DEVICES",
    "DTYPES",
    "INPUT",
    "NAMES",
    "OUTPUT",
    "TOLERANCE",
    "B",
    "Data",
    "Run",
    "T",
    "close",
    "data",
    "every_core",
    "every_device",
    "every_dtype",
    "fold",
    "fresh",
    "gradients_close",
    "identical",
    "learnable",
    "make",
    "rows",
    "run",
    "runs_close",
    "scan",
    "some_starts",
    "states_close",
    "subject",
    "warm_state",
    "weighted",
]

# A core with two names is tested once.
NAMES = list({registry.get(name): name for name in cores.names()}.values())
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.float64]

every_core = pytest.mark.parametrize("name", NAMES)
every_device = pytest.mark.parametrize("device", DEVICES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])


def subject(name: str, device: str = "cpu") -> Subject:
    """A registered core as the subject of a law."""
    return Subject(registry.get(name), device=device)


def make(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    input_size: int = INPUT,
    output_size: int = OUTPUT,
) -> cores.MemoryCore[Any]:
    """A core whose parameters differ from their initial values, as after training."""
    return subject(name, device).make(dtype, input_size=input_size, output_size=output_size)
