"""Matrix products in C, whose tiles of sums stay in registers.

Small products, and products with columns that are not whole tiles, are computed by torch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rlmem.kernels import native
from rlmem.kernels.native import check_tensors, plain

DTYPES = [torch.float32, torch.float64]
# Multiplications that outweigh packing the matrix and waking a second thread.
MIN_WORK = 2**22


def supports(x: Tensor) -> bool:
    """Whether the C module was built and has a kernel for this dtype."""
    return native.AVAILABLE and x.dtype in DTYPES


def level() -> int:
    """The level of vector width in use."""
    found: int = native.lib.rlmem_gated_rnn_level()
    return found


def lanes(dtype: torch.dtype) -> int:
    """The numbers in a vector."""
    found: int = native.lib.rlmem_gated_rnn_lanes(level(), DTYPES.index(dtype))
    return found


def empty(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised memory for a result, in the dtype of `like`."""
    return native.empty(torch.Size(shape), like.dtype)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`: [N, I] by [M, I] to [N, M]."""
    _check("project", {"x": x, "weight": weight}, inner=1)
    if not _uses_c(x, weight.shape[0], weight.numel()):
        return F.linear(x, weight)
    y = empty(x, len(x), len(weight))
    packed = plain(weight).unflatten(0, (-1, 2 * lanes(x.dtype))).mT.contiguous()
    _run(native.lib.rlmem_project, x, packed, y, _splits(x))
    return y


def gram(x: Tensor, y: Tensor) -> Tensor:
    """`x.T @ y`: [N, I] by [N, M] to [I, M]."""
    _check("gram", {"x": x, "y": y}, inner=0)
    if not _uses_c(x, y.shape[1], x.shape[1] * y.shape[1]):
        return x.t() @ y
    splits = _splits(x)
    sums = torch.zeros(splits, x.shape[1], y.shape[1], dtype=x.dtype, device=x.device)
    _run(native.lib.rlmem_gram, x, sums, native.unit_stride(y), splits)
    return sums.sum(0)


def _check(operator: str, pair: dict[str, Tensor], inner: int) -> None:
    """Check two matrices that are multiplied along their dimension `inner`."""
    x, y = pair.values()
    dtypes = [x.dtype] if isinstance(x, Tensor) else DTYPES
    check_tensors(operator, pair, dtypes, ["cpu"], pair)
    if x.dim() != 2 or y.dim() != 2 or x.shape[inner] != y.shape[inner]:
        names = " and ".join(pair)
        raise ValueError(
            f"{operator}: {names} must be matrices of one size in dimension {inner}, not "
            f"{list(x.shape)} and {list(y.shape)}"
        )


def _uses_c(x: Tensor, outputs: int, work: int) -> bool:
    """Whether the C kernel computes this product: whole tiles, and large enough."""
    whole = supports(x) and outputs % (2 * lanes(x.dtype)) == 0
    return whole and len(x) * work >= MIN_WORK


def _splits(x: Tensor) -> int:
    """The number of parts to split the rows into for the threads."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 else min(-(-len(x) // 64), native.ITEMS_PER_THREAD * threads)


def _run(
    function: Callable[[object], None], x: Tensor, weight: Tensor, y: Tensor, splits: int
) -> None:
    x = native.unit_stride(x)
    fields = {
        "dtype": DTYPES.index(x.dtype),
        "level": level(),
        "inputs": x.shape[1],
        "outputs": y.shape[1],
        "rows": len(x),
        "row_splits": splits,
        "x": x.data_ptr(),
        "weight": weight.data_ptr(),
        "y": y.data_ptr(),
        "x_row": x.stride(0),
        "y_row": y.stride(0),
    }
    product = native.ffi.new("rlmem_product *", fields)
    native.run(lambda: function(product), min(torch.get_num_threads(), splits))
