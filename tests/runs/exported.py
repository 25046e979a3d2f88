"""Exported steps beside their agents: `python -m tests.runs.exported CASE...` runs cases.

A case prints a line of JSON: its name, its problem (empty if there is none) and its seconds. This
is a program of its own, because the shape checks of the tests cannot be traced.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem import cores
from rlmem.errors import UsageError
from rlmem.policies import encoders
from rlmem.policies.normalizer import normalizers
from rlmem.runs.export.program import trace
from rlmem.runs.export.real import RealForm
from rlmem.runs.export.step import named, real
from tests.runs.export_agents import (
    ALGOS,
    NESTED,
    ONE,
    ROWS,
    STEPS,
    TRIALS,
    VECTOR,
    Memory,
    Tensors,
    close,
    exported,
    make_agent,
)


def core_case(name: str, batch: int | None = ROWS, **core_options: Any) -> None:
    """Two hundred steps with resets: actions, logits and states are those of the batched form."""
    agent = make_agent("ppo", VECTOR, spaces.Discrete(4), core=name, core_options=core_options)
    step, runs = exported(agent, batch=batch)
    forms = {form: Memory(step, run, ROWS) for form, run in runs.items()}
    state = agent.policy.initial_state(ROWS)
    for t in range(STEPS):
        obs, start = torch.randn(ROWS, 3), torch.rand(ROWS) < 0.1
        start |= torch.tensor(t == 0)
        action, state = agent.act({"obs": obs}, state, start)
        states = {key: real(leaf) for key, leaf in named("state", state)}
        for form, memory in forms.items():
            outputs = memory({"obs": obs, "start": start})
            close(outputs["action"], action["action"], f"{form}: action of step {t}")
            assert torch.equal(outputs["logits"].argmax(-1), outputs["action"])
            for key, leaf in memory.state.items():
                close(leaf, states[key], f"{form}: {key} of step {t}")
    assert forms["onnx"].state or name == "none"


def any_batch_case(name: str, **core_options: Any) -> None:
    """`core_case` with a program that was traced for any batch."""
    core_case(name, None, **core_options)


def algo_case(name: str) -> None:
    """Raw observations give the actions of `agent.act(obs)`, in trials and new episodes too."""
    action_space, history = ALGOS[name]
    agent = make_agent(name, NESTED, action_space, history)
    step, runs = exported(agent, batch=None if name == "ppo" else 1)
    forms = {form: Memory(step, run, 1) for form, run in runs.items()}
    inputs = {field.name for field in step.inputs if not field.name.startswith("state")}
    NESTED.seed(0)
    for t in range(40):
        start, new_episode = t % 20 == 0, t % 20 in (7, 12)
        reward = 0.0 if start else float(np.random.normal())  # noqa: NPY002
        obs = NESTED.sample()
        if start:
            agent.reset()
        many = bool(history) and history["episodes"] > 1
        want = agent.act(obs, reward=reward, new_episode=new_episode and many)
        given = dict(leaves("obs", obs)) | {"start": np.array(start)}
        given |= {"reward": np.float32(reward), "new_episode": np.array(new_episode)}
        batch = {key: torch.from_numpy(np.array(x)[None]) for key, x in given.items()}
        for form, memory in forms.items():
            outputs = memory({key: batch[key] for key in inputs})
            for key, value in leaves("action", want):
                close(outputs[key][0], torch.from_numpy(np.array(value)), f"{form}: {key} of {t}")


def leaves(name: str, sample: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a sample with their names."""
    if isinstance(sample, dict | tuple):
        parts = sample.items() if isinstance(sample, dict) else enumerate(sample)
        for key, part in parts:
            yield from leaves(f"{name}.{key}", part)
    else:
        yield name, sample


def sampled_case() -> None:
    """Sampled actions have the distribution that the outputs describe."""
    action = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-np.inf, np.inf, (2,))})
    agent = make_agent("ppo", VECTOR, action)
    step, runs = exported(agent, deterministic=False)
    rows = 20_000
    for form, run in runs.items():
        outputs = run(step.example(rows))
        frequency = outputs["action.a"].bincount(minlength=3) / rows
        assert (frequency - outputs["logits.a"][0].softmax(-1)).abs().max() < 0.02, form
        z = (outputs["action.b"] - outputs["mean.b"]) / outputs["log_std.b"].exp()
        assert z.mean(0).abs().max() < 0.03, form
        assert (z.std(0) - 1).abs().max() < 0.03, form
        assert z.T.corrcoef()[0, 1].abs() < 0.03, form


