"""The gated recurrent networks: loops over time, and torch's own layers, which know no starts.

Every form is a whole layer: the projection of the input, the recurrence and all gradients. There is
a start every fifty steps on average. "torch" is torch.nn.GRU or LSTM on the whole rows without
starts, which is less work than required; "packed" splits rows into their episodes, as users of
these layers do. "loop" runs torch operations step by step, under autograd. On CUDA the layers run
in cuDNN, with their weights in one block of memory as it needs them.

Bytes: x and h once, forward; three times that forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem.kernels import gated_rnn, project
from rlmem.kernels.gated_rnn import CELLS, gated_rnn_reference

from .base import Case, Form, Inputs, Op, Work

LONGEST_LOOP = 1024  # steps, for forms in Python
LAYERS = {"gru": nn.GRU, "lstm": nn.LSTM}
WIDE_WIDTHS = (256, 512)  # of heads in tiles: in one program, and shared out over programs
EPISODE = 50  # steps between starts, on average
MOST_PACKED = 2**18  # steps, for the form that splits rows into episodes in Python

Weights = tuple[Tensor, ...]


def ours(cell: str, x: Tensor, start: Tensor, w: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    # Inputs in bfloat16 alone are computed in float32; autocast asks for products of bfloat16.
    narrow = x.is_cuda and x.dtype == torch.bfloat16
    with torch.autocast("cuda", torch.bfloat16, enabled=narrow):
        return gated_rnn(cell, project(x, w)[:, :, None], *joined(cell, r, b, c), None, start)[0]


def loop(cell: str, x: Tensor, start: Tensor, w: Tensor, r: Tensor, b: Tensor, c: Tensor) -> Tensor:
    projected = F.linear(x, w)[:, :, None]
    return gated_rnn_reference(cell, projected, *joined(cell, r, b, c), None, start)[0]


def joined(cell: str, r: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The operator's matrix and biases, from those of `torch.nn`."""
    both = b + c
    if cell == "gru":
        two = len(both) // 3 * 2
        both = torch.cat([both[:two], b[two:], c[two:]])
    return r.t()[None], both[None]


def layer(cell: str, x: Tensor, start: Tensor, *weights: Tensor) -> Tensor:
    """The layer of torch, on rows without starts."""
    return run_layer(cell, x, weights)[:, :, None]


def packed(cell: str, x: Tensor, start: Tensor, *weights: Tensor) -> Tensor:
    """The layer of torch, on episodes of different lengths."""
    cuts = start.clone()
    cuts[:, 0] = True
    first = cuts.flatten().nonzero().flatten()
    lengths = first.diff(append=first.new_tensor([cuts.numel()])).tolist()
    episodes = x.flatten(0, 1).split(lengths)
    sequence = nn.utils.rnn.pack_sequence(episodes, enforce_sorted=False)
    outputs = nn.utils.rnn.unpack_sequence(run_layer(cell, sequence, weights))
    return torch.cat(outputs).unflatten(0, x.shape[:2])[:, :, None]


def in_one_block(cell: str, weights: Weights, dtype: torch.dtype) -> Weights:
    """The weights of a layer of torch, as cuDNN reads them without copying them first."""
    width = weights[0].shape[1]
    options = {"device": weights[0].device, "dtype": dtype}
    module = LAYERS[cell](width, weights[1].shape[1], batch_first=True, **options)
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.copy_(weight)
    module.flatten_parameters()
    return tuple(parameter.detach() for parameter in module.parameters())


def run_layer(cell: str, x: Any, weights: tuple[Tensor, ...]) -> Any:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    with torch.device("meta"):
        module = LAYERS[cell](weights[0].shape[1], weights[1].shape[1], batch_first=True)
    named = dict(zip(names, weights, strict=True))
    return torch.func.functional_call(module, named, (x,))[0]


