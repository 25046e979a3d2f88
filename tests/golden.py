"""Golden vectors: reference values of published models, in `golden_vectors/`.

Each file holds parameters, inputs, outputs, states and gradients of one model, computed in float64
from its equations or its authors' code. Rows are [B, T, ...] with starts. The loss is
`sum(out.y * loss.w)`; `grad.*` are its derivatives, through all positions. Tolerances are relative
to the largest entry of an array (of values: at least 1): 1e-10 in float64; in float32 2e-5 for
values and 1e-4 for gradients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

VECTORS = Path(__file__).parent / "golden_vectors"
TOLERANCE = {torch.float64: (1e-10, 1e-10), torch.float32: (2e-5, 1e-4)}


class Golden:
    """The arrays of one file; real floats in `dtype`, complex arrays in its complex dtype."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype
        with np.load(VECTORS / f"{name}.npz") as arrays:
            self._arrays = {key: self._cast(torch.from_numpy(arrays[key])) for key in arrays}

    def _cast(self, array: Tensor) -> Tensor:
        if array.is_complex():
            return array.to(self.dtype.to_complex())
        return array.to(self.dtype) if array.is_floating_point() else array

    def __getitem__(self, key: str) -> Tensor:
        return self._arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def leaves(self, *prefixes: str) -> dict[str, Tensor]:
        """Copies of the arrays with these prefixes and a gradient in the file."""
        return {
            key: array.clone().requires_grad_()
            for key, array in self._arrays.items()
            if key.split(".")[0] in prefixes and f"grad.{key}" in self
        }

    def check(self, key: str, got: Tensor) -> None:
        """Fail if `got` differs from the array `key` by more than the tolerance."""
        want = self[key]
        value, gradient = TOLERANCE[self.dtype]
        floor, relative = (0.0, gradient) if key.startswith("grad.") else (1.0, value)
        assert got.shape == want.shape, f"{key}: {tuple(got.shape)} is not {tuple(want.shape)}"
        limit = relative * max(floor, want.abs().max().item())
        error = (got - want).abs().max().item()
        assert error <= limit, f"{key}: off by {error:.2e}, allowed {limit:.2e}"

    def check_gradients(self, y: Tensor, leaves: dict[str, Tensor]) -> None:
        """Differentiate the file's loss at `y` and check the gradients of all `leaves`."""
        gradients = torch.autograd.grad((y * self["loss.w"]).sum(), list(leaves.values()))
        for key, gradient in zip(leaves, gradients, strict=True):
            self.check(f"grad.{key}", gradient)


def under(prefix: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays named `prefix.*`, with the prefix removed."""
    start = prefix + "."
    return {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}