def mask_case(name: str, joint: int = 0) -> None:
    """Actions are legal, and those of `agent.act`; the mask is an input."""
    mask = spaces.Box(0, 1, (3, 2), np.int8) if joint else spaces.MultiBinary(5)
    obs_space = spaces.Dict({"seen": VECTOR, "action_mask": mask})
    history = ALGOS[name][1] and ONE
    agent = make_agent(name, obs_space, spaces.MultiDiscrete([3, 2]), history)
    step, runs = exported(agent, batch=1)
    forms = {form: Memory(step, run, 1) for form, run in runs.items()}
    inputs = {field.name for field in step.inputs if not field.name.startswith("state")}
    assert "obs.action_mask" in inputs
    for t in range(30):
        places = np.random.rand(*mask.shape) < 0.4  # noqa: NPY002
        if joint:
            places[t % 3, t % 2] = True
        else:
            places[[t % 3, 3 + t % 2]] = True
        obs = {"seen": obs_space["seen"].sample(), "action_mask": places.astype(np.int8)}
        want = agent.act(obs, reward=0.5)
        assert places[tuple(want)] if joint else places[want[0]] and places[3 + want[1]]
        given = dict(leaves("obs", obs)) | {"start": np.array(t == 0), "reward": np.float32(0.5)}
        batch = {key: torch.from_numpy(np.array(x)[None]) for key, x in given.items()}
        for form, memory in forms.items():
            outputs = memory({key: batch[key] for key in inputs})
            close(outputs["action"][0], torch.from_numpy(want), f"{form}: action of {t}")


def normalized_case() -> None:
    """Statistics of the observations are part of the step."""
    space = spaces.Box(-1e4, 1e4, (3,), np.float32)
    agent = make_agent("ppo", space, spaces.Discrete(4), normalize_obs=True)
    normalizer = agent.policy.encoder.normalizer
    assert normalizer is not None
    normalizer.update(500 + 1000 * torch.randn(100, 3))
    step, runs = exported(agent, batch=ROWS)
    forms = {form: Memory(step, run, ROWS) for form, run in runs.items()}
    state, start = agent.policy.initial_state(ROWS), torch.ones(ROWS, dtype=torch.bool)
    for _ in range(20):
        obs = 500 + 1000 * torch.randn(ROWS, 3)
        want = agent.policy.act({"obs": obs}, state, start, True)
        for form, memory in forms.items():
            outputs = memory({"obs": obs, "start": start})
            close(outputs["action"], want.action["action"], f"{form}: action")
            close(outputs["logits"], want.outputs()["logits"], f"{form}: logits")
        state, start = want.state, torch.zeros_like(start)


def critic_case() -> None:
    """Leaves and memory that only the critic reads are not exported."""
    agent = make_agent("ppo", VECTOR, spaces.Discrete(4), separate_critic=True)
    step, _ = exported(agent, batch=1)
    assert [field.name for field in step.inputs] == ["obs", "start", "state.0"]
    space = spaces.Dict({"seen": VECTOR, "privileged": spaces.Box(-1, 1, (2,))})
    step, _ = exported(make_agent("ppo", space, spaces.Discrete(4)), batch=1)
    assert [field.name for field in step.inputs] == ["obs.seen", "start", "state"]


def encoder_case() -> None:
    """Encoders and statistics are inside of the program; leaves for the critic are no inputs."""
    space = spaces.Dict(
        {
            "camera": NESTED["camera"],
            "wide": spaces.Box(-np.inf, np.inf, ()),
            "cells": spaces.Box(0, 255, (5, 5, 2), np.uint8),
            "privileged": spaces.Box(-1, 1, (3,)),
        }
    )
    for encoder in encoders.names():
        separate = encoder == "default"
        agent = make_agent(
            "ppo", space, spaces.Discrete(4), encoder=encoder, separate_critic=separate
        )
        obs = {
            "obs.camera": torch.randint(256, (ROWS, 24, 24, 3), dtype=torch.uint8),
            "obs.wide": 5000 + 1000 * torch.randn(ROWS),
            "obs.cells": torch.randint(256, (ROWS, 5, 5, 2), dtype=torch.uint8),
        }
        (normalizer,) = normalizers(agent.policy.encoder)
        normalizer.observe({"obs.wide": 4000 + 2000 * torch.randn(100)})
        step, runs = exported(agent)
        given = obs | {"start": torch.ones(ROWS, dtype=torch.bool)}
        state = "state.0" if separate else "state"
        assert {field.name for field in step.inputs} == {*given, state}
        want, _ = agent.act(obs, agent.policy.initial_state(ROWS), given["start"])
        for form, run in runs.items():
            outputs = Memory(step, run, ROWS)(given)
            close(outputs["action"], want["action"], f"{form}: action of {encoder}")


