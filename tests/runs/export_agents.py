"""Agents with untrained weights and their exported programs, for the tests of exports."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime
import torch
from gymnasium import spaces
from torch import Tensor
from torch.onnx._internal.exporter import _registration

from rlmem.runs.agent import Agent, AgentSpec
from rlmem.runs.export.formats import onnx_program
from rlmem.runs.export.program import output_names, trace
from rlmem.runs.export.step import Step

Tensors = dict[str, Tensor]
Run = Callable[[Tensors], Tensors]
ROWS, STEPS, TOLERANCE = 3, 200, 1e-5

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
NESTED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (24, 24, 3), np.uint8),
        "board": spaces.Box(0, 4, (5, 5), np.int64),
        "pair": spaces.Tuple([spaces.Discrete(3, start=5), spaces.Box(-1e3, 1e3, (2, 2))]),
        "bits": spaces.MultiBinary((2, 3)),
        "wide": spaces.Box(-np.inf, np.inf, (), np.float64),
    }
)
HYBRID = spaces.Dict(
    {
        "gear": spaces.Discrete(3, start=2),
        "wheel": spaces.Box(-2, 2, (2, 1)),
        "force": spaces.Box(np.array([-np.inf, 0]), np.array([np.inf, 5]), dtype=np.float64),
    }
)
BUTTONS = spaces.Tuple([spaces.MultiDiscrete([3, 2], start=[1, 0]), spaces.MultiBinary((1, 2))])
ONE, TRIALS = ({"episodes": n, "horizon": n, "stop_returns": False} for n in (1, 3))
# Algorithm, action space, history.
ALGOS: dict[str, tuple[gym.Space, dict[str, Any] | None]] = {
    "ppo": (HYBRID, {}),
    "pqn": (BUTTONS, None),
    "r2d2": (BUTTONS, None),
    "sac": (HYBRID, None),
    "amago": (HYBRID, TRIALS),
    "dt": (HYBRID, ONE),
    "ad": (BUTTONS, TRIALS),
}

# torch reads all operators of ONNX again for each export, which takes half of the time.
_registration.ONNXRegistry.from_torchlib = staticmethod(
    cache(_registration.ONNXRegistry.from_torchlib)
)


def make_agent(
    algo: str,
    obs: gym.Space,
    action: gym.Space,
    history: dict[str, Any] | None = None,
    **policy: Any,
) -> Agent:
    """An agent with weights as after training."""
    torch.manual_seed(1)
    spec = AgentSpec(algo, {"hidden_size": 16, "core": "gru", **policy}, obs, action, history)
    agent = Agent(spec.make_policy(), spec, torch.device("cpu"))
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return agent


def exported(
    agent: Agent, deterministic: bool = True, batch: int | None = None
) -> tuple[Step, dict[str, Run]]:
    """The step's description, and its two forms as functions."""
    program, step = trace(agent, deterministic, batch)
    foreign = {
        str(node.target)
        for node in program.graph.nodes
        if getattr(node.target, "namespace", "aten") not in ("aten", "higher_order")
    }
    assert not foreign, f"operators that are not torch's own: {foreign}"
    module = program.module()
    model = onnx_program(program, step).model_proto.SerializeToString()
    names = output_names(program)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options)

    def onnx(given: Tensors) -> Tensors:
        results = session.run(names, {name: x.numpy() for name, x in given.items()})
        return {name: torch.from_numpy(x) for name, x in zip(names, results, strict=True)}

    return step, {"pt2": lambda given: module(given), "onnx": onnx}


class Memory:
    """A form of a step that keeps the state: call it with the other inputs."""

    def __init__(self, step: Step, run: Run, rows: int) -> None:
        self.run = run
        example = step.example(rows)
        # Not zeros: the first step has `start` and forgets them.
        self.state = {
            name: torch.full_like(x, 7) for name, x in example.items() if name.startswith("state")
        }

    def __call__(self, given: Tensors) -> Tensors:
        outputs = self.run(given | self.state)
        self.state = {name: outputs.pop(f"next_{name}") for name in self.state}
        return outputs


def close(got: Tensor, want: Tensor, what: str) -> None:
    """Fail if integers differ, or numbers by more than the tolerance of the largest."""
    assert got.shape == want.shape, f"{what}: {list(got.shape)} is not {list(want.shape)}"
    assert got.dtype == want.dtype, f"{what}: {got.dtype} is not {want.dtype}"
    scale = want.double().nan_to_num(posinf=0, neginf=0).abs().amax() if want.numel() else 0
    error = torch.where(got == want, 0, (got.double() - want.double()).abs())
    allowed = TOLERANCE * max(1.0, float(scale)) if want.is_floating_point() else 0
    assert (error <= allowed).all(), f"{what}: off by {error.max():.1e}"
