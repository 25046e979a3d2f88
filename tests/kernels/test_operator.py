"""Operators of `torch.library`: their names and forms, and backward passes without a derivative."""

from __future__ import annotations

import pytest
import torch
from torch._ops import OpOverload

from rlmem.kernels.gated_rnn import gated_rnn
from rlmem.kernels.linear_scan import ops as linear_scan
from rlmem.kernels.linear_scan.reference import linear_scan_reference


def test_an_operator_is_that_of_torch() -> None:
    assert isinstance(linear_scan.scan, OpOverload)
    assert torch.ops.rlmem.linear_scan.default is linear_scan.scan
    gate, value = torch.rand(2, 3, 4), torch.randn(2, 3, 4)
    found = torch.ops.rlmem.linear_scan(gate, value, None, None, False)
    torch.testing.assert_close(found, linear_scan_reference(gate, value))


def test_a_backward_without_a_derivative_is_an_error() -> None:
    projected = torch.randn(2, 3, 1, 6, requires_grad=True)
    h, _ = gated_rnn("gru", projected, torch.randn(1, 2, 6))
    (grad,) = torch.autograd.grad(h.sum(), projected, create_graph=True)
    with pytest.raises(RuntimeError, match="rlmem::gated_rnn_backward has no derivative"):
        grad.sum().backward()
