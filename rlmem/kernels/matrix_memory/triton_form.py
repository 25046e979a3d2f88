"""The matrix memory on CUDA devices: prepares the gates and launches the Triton kernels.

First, programs that own one tile of a state each pass it from chunk to chunk; then all chunks are
read in parallel. The backward has the same two passes. float32 and bfloat16; sums in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from rlmem.kernels.matrix_memory import gates as g
from rlmem.kernels.matrix_memory import triton_kernels
from rlmem.kernels.matrix_memory.torch_form import Grads, Saved

CHUNK = 32
SMALLEST, LARGEST = 16, 32  # tiles of keys and values; 16 is the minimum for tensor cores
# By bytes per number. float32 products, computed as three TF32 products, need the registers of more
# warps. No kernel has room for a second stage of loads.
WARPS = {2: 4, 4: 8}
NORMALIZERS = {"none": 0, "max": 1, "sum": 2}


def tile(size: int) -> int:
    """The channels of a tile."""
    return min(LARGEST, max(SMALLEST, triton.next_power_of_2(size)))


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    state: Tensor | None,
    m0: Tensor | None,
    start: Tensor | None,
    normalizer: str,
    eps: float,
) -> Saved:
    """Same as `torch_form.forward`."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    rows, time, heads, keys = q.shape
    gates, m = g.prepare(i, lf, m0, start, None, CHUNK)
    columns = v.shape[-1] + (normalizer != "none")
    states = lf.new_empty(rows, -(-time // CHUNK), heads, keys, columns)
    last = lf.new_empty(rows, heads, keys, columns)
    norm = None if normalizer == "none" else lf.new_empty(lf.shape)
    h = torch.empty_like(v)
    launcher = Launcher(q, v, normalizer)
    exponents = (gates.a, gates.b, gates.query, gates.key)
    first = None if state is None else state.contiguous()
    into_states = (k, v, *exponents, gates.decay, gates.episode, first, states, last)
    launcher.by_state(triton_kernels.state_kernel, *into_states)
    into_h = (q, k, v, *exponents, gates.first, gates.episode, states, m, h, norm, eps)
    launcher.by_chunk(triton_kernels.read_kernel, launcher.value_tiles, *into_h)
    none = lf.new_empty(0)
    return Saved(h, last, none if m is None else m, none.clone() if norm is None else norm, states)


def backward(
    grad_h: Tensor,
    grad_last: Tensor | None,
    grad_m: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor | None,
    lf: Tensor,
    m0: Tensor | None,
    start: Tensor | None,
    saved: Saved,
    normalizer: str,
    eps: float,
) -> Grads:
    """Same as `torch_form.backward`."""
    grad_h, q, k, v = (x.contiguous() for x in (grad_h, q, k, v))
    m, norm = None if i is None else saved.m, None if normalizer == "none" else saved.norm
    gates, _ = g.prepare(i, lf, m0, start, m, CHUNK)
    read = g.read_backward(grad_h, grad_m, saved.h, norm, m, normalizer, eps)
    launcher = Launcher(q, v, normalizer)
    into_states, into_state = torch.empty_like(saved.states), torch.empty_like(saved.last)
    into_last = None if grad_last is None else grad_last.contiguous()
    readings = (grad_h, read.scale, read.norm)
    tensors = (*readings, q, gates.query, gates.first, gates.decay, into_last)
    launcher.by_state(triton_kernels.state_backward_kernel, *tensors, into_states, into_state)
    exponents = (gates.a, gates.b, gates.query, gates.key)
    into_q, into_k, into_v = (torch.empty_like(x) for x in (q, k, v))
    into_a = lf.new_empty(launcher.key_tiles, *lf.shape)
    for_v = (*readings[:2], q, k, *exponents, gates.episode, into_states, into_v)
    launcher.by_chunk(triton_kernels.value_backward_kernel, launcher.value_tiles, *for_v)
    for_k = (*readings, q, k, v, *exponents, gates.first, gates.episode, saved.states)
    into = (into_states, into_q, into_k, into_a)
    launcher.by_chunk(triton_kernels.key_backward_kernel, launcher.key_tiles, *for_k, *into)
    into_b, into_m = _ends(read, into_states, saved)
    gate_grads = g.gate_backward(into_b, into_a.sum(0), into_m, i, lf, m0, m, start, CHUNK)
    into_i, into_lf, into_m0 = gate_grads
    if into_m0 is not None:
        into_m0 = into_m0 + (into_state * saved.states[:, 0]).sum((-1, -2))
    return Grads(into_q, into_k, into_v, into_i, into_lf, into_state, into_m0)


def _ends(read: g.ReadGrads, into_states: Tensor, saved: Saved) -> tuple[Tensor, Tensor | None]:
    """The gradients for b and m, with the contributions of the states after the chunks.

    A state is linear in exp(b) of its chunk's last step; the last state is linear in exp(-m) too.
    """
    into_b, into_m = read.b, read.m
    into_b[:, CHUNK - 1 : -1 : CHUNK] += (into_states[:, :-1] * saved.states[:, 1:]).sum((-1, -2))
    end = (into_states[:, -1] * saved.last).sum((-1, -2))
    into_b[:, -1] += end
    if into_m is not None:
        into_m = torch.cat([into_m[:, :-1], (into_m[:, -1] - end)[:, None]], dim=1)
    return into_b, into_m


class Launcher:
    """Launches kernels with the grid and the sizes that they have in common."""

    def __init__(self, q: Tensor, v: Tensor, normalizer: str) -> None:
        rows, time, heads, keys = q.shape
        chunks, lanes = -(-time // CHUNK), rows * heads
        self.keys, self.values = tile(keys), tile(v.shape[-1])
        self.key_tiles, self.value_tiles = -(-keys // self.keys), -(-v.shape[-1] // self.values)
        self.sizes = (time, chunks, lanes, heads, keys, v.shape[-1])
        self.norm = NORMALIZERS[normalizer]
        self.like = q

    def by_state(self, kernel: Any, *arguments: Any) -> None:
        """One program for each tile of the state of each row and head."""
        self._run(kernel, (self.sizes[2], self.key_tiles, self.value_tiles), arguments)

    def by_chunk(self, kernel: Any, tiles: int, *arguments: Any) -> None:
        """One program for each of `tiles` tiles of each chunk of each row and head."""
        self._run(kernel, (*self.sizes[1:3], tiles), arguments)

    def _run(self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        with torch.cuda.device_of(self.like):
            kernel[grid](
                *arguments,
                *self.sizes,
                NORM=self.norm,
                C=CHUNK,
                BK=self.keys,
                BV=self.values,
                num_warps=WARPS[self.like.itemsize],
                num_stages=1,
                enable_fp_fusion=True,
            )