class GatedRNN(Op):
    name = "gated_rnn"
    axes = "BxTxD"
    shapes = ((64, 128, 128), (64, 512, 64), (64, 512, 128), (64, 512, 256), (16, 2048, 128))
    quick = ((64, 128, 128), (64, 512, 128))
    gpu_shapes = (
        (1024, 128, 128),
        (16, 4096, 128),
        (256, 64, 64),
        (4096, 128, 128),
        (1024, 128, 256),
        (256, 64, 512),
        (16, 16384, 64),
    )
    tiny = (3, 40, 8)
    apart = ("torch",)
    dtypes = (torch.float32, torch.bfloat16)
    variants = tuple(cell for cell in CELLS if cell != "slstm_exp")

    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        forms = {"rlmem": ours, "loop": loop, "torch": layer, "packed": packed}
        for name, form in forms.items():
            if form is loop and case.shape[1] > LONGEST_LOOP:
                continue
            if form in (layer, packed) and case.variant not in LAYERS:
                continue
            if form is packed and case.shape[0] * case.shape[1] > MOST_PACKED:
                continue
            yield name, bound(form, case.variant)

    def leading(self, case: Case) -> tuple[str, ...]:
        return "BT", "BT", "", "", "", ""

    def definition(self, case: Case, form: str) -> Form:
        return bound(loop, case.variant)

    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        rows, time, width = case.shape
        gates = CELLS[case.variant].gates * width
        x = torch.randn(case.shape, device=device)
        often = 0.0 if form == "torch" else 1 / EPISODE
        start = torch.rand(rows, time, device=device) < often
        w, r = (torch.randn(gates, width, device=device) / width**0.5 for _ in range(2))
        b, c = torch.randn(2, gates, device=device)
        grad = torch.randn(rows, time, 1, width, device=device)
        weights = w, r, b.clone(), c.clone()
        if form == "torch" and device == "cuda":
            weights = in_one_block(case.variant, weights, getattr(torch, case.dtype))
        return Inputs((x, start, *weights), grad)

    def work(self, case: Case) -> Work:
        elements, times = self.size(case.shape), 1 if case.passes == "forward" else 3
        # Two products of [D] and [D, G D].
        flops = 4 * CELLS[case.variant].gates * case.shape[-1]
        return Work(elements, 2 * case.itemsize * elements * times, flops * elements * times)

    def modules(self) -> tuple[ModuleType, ModuleType]:
        from rlmem.kernels.gated_rnn import triton_form, triton_kernels

        return triton_form, triton_kernels

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        from rlmem.kernels.gated_rnn import triton_form

        for width in (*triton_form.CONFIGS, *WIDE_WIDTHS):
            for cell in CELLS:
                launch(cell, width, dtype)
            if odd:
                launch("lstm", width - 3, dtype)

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        return tensors["weight"].dtype, {
            "cell": list(CELLS)[options["CELL"]],
            "d": tensors["weight"].shape[1],
            "on_chip": options.get("ON_CHIP", False),
            "rows": options["BM"],
            "units": options["DP"],
            "warps": options["num_warps"],
        }


def bound(form: Form, cell: str) -> Form:
    return lambda *arguments: form(cell, *arguments)


def launch(cell: str, width: int, dtype: torch.dtype = torch.float32) -> None:
    """Forward, with what backward reads, and backward; with starts and a first state."""
    from rlmem.kernels.gated_rnn import triton_form

    kind = CELLS[cell]
    front = (20, 3, 2)
    projected = torch.empty(*front, kind.gates * width, dtype=dtype)
    weight = torch.empty(2, width, kind.gates * width, dtype=dtype)
    bias, state = torch.empty(2, 4 * width), torch.empty(20, kind.states, 2, width)
    start = torch.zeros(front[:2], dtype=torch.bool)
    h, last, activations, saved_states = triton_form.forward(
        cell, projected, weight, bias, state, start, True
    )
    triton_form.backward(cell, h, last, weight, state, start, h, activations, saved_states)


OP = GatedRNN()
