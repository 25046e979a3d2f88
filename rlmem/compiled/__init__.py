"""Compiled parts of a training: CUDA graphs that are captured once and replayed, or torch.compile.

A training has two such parts: the step of collecting (policy, environment, writes) and the
minibatch (loss, gradients, optimizer). Algorithms pass them to a `Compiler`, which decides how they
run.
"""

from rlmem.compiled.calls import Call
from rlmem.compiled.capture import NotCaptured
from rlmem.compiled.compiler import MODES, Compiler, Inductor, check
from rlmem.compiled.graphs import Graphs
from rlmem.compiled.live import obstacle
from rlmem.compiled.steps import Steps

__all__ = [
    "MODES",
    "Call",
    "Compiler",
    "Graphs",
    "Inductor",
    "NotCaptured",
    "Steps",
    "check",
    "obstacle",
]
