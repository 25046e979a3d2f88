"""HiPPO-LegS against published matrices and their eigenbasis."""

from __future__ import annotations

import pytest
import torch

from rlmem.cores import hippo
from tests.golden import Golden


@pytest.mark.parametrize("order", [8, 16])
def test_matrices_and_eigenbasis_equal_the_published_ones(order):
    golden = Golden("s5_init")
    matrices = hippo.legs(order)
    for key in "ASPB":
        golden.check(f"n{order}.{key}", getattr(matrices, key))
    poles, V = hippo.legs_diagonal(order)
    golden.check(f"n{order}.Lambda", poles)
    # Eigenvectors are unique only up to a phase; their projectors are unique.
    golden.check(f"n{order}.projectors", torch.einsum("ji,ki->ijk", V, V.conj()))
    golden.check(f"n{order}.Lambda_half", poles[: order // 2])


@pytest.mark.parametrize("order", [1, 5, 64])
def test_eigenbasis_reconstructs_the_normal_part(order):
    poles, V = hippo.legs_diagonal(order)
    rebuilt = V @ torch.diag(poles) @ V.mH
    torch.testing.assert_close(rebuilt, hippo.legs(order).S.to(rebuilt), rtol=1e-10, atol=1e-10)
