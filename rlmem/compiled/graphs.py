"""CUDA graphs: the operations of a function, captured once and replayed without their launches.

A graph reads and writes fixed addresses. `Call` is for functions of tensors: their arguments are
copied into fixed tensors. `Steps` is for steps that change live values (see `live`): these are
moved into fixed tensors, and there is one graph for each combination of the host's numbers. The
first visits run without a graph, on the stream of the captures, so that everything that is made at
a first call exists (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).

Random numbers of the device's own generator are those of a run without graphs: a replay advances it
as the operations do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from rlmem.compiled.calls import Call
from rlmem.compiled.capture import Capture
from rlmem.compiled.steps import Steps


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Graphs:
    """Runs the two parts of a training as CUDA graphs; a `Compiler`.

    `say` is called once for each part that cannot be captured. Another class than `CUDAGraph` is
    for tests.
    """

    def __init__(
        self,
        device: torch.device,
        graph: Callable[[], Any] = torch.cuda.CUDAGraph,
        say: Callable[[str], None] = _to_stderr,
    ) -> None:
        self.capture = Capture(device, graph)
        self.say = say

    def forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A part of a captured function, as it is."""
        return function

    def call(self, name: str, obstacle: str | None = None) -> Call | None:
        """Captures functions of tensors; `name` is their word in messages.

        With an `obstacle`, a reason against it, that is said, and nothing is captured.
        """
        return Call(self.capture, partial(self._say, name)) if self._goes(name, obstacle) else None

    def steps(self, name: str, obstacle: str | None = None) -> Steps | None:
        """Captures a step that changes live values; `name` and `obstacle` as in `call`."""
        return Steps(self.capture, partial(self._say, name)) if self._goes(name, obstacle) else None

    def _goes(self, name: str, obstacle: str | None) -> bool:
        if obstacle is not None:
            self._say(name, obstacle)
        return obstacle is None

    def _say(self, name: str, reason: str) -> None:
        self.say(f"no CUDA graph of {name}: {reason}")
