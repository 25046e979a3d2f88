"""Matrix products in C, of tiles of sums that stay in registers, and how wide these are here.

Where a product is small, or its columns are no whole tiles, torch does it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import native

DTYPES = [torch.float32, torch.float64]
WORTH = 2**22  # multiplications that are worth the work around them, and a second thread's waking


def serves(x: Tensor) -> bool:
    """Whether the C was built and has a form for this dtype."""
    return native.AVAILABLE and x.dtype in DTYPES


def level() -> int:
    """Which width of vectors is used."""
    found: int = native.lib.rlmem_gated_rnn_level()
    return found


def lanes(dtype: torch.dtype) -> int:
    """Numbers of a vector."""
    found: int = native.lib.rlmem_gated_rnn_lanes(level(), DTYPES.index(dtype))
    return found


def empty(like: Tensor, *shape: int) -> Tensor:
    """Memory for a result, of the dtype of `like`."""
    return native.empty(torch.Size(shape), like.dtype)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`: [N, I] by [M, I] to [N, M]."""
    if not _serves(x, weight.shape[0], weight.numel()):
        return F.linear(x, weight)
    y = empty(x, len(x), len(weight))
    packed = weight.unflatten(0, (-1, 2 * lanes(x.dtype))).mT.contiguous()
    _run(native.lib.rlmem_project, x, packed, y, _cuts(x))
    return y


def gram(x: Tensor, y: Tensor) -> Tensor:
    """`x.T @ y`: [N, I] by [N, M] to [I, M]."""
    if not _serves(x, y.shape[1], x.shape[1] * y.shape[1]):
        return x.t() @ y
    cuts = _cuts(x)
    sums = torch.zeros(cuts, x.shape[1], y.shape[1], dtype=x.dtype, device=x.device)
    _run(native.lib.rlmem_gram, x, sums, native.readable(y), cuts)
    return sums.sum(0)


def _serves(x: Tensor, outputs: int, work: int) -> bool:
    """Whether the C takes this product: of whole tiles, and large."""
    whole = serves(x) and outputs % (2 * lanes(x.dtype)) == 0
    return whole and len(x) * work >= WORTH


def _cuts(x: Tensor) -> int:
    """Parts of the rows for the threads."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 else min(-(-len(x) // 64), native.SHARES * threads)


def _run(
    function: Callable[[object], None], x: Tensor, weight: Tensor, y: Tensor, cuts: int
) -> None:
    x = native.readable(x)
    fields = {
        "dtype": DTYPES.index(x.dtype),
        "level": level(),
        "inputs": x.shape[1],
        "outputs": y.shape[1],
        "rows": len(x),
        "row_cuts": cuts,
        "x": x.data_ptr(),
        "weight": weight.data_ptr(),
        "y": y.data_ptr(),
        "x_row": x.stride(0),
        "y_row": y.stride(0),
    }
    product = native.ffi.new("rlmem_product *", fields)
    native.run(lambda: function(product), min(torch.get_num_threads(), cuts))