def folded_case() -> None:
    """Weights are folded: the graph computes nothing that its inputs do not change."""
    program, _ = trace(make_agent("ppo", VECTOR, spaces.Discrete(4), core="s5"), True)
    known = set(program.graph_signature.inputs_to_parameters)
    known |= set(program.graph_signature.inputs_to_buffers)
    for node in program.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes:
            assert not known >= {each.name for each in node.all_input_nodes}, node


class Complex(torch.nn.Module):
    """All operations on complex numbers that have a real form."""

    def forward(self, given: Tensors) -> Tensors:
        x, y = (torch.view_as_complex(given[key]) for key in ("x", "y"))
        mask, real_part = given["mask"], x.real
        both = torch.complex(real_part, y.imag) - torch.polar(y.abs(), real_part)
        both = both * y.conj() / x + both.conj_physical() * 2.0 - real_part
        both = torch.where(mask[:, None], both, 0 * both) + (1 + y.reciprocal()).exp()
        moved = torch.cat([both, -x.flip(0).flip(0)], dim=1).unflatten(1, (2, -1)).transpose(0, 1)
        zero = torch.zeros(x.shape[0], 1, dtype=torch.complex64)
        total = (moved.sum(-1).transpose(0, 1) + zero) / 3
        return {"total": torch.view_as_real(total)}


def real_case() -> None:
    """Arithmetic with pairs of real numbers equals that with complex ones."""
    given = {"x": torch.randn(4, 3, 2), "y": torch.randn(4, 3, 2), "mask": torch.rand(4) < 0.5}
    program = torch.export.export(Complex(), (given,))
    form = RealForm(program.module(check_guards=False))
    close(form(given)["total"], Complex()(given)["total"], "the real form")
    real_program = torch.export.export(form, (given,))
    values = [node.meta.get("val") for node in real_program.graph.nodes]
    assert not any(isinstance(x, Tensor) and x.is_complex() for x in values)


def unknown_case() -> None:
    """An operation without a real form is one line."""

    class Unknown(torch.nn.Module):
        def forward(self, given: Tensors) -> Tensors:
            return {"y": torch.view_as_real(torch.view_as_complex(given["x"]).sinh())}

    given = {"x": torch.randn(4, 2)}
    form = RealForm(torch.export.export(Unknown(), (given,)).module(check_guards=False))
    with pytest.raises(UsageError, match=r"aten.sinh.default on complex numbers has no real form"):
        form(given)


def missing_case() -> None:
    """An operation that ONNX does not have is one line."""

    @cores.register("spectral")
    class Spectral(cores.MemoryCore[Tensor]):
        def initial_state(self, batch_size: int) -> Tensor:
            return self.zeros(batch_size, 1)

        def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            return torch.special.bessel_j0(x), state

    agent = make_agent("ppo", VECTOR, spaces.Discrete(4), core="spectral")
    with pytest.raises(UsageError, match=r"'spectral' uses prims.bessel_j0, which ONNX"):
        agent.export(Path(tempfile.gettempdir()) / "spectral.onnx")


def untouched_case() -> None:
    """An export in the middle of a trial does not change the agent's memory."""
    both = [make_agent("ppo", VECTOR, spaces.Discrete(4), TRIALS) for _ in range(2)]
    for t in range(9):
        obs, reward = VECTOR.sample(), float(t)
        first, second = (agent.act(obs, reward=reward, new_episode=t == 5) for agent in both)
        assert first == second
        assert torch.equal(both[0].state, both[1].state)
        if t == 6:
            trace(both[0], True)


CASES: dict[str, Callable[..., None]] = {
    "core": core_case,
    "any-batch": any_batch_case,
    "algo": algo_case,
    "mask": mask_case,
    "normalized": normalized_case,
    "sampled": sampled_case,
    "critic": critic_case,
    "encoder": encoder_case,
    "folded": folded_case,
    "real": real_case,
    "unknown": unknown_case,
    "missing": missing_case,
    "untouched": untouched_case,
}


def main(cases: list[str]) -> None:
    """Run cases, `KIND` or `KIND:NAME[:OPTION=VALUE]`."""
    torch.set_num_threads(1)
    for case in cases:
        kind, *arguments = case.split(":")
        pairs = (each.split("=") for each in arguments[1:])
        options = {key: int(text) if text.isdecimal() else text for key, text in pairs}
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        began, problem = time.process_time(), ""
        try:
            CASES[kind](*arguments[:1], **options)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"[:1500]
        print(json.dumps([case, problem, time.process_time() - began]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
