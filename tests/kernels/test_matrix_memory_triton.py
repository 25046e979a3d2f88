"""The Triton kernels against the reference: on a GPU, or with TRITON_INTERPRET=1 on any machine.

`test_interpreter.py` runs this file in the interpreter, in a separate process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from rlmem.kernels.matrix_memory import matrix_memory, matrix_memory_reference, ops
from tests.kernels.matrix_memory_cases import (
    SETTINGS,
    assert_close,
    fresh,
    make,
    options,
    results,
)

pytest.importorskip("triton", reason="Triton is for Linux only")
from rlmem.kernels.matrix_memory import triton_form

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # The interpreter computes in numpy, which warns about infinities and NaNs; a GPU does not.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
hardware = pytest.mark.skipif(INTERPRETED, reason="too large, or wrong, in the interpreter")


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels run on every device, and uninitialised memory holds NaN."""
    monkeypatch.setattr(ops, "_form", lambda x: triton_form)
    torch.use_deterministic_algorithms(INTERPRETED)
    yield
    torch.use_deterministic_algorithms(False)


def assert_equals_reference(
    name, shape, starts=(), dtype=torch.float32, tolerance=2e-4, state=True
):
    start = torch.zeros(shape[:2], dtype=torch.bool)
    for at in starts:
        start[0, at] = True
    problem = make(name, shape, start if starts else None, dtype, state)
    want = results(matrix_memory_reference, fresh(problem, torch.float64), **options(name))
    there = fresh(type(problem)(*(to_device(x) for x in problem)))
    got = results(matrix_memory, there, **options(name))
    assert_close([x.cpu() for x in got], want, tolerance)


def to_device(x):
    if isinstance(x, tuple):
        return type(x)(*map(to_device, x))
    return None if x is None else x.to(DEVICE)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting(name):
    assert_equals_reference(name, (2, 37, 1, 3, 5), (3, 4, 32))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (1, 32, 1, 16, 16), (1, 33, 1, 40, 20), (1, 5, 2, 20, 40)], ids=str
)
@pytest.mark.parametrize("name", ["mlstm", "retention"])
def test_shapes(name, shape):
    """One step; whole chunks and tiles; more keys, or values, than a tile has."""
    assert_equals_reference(name, shape)


@pytest.mark.parametrize("starts", [(0, 39), (32,), (31, 32, 33), tuple(range(40))])
def test_starts_anywhere(starts):
    assert_equals_reference("mlstm", (1, 40, 1, 4, 4), starts, state=0 in starts)


@hardware
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-4), (torch.bfloat16, 5e-2)])
def test_on_a_gpu(name, dtype, tolerance):
    assert_equals_reference(name, (4, 300, 4, 64, 64), (3, 4, 64, 250), dtype, tolerance)
