"""Wrong arguments of `step` and `scan`: one rule for all cores, and one line."""

from __future__ import annotations

import copy

import pytest
import torch

from rlmem import cores, tree
from rlmem.errors import UsageError
from tests.cores.common import B, T, every_core, make


@every_core
def test_wrong_shapes_are_refused(name):
    core = make(name)
    size, who = core.input_size, type(core).__name__
    state, one = core.initial_state(B), core.initial_state(1)
    x, start = torch.randn(B, size), torch.zeros(B, dtype=torch.bool)
    row, starts = torch.randn(B, T, size), torch.zeros(B, T, dtype=torch.bool)
    wrong = {
        "step": [
            ((x[0], one, start[:1]), rf"x must be \[B, {size}\] with B at least 1, not \[{size}\]"),
            ((x[:, 1:], state, start), rf"x must be \[B, {size}\] .* not \[{B}, {size - 1}\]"),
            ((x[:0], core.initial_state(0), start[:0]), rf"not \[0, {size}\]"),
            ((row, state, start), rf"x must be .* not \[{B}, {T}, {size}\]"),
            ((x, state, start[:, None]), rf"start must be \[B\] = \[{B}\] .* not \[{B}, 1\]"),
            ((x, state, start[:1]), rf"start must be \[B\] = \[{B}\] .* not \[1\]"),
            ((x, state, start.float()), r"of torch.bool, not .* of torch.float32"),
            ((x, state, None), "start must be a tensor, not NoneType"),
            ((x.tolist(), state, start), "x must be a tensor, not list"),
        ],
        "scan": [
            ((row[0], state, starts[0]), rf"x must be \[B, T, {size}\] with B and T at least 1"),
            ((torch.randn(B, T, 1000), state, starts), rf"not \[{B}, {T}, 1000\]"),
            ((row[:0], core.initial_state(0), starts[:0]), rf"not \[0, {T}, {size}\]"),
            ((row[:, :0], state, starts[:, :0]), rf"not \[{B}, 0, {size}\]"),
            ((row, state, starts[..., None]), rf"start must be .* not \[{B}, {T}, 1\]"),
            ((row, state, starts[:, :1]), rf"start must be \[B, T\] = \[{B}, {T}\] .* not"),
            ((row, state, starts[0]), rf"start must be .* not \[{T}\]"),
            ((row, state, starts.long()), "of torch.int64"),
            ((row, state, None), "start must be a tensor, not NoneType"),
        ],
    }
    for method, calls in wrong.items():
        for arguments, message in calls:
            with pytest.raises(UsageError, match=message) as error:
                getattr(core, method)(*arguments)
            assert str(error.value).startswith(f"{who}.{method}: ")
            assert "\n" not in str(error.value)


@every_core
def test_a_state_of_other_rows_or_another_structure_is_refused(name):
    core = make(name)
    state, start = core.initial_state(B), torch.zeros(B, T, dtype=torch.bool)
    x = torch.randn(B, T, core.input_size)
    count = len(list(tree.leaves(state)))
    for other, message in (
        (core.initial_state(1), rf"tensor 0 of the state must be \[{B}, .*, not \[1, "),
        (core.initial_state(B + 1), rf"tensor 0 of the state must be \[{B}, "),
        (tree.map(lambda leaf: leaf[..., None], state), "tensor 0 of the state must be"),
        ((state, state), f"state must have {count} tensors, not {2 * count}"),
        (None, "state must be a tensor or a tuple of tensors, not NoneType"),
    ):
        with pytest.raises(UsageError, match=message):
            core.step(x[:, 0], other, start[:, 0])
        with pytest.raises(UsageError, match=message):
            core.scan(x, other, start)


def test_inputs_of_another_width_read_no_other_memory():
    for name, width in (("gru", 128), ("gru", 100_000), ("lstm", 2_000)):
        core = cores.make(name, input_size=64)
        x, start = torch.randn(4, 10, width), torch.zeros(4, 10, dtype=torch.bool)
        with pytest.raises(ValueError, match=rf"x must be \[B, T, 64\] .* not \[4, 10, {width}\]"):
            core.scan(x, core.initial_state(4), start)


def test_a_core_with_its_own_step_is_checked_too():
    class Own(cores.MemoryCore[torch.Tensor]):
        def initial_state(self, batch_size):
            return self.zeros(batch_size, 1)

        def update(self, x, state):
            return x, state

        def step(self, x, state, start):
            return self.update(x, state)

    core = copy.deepcopy(Own(3))
    with pytest.raises(UsageError, match=r"Own.step: start must be \[B\] = \[2\]"):
        core.step(torch.randn(2, 3), core.initial_state(2), torch.zeros(1, dtype=torch.bool))
