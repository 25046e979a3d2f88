"""Compares a core with a float64 loop over one episode, written from the paper's equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlmem import cores
from tests.cores.common import B, close, some_starts, weighted

Loop = Callable[[dict[str, Tensor], Tensor], Tensor]


def equals_the_loop(name: str, loop: Loop, time: int = 23, **options: Any) -> None:
    """Fail unless the outputs of `scan` and all gradients equal those of `loop` to 1e-10.

    `loop(parameters, x)` computes the outputs [T, O] of one episode `x` [T, I] from an empty
    memory. Inputs, sizes and parameters are random; some rows hold several episodes.
    """
    core = cores.make(name, input_size=5, output_size=6, **options).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(B, time, 5, dtype=torch.float64, requires_grad=True)
    start = some_starts("cpu", time)
    start[:, 0] = True
    given = dict(core.named_parameters())
    y, _ = core.scan(x, core.initial_state(B), start)
    copies = {key: p.detach().clone().requires_grad_() for key, p in given.items()}
    want = torch.stack([_row(loop, copies, *each) for each in zip(x, start, strict=True)])
    close(y, want, 1e-10, "outputs")
    got_grads = torch.autograd.grad(weighted(y), [x, *given.values()])
    want_grads = torch.autograd.grad(weighted(want), [x, *copies.values()])
    for key, got, wanted in zip(["x", *given], got_grads, want_grads, strict=True):
        assert wanted.abs().max() > 0, key
        close(got, wanted, 1e-10, f"gradient of {key}", floor=0.0)


def _row(loop: Loop, parameters: dict[str, Tensor], x: Tensor, start: Tensor) -> Tensor:
    """The outputs of a row's episodes."""
    lengths = start.nonzero().flatten().diff(append=torch.tensor([len(x)])).tolist()
    return torch.cat([loop(parameters, episode) for episode in x.split(lengths)])
