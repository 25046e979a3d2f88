"""Malformed calls of operators and cores raise a `ValueError`; odd layouts give equal results.

`scripts/fuzz_kernels.py` makes more random calls, also with an address sanitiser.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlmem.kernels import gated_step, linear_scan, native, project
from rlmem.kernels.gated_rnn import tiles
from rlmem.kernels.linear_scan import c_form

ROOT = Path(__file__).parents[2]


def test_random_calls() -> None:
    # In a separate process: the annotations checked in tests would refuse many calls earlier.
    options = ["--malformed", "60", "--odd", "10", "--cores", "30", "--raw", "40"]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "fuzz_kernels.py", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


X, WEIGHT = torch.randn(64, 200, 128), torch.randn(512, 128)


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (X, WEIGHT[:, :127], r"x must be \[\*N, I\] and weight \[M, I\], not .* \[512, 127\]"),
        (X, WEIGHT.t(), r"not \[64, 200, 128\] and \[128, 512\]"),
        (X[..., :100], WEIGHT, r"not \[64, 200, 100\] and \[512, 128\]"),
        (X, WEIGHT[0], r"not \[64, 200, 128\] and \[128\]"),
        (X, WEIGHT.to("meta"), "on one device, not .*'weight': 'meta'"),
        (X, WEIGHT.double(), "weight must be torch.float32 like x, not torch.float64"),
        (X, WEIGHT.to_sparse(), "weight must be a dense tensor, not torch.sparse_coo"),
        (X.long(), WEIGHT.long(), "x is torch.int64; allowed are float32"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_products_of_wrong_matrices_are_refused(x: Tensor, weight: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project(x, weight)


@pytest.mark.skipif(not native.AVAILABLE, reason="the C was not built")
def test_the_entry_points_of_the_c_check_their_arguments() -> None:
    x, weight = X.flatten(0, 1), WEIGHT
    for wrong in (weight[:, :127], weight.double(), weight.to("meta"), weight.to_sparse()):
        with pytest.raises(ValueError, match="project: "):
            tiles.times(x, wrong)
    with pytest.raises(ValueError, match="gram: "):
        tiles.gram(x, x[1:])
    row, gate = torch.randn(2, 3, 4), torch.rand(4)
    for arguments in (
        (gate[1:], row, None, None),
        (gate, row, row[:, 0, 1:], None),
        (gate, row, None, torch.zeros(2, 2, dtype=torch.bool)),
        (gate, row, None, torch.zeros(2, 3)),
        (gate, row[0], None, None),
        (gate.double(), row, None, None),
    ):
        with pytest.raises(ValueError, match="linear_scan: "):
            c_form.forward(*arguments, False)


def test_a_missing_tensor_is_refused() -> None:
    # torch passes None for a tensor that an operator's schema requires; `--raw` tries it.
    native.check_tensors("project", {"x": X, "start": None}, required=["x"])
    with pytest.raises(ValueError, match="project: weight must be a tensor, not NoneType"):
        native.check_tensors("project", {"x": X, "weight": None}, required=["x", "weight"])


@pytest.mark.skipif(not native.AVAILABLE, reason="the C was not built")
def test_the_c_reads_conjugate_and_negative_views() -> None:
    z = torch.randn(2, 3, 4, dtype=torch.complex64)
    gate, h0 = torch.rand(4).to(z.dtype), torch.randn(2, 4, dtype=z.dtype)
    want = linear_scan(gate, z.conj().resolve_conj(), h0.conj().resolve_conj())
    torch.testing.assert_close(c_form.forward(gate, z.conj(), h0.conj(), None, False), want)
    torch.testing.assert_close(linear_scan(gate, z.conj(), h0.conj()), want)
    negative = torch.complex(torch.zeros_like(X), -X).conj().imag
    assert negative.is_neg()
    torch.testing.assert_close(project(negative, WEIGHT), project(X, WEIGHT))


def test_a_step_of_wrong_shapes_is_refused() -> None:
    projected, weight, bias = torch.randn(5, 1, 12), torch.randn(1, 4, 12), torch.randn(1, 16)
    state = torch.randn(5, 1, 4)
    for arguments, message in (
        ((projected, weight, bias, (state[:1],)), r"state\[0\] must be \[5, 1, 4\]"),
        ((projected, weight, bias[:, :1], (state,)), r"bias must be \[1, 16\], not \[1, 1\]"),
        ((projected, weight[..., :9], bias, (state,)), r"weight must be \[1, 4, 12\]"),
        ((projected[0], weight, bias, (state,)), r"projected must be \[B, H, 3 D\]"),
        ((projected, weight, bias, (state, state)), "state of gru must be 1 tensors, not 2"),
    ):
        with pytest.raises(ValueError, match=message):
            gated_step("gru", *arguments)
