"""HiPPO-LegS, the state matrix of a Legendre polynomial memory (Gu et al. 2020, arXiv 2008.07669).

    h'(t) = A h(t) + B u(t),   A = S - P P^T,   S = -1/2 I + a skew-symmetric matrix

Diagonal models are initialised from its normal part `S` (Gu et al. 2022, arXiv 2206.11893).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LegS(NamedTuple):
    """`A` and the normal part `S` [N, N], `P` and `B` [N]; float64."""

    A: Tensor
    S: Tensor
    P: Tensor
    B: Tensor


def legs(order: int) -> LegS:
    """The matrices of order N, scaled as in S4 (Gu et al. 2021, arXiv 2111.00396, eq. 2)."""
    n = torch.arange(order, dtype=torch.float64)
    B = (2 * n + 1).sqrt()
    P = (n + 0.5).sqrt()
    A = -torch.outer(B, B).tril(-1) - torch.diag(n + 1)
    return LegS(A, A + torch.outer(P, P), P, B)


def legs_diagonal(order: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues [N] and unit eigenvectors (columns, [N, N]) of `S`; complex128.

    Sorted by imaginary part, ascending: the first half are the conjugates of the second.
    """
    S = legs(order).S
    # -i S is Hermitian except for the real part, which is constant along the diagonal.
    imaginary, V = torch.linalg.eigh(-1j * S.to(torch.complex128))
    return torch.complex(S.diagonal().mean().expand_as(imaginary), imaginary), V
