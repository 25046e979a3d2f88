"""The range of a diagonal recurrence's gate a: in [0, 1], in [-1, 1] or complex with |a| <= 1.

With gates in [0, 1], such a recurrence cannot even count modulo two in rows longer than those of
its training; with gates in [-1, 1] it can (Grazzi et al. 2024, arXiv 2411.12537), and with complex
gates it can count modulo any number.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rlmem.errors import unknown

RANGES = ("positive", "signed", "complex")


def check_range(name: str, allowed: Sequence[str] = RANGES) -> str:
    """Return `name`, one of `allowed`; else raise a `UsageError`."""
    if name not in allowed:
        raise unknown("gate", name, allowed)
    return name


def stretch(gate: Tensor, name: str) -> Tensor:
    """The gate in [0, 1] mapped to [-1, 1] by 2 a - 1 if its range is signed."""
    return 2 * gate - 1 if name == "signed" else gate
