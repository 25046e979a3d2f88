"""Laws about cores in torch programs: memory of a step, compiler, export, vmap, copies, weights."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from rlmem import tree
from rlmem.cores import MemoryCore
from rlmem.testing.law import Subject, law
from rlmem.testing.row_laws import BOTH, How
from rlmem.testing.rows import (
    B,
    close,
    data,
    identical,
    require,
    run,
    scan,
    states_close,
    warm_state,
)


@law()
def memory_use_of_a_step_is_constant_in_time(subject: Subject) -> None:
    core = subject.make().eval()
    state, used = core.initial_state(B), {}
    x = torch.randn(B, core.input_size, device=subject.device)
    start = torch.zeros(B, dtype=torch.bool, device=subject.device)
    held = 0
    with torch.no_grad():
        for t in range(1, 131):
            if t in (2, 130):
                used[t] = _bytes_computed(partial(core.step, x, state, start))
            _, state = core.step(x, state, start)
            if t == 2:
                held = _bytes_held(state)
    require(used[130] <= used[2], f"step 130 uses {used[130]} bytes, step 2 {used[2]}")
    require(_bytes_held(state) == held, "the state grows")


def _bytes_held(state: Any) -> int:
    """Bytes of storage that the state holds."""
    return sum(leaf.untyped_storage().nbytes() for leaf in tree.leaves(state))


class _Results(TorchDispatchMode):
    """Counts the bytes of the results of all operations, views included."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        tensors = (x for x in pytree.tree_leaves(results) if isinstance(x, Tensor))
        self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return results


def _bytes_computed(call: Callable[[], object]) -> int:
    with _Results() as count:
        call()
    return count.bytes


@law()
def a_state_does_not_hold_the_memory_of_its_row(subject: Subject) -> None:
    core = subject.make()
    x = torch.randn(B, 50, core.input_size, device=subject.device)
    start = torch.zeros(B, 50, dtype=torch.bool, device=subject.device)
    with torch.no_grad():
        _, state = core.scan(x, core.initial_state(B), start)
    size = sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(state))
    held = _bytes_held(state)
    require(held <= size, f"the state of {size} bytes keeps {held} alive: clone views of the row")


@law(how=BOTH)
def checkpointing_changes_no_gradient(subject: Subject, how: How) -> None:
    core = subject.make()
    given = data(core)

    def again(*arguments: Any) -> Any:
        """`how` without stored activations: the backward computes it again."""
        return checkpoint(how, *arguments, use_reentrant=False)

    got, want = (run(each, core, given) for each in (again, how))
    identical(got[:2], want[:2], "outputs and states")
    identical(got.grad_state, want.grad_state, "gradients of the state")
    first, second = ([each.grad_x, *each.grad_params.values()] for each in (got, want))
    identical(first, second, "gradients of inputs and parameters")


@law()
def vmap_equals_a_loop_over_the_outer_batch(subject: Subject) -> None:
    core = subject.make(torch.float64)
    many = [data(core) for _ in range(2)]
    x, start = (torch.stack([getattr(each, key) for each in many]) for key in ("x", "start"))
    state = tree.map(lambda *leaf: torch.stack(leaf), *(each.state for each in many))
    y, final = torch.vmap(core.scan)(x, state, start)
    step, stepped = torch.vmap(core.step)(x[:, :, 0], state, start[:, :, 0])
    for i, each in enumerate(many):
        want, want_final = core.scan(*each)
        close(y[i], want, 1e-10, "outputs of scan")
        states_close(tree.map(lambda leaf, i=i: leaf[i], final), want_final, 1e-10)
        want, want_final = core.step(each.x[:, 0], each.state, each.start[:, 0])
        close(step[i], want, 1e-10, "outputs of step")
        states_close(tree.map(lambda leaf, i=i: leaf[i], stepped), want_final, 1e-10)


@law()
def a_copy_is_equal_and_independent(subject: Subject) -> None:
    core = subject.make()
    given = data(core)
    with torch.no_grad():
        want = scan(core, *given)
        twin = copy.deepcopy(core)
        identical(scan(twin, *given), want, "the core and its copy")
        for parameter in twin.parameters():
            parameter.zero_()
        identical(scan(core, *given), want, "the core before and after its copy changed")


@law()
def saved_weights_restore_the_core(subject: Subject) -> None:
    core, other = subject.make(), subject.make()
    given = data(core)
    file = io.BytesIO()
    torch.save(core.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    with torch.no_grad():
        identical(scan(other, *given), scan(core, *given), "the core and the restored one")


@law(traced=True, method=("step", "scan"))
def torch_compile_traces_it_as_one_graph(
    subject: Subject,
    method: str,
    backend: str = "aot_eager",
    dtype: torch.dtype = torch.float32,
) -> None:
    core = subject.make().to(dtype)
    arguments = _arguments(core, method, B)
    torch._dynamo.reset()
    function = getattr(core, method)
    y, _ = torch.compile(function, fullgraph=True, backend=backend)(*arguments)
    y.sum().backward()
    want, _ = function(*arguments)
    error = (y - want).abs().max()
    limit = 1e-4 if dtype == torch.float32 else 0.1 * want.abs().max()
    require(error < limit, f"outputs are off by {error:.1e}")


@law(traced=True, method=("step", "scan"))
def exported_programs_take_any_number_of_rows(subject: Subject, method: str) -> None:
    core = subject.make().eval()
    example, batch = _arguments(core, method, 3), {0: torch.export.Dim("batch")}
    shapes = (batch, tree.map(lambda _: batch, example[1]), batch)
    exported = torch.export.export(_Call(core, method), example, dynamic_shapes=shapes)
    for count in (3, 1, 7):
        arguments = _arguments(core, method, count)
        got, want = exported.module()(*arguments), getattr(core, method)(*arguments)
        torch.testing.assert_close(list(tree.leaves(got)), list(tree.leaves(want)))


def _arguments(core: MemoryCore[Any], method: str, count: int) -> tuple[Tensor, Any, Tensor]:
    """Inputs of `step` or of `scan` for five steps, with warm states."""
    anchor = core._anchor
    x = torch.randn(count, 5, core.input_size, device=anchor.device, dtype=anchor.dtype)
    start = torch.rand(count, 5, device=anchor.device) < 0.4
    x, start = (x, start) if method == "scan" else (x[:, 0], start[:, 0])
    return x, warm_state(core, count), start


class _Call(nn.Module):
    """A method of a core as a module."""

    def __init__(self, core: MemoryCore[Any], method: str) -> None:
        super().__init__()
        self.core, self.method = core, method

    def forward(self, x: Tensor, state: Any, start: Tensor) -> tuple[Tensor, Any]:
        step: tuple[Tensor, Any] = getattr(self.core, self.method)(x, state, start)
        return step
