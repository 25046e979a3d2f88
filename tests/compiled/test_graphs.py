"""Captured functions and steps: new arguments, random numbers, swapped values, counts, shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlmem.compiled import MODES, Graphs, check
from rlmem.compiled.calls import MOST_SHAPES
from rlmem.errors import UsageError
from tests.recorded_graph import RecordedGraph

CPU = torch.device("cpu")


def graphs(lines: list[str] | None = None) -> Graphs:
    return Graphs(CPU, RecordedGraph, [].append if lines is None else lines.append)


def test_the_stand_in_computes_at_replay_alone() -> None:
    graph, x = RecordedGraph(), torch.ones(2)
    graph.capture_begin()
    y = x * 2
    x.add_(1)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        y.sum().item()
    graph.capture_end()
    assert y.isnan().all()
    assert x.tolist() == [1, 1]
    graph.replay()
    assert (y.tolist(), x.tolist()) == ([2, 2], [2, 2])
    graph.replay()
    assert (y.tolist(), x.tolist()) == ([4, 4], [3, 3])


def test_a_captured_function_sees_new_arguments_and_keeps_its_results() -> None:
    call, seen = graphs().call("a function"), []
    assert call is not None
    weight = torch.tensor([1.0, 2.0])

    def function(x: Tensor, scale: float) -> Any:
        seen.append(scale)
        return {"y": weight * x * scale}, (x.sum(),)

    results = []
    for number in range(6):
        weight.fill_(number)  # in place: a graph reads it where it is
        results.append(call(function, torch.full((2,), 10.0 + number), 2.0))
    for number, (y, (total,)) in enumerate(results):
        assert y["y"].tolist() == [2.0 * number * (10 + number)] * 2
        assert total == 2 * (10 + number)
    assert seen == [2.0] * 3  # twice to warm up, once to capture
    # Another constant, or another shape, is another graph.
    assert call(function, torch.ones(2), 3.0)[0]["y"].tolist() == [15, 15]
    assert len(call.entries) == 2


def test_random_numbers_are_those_of_a_run_without_graphs() -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.rand(3) + torch.empty(3).exponential_()

    x, call = torch.arange(3.0), graphs().call("a function")
    assert call is not None
    torch.manual_seed(1)
    expected = [function(x) for _ in range(6)]
    state = torch.get_rng_state()
    torch.manual_seed(1)
    found = [call(function, x) for _ in range(6)]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert torch.equal(torch.get_rng_state(), state)


def test_changing_shapes_are_said_once_and_run_as_before() -> None:
    lines: list[str] = []
    call = graphs(lines).call("a sum")
    assert call is not None
    for size in range(1, MOST_SHAPES + 4):
        assert call(torch.sum, torch.ones(size)) == size
    assert lines == ["no CUDA graph of a sum: its arguments change their shapes"]


def test_an_obstacle_is_said_and_nothing_is_captured() -> None:
    lines: list[str] = []
    assert graphs(lines).steps("a step", "it runs on the host") is None
    assert lines == ["no CUDA graph of a step: it runs on the host"]


class Refused(RecordedGraph):
    """A graph whose second capture fails at its end."""

    def capture_end(self) -> None:
        super().capture_end()
        if "second" in names:
            raise RuntimeError("operation failed due to a previous error during capture")


names: list[str] = []


def test_after_a_failed_capture_no_graph_is_replayed() -> None:
    lines: list[str] = []
    compiler = Graphs(CPU, Refused, lines.append)
    first, second = compiler.call("the first"), compiler.call("the second")
    assert first is not None
    assert second is not None
    x = torch.ones(2)
    for _ in range(4):
        assert first(torch.sum, x) == 2
    names.append("second")
    for _ in range(4):
        assert second(torch.sum, x) == 2
    names.clear()
    before = RecordedGraph.replays
    assert first(torch.sum, x) == 2
    assert RecordedGraph.replays == before
    reason = "operation failed due to a previous error during capture"
    assert lines == [f"no CUDA graph of the second: {reason}"]


class Owner:
    """Values that steps swap, list, count and lower."""

    replayable = True
    countdowns = ("left",)

    def __init__(self) -> None:
        self.a, self.b = torch.tensor([1.0]), torch.tensor([2.0])
        self.made: list[Tensor] = []
        self.phase, self.left = 0, 1
        self.total = torch.zeros(1)
        self.refills: Any = torch.zeros(1)

    def step(self) -> None:
        if not self.made:
            base = torch.stack([self.a * 3, self.b * 5])
            self.made = list(base.unbind())
        if self.left == 0:
            self.left = 5
            self.refills = self.refills + 1
        self.left -= 1
        self.total = self.total + self.made.pop() + (7 if self.phase == 2 else 0)
        self.a, self.b = self.b, self.a + 1
        self.phase = (self.phase + 1) % 3


@pytest.mark.parametrize("parts", [[40], [1] * 40, [3, 17, 20]])
def test_captured_steps_change_values_as_steps_do(parts: list[int]) -> None:
    expected, owner = Owner(), Owner()
    steps = graphs().steps("a step")
    assert steps is not None
    before = RecordedGraph.replays
    for count in parts:
        for _ in range(count):
            expected.step()
        steps(owner.step, lambda: owner, lambda _: None, count)
        for name, value in vars(expected).items():
            found = getattr(owner, name)
            same = torch.equal(found, value) if isinstance(value, Tensor) else found == value
            assert same, name
    # 6 kinds of phase and list, each with and without 0 left.
    assert len(steps.recorded) == 12
    assert RecordedGraph.replays > before + 10


def test_the_modes_are_checked() -> None:
    assert [check(mode) for mode in MODES] == list(MODES)
    assert check(None) == "none"
    with pytest.raises(UsageError, match=r"unknown compile 'graph'; did you mean graphs"):
        check("graph")
