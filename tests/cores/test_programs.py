"""Cores in torch programs: memory use of a step, compile, export, vmap, copies, saved weights."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from rlmem import tree
from tests.cores.common import (
    NAMES,
    B,
    close,
    data,
    every_core,
    every_device,
    fold,
    identical,
    make,
    run,
    scan,
    states_close,
)


def bytes_held(state) -> int:
    """Bytes of storage that the state holds."""
    return sum(leaf.untyped_storage().nbytes() for leaf in tree.leaves(state))


def bytes_allocated(call) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as p:
        call()
    return sum(max(0, event.self_cpu_memory_usage) for event in p.events())


@every_core
def test_memory_use_of_a_step_is_constant_in_time(name):
    core = make(name).eval()
    state, used = core.initial_state(B), {}
    x, start = torch.randn(B, core.input_size), torch.zeros(B, dtype=torch.bool)
    with torch.no_grad():
        for t in range(1, 131):
            if t in (2, 130):
                used[t] = bytes_allocated(lambda state=state: core.step(x, state, start))
            _, state = core.step(x, state, start)
            if t == 2:
                held = bytes_held(state)
    assert used[2] > 0
    assert used[130] <= used[2]
    assert bytes_held(state) == held


@every_core
def test_a_state_does_not_hold_the_memory_of_its_row(name):
    core = make(name)
    with torch.no_grad():
        x, start = torch.randn(B, 50, core.input_size), torch.zeros(B, 50, dtype=torch.bool)
        _, state = core.scan(x, core.initial_state(B), start)
    size = sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(state))
    assert bytes_held(state) <= size


def problems(program, names, *arguments):
    """The problems that `program` finds in `step` and `scan` of the cores `names`.

    It runs in a separate process: the shape checks of the tests cannot be traced.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments, *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = dict(json.loads(line) for line in done.stdout.splitlines() if line[:1] == "[")
    assert {key.split(".")[0] for key in results} == set(names)
    return {key: problem for key, problem in results.items() if problem}


COMPILE = """
import json, sys, torch
from tests.cores.common import make, data
dtype = getattr(torch, sys.argv[2])
for name in sys.argv[3:]:
    core = make(name).to(dtype)
    x, state, start = data(core, time=5)
    first = (x[:, 0], state, start[:, 0])
    for method, run, args in (("scan", core.scan, (x, state, start)), ("step", core.step, first)):
        torch._dynamo.reset()
        # The operators are in `scan`; `step` is plain torch.
        backend = "eager" if method == "step" and sys.argv[1] == "aot_eager" else sys.argv[1]
        try:
            compiled = torch.compile(run, fullgraph=True, backend=backend)
            y, _ = compiled(*args)
            y.sum().backward()
            want, _ = run(*args)
            error = (y - want).abs().max().item()
            limit = 1e-4 if dtype == torch.float32 else 0.1 * want.abs().max()
            problem = "" if error < limit else f"off by {error}"
        except Exception as e:
            problem = f"{type(e).__name__}: {e}"[:1500]
        print(json.dumps([f"{name}.{method}", problem]), flush=True)
"""


@pytest.mark.parametrize(
    ("backend", "dtype", "names"),
    [
        ("aot_eager", "float32", NAMES),
        ("aot_eager", "bfloat16", ["gru", "titans"]),
        ("inductor", "float32", ["lru"]),
    ],
)
def test_compile_traces_step_and_scan_as_one_graph(backend, dtype, names):
    assert not problems(COMPILE, names, backend, dtype)


EXPORT = """
import json, sys, torch
from rlmem import tree
from tests.cores.common import make, warm_state

class Call(torch.nn.Module):
    def __init__(self, core, method):
        super().__init__()
        self.core, self.method = core, method
    def forward(self, x, state, start):
        return getattr(self.core, self.method)(x, state, start)

def given(core, method, rows):
    x, start = torch.randn(rows, 5, core.input_size), torch.rand(rows, 5) < 0.4
    x, start = (x, start) if method == "scan" else (x[:, 0], start[:, 0])
    return x, warm_state(core, rows), start

def problem(name, method):
    core = make(name).eval()
    example, batch = given(core, method, 3), {0: torch.export.Dim("batch")}
    shapes = (batch, tree.map(lambda _: batch, example[1]), batch)
    exported = torch.export.export(Call(core, method), example, dynamic_shapes=shapes)
    for rows in (3, 1, 7):
        arguments = given(core, method, rows)
        got, want = exported.module()(*arguments), getattr(core, method)(*arguments)
        torch.testing.assert_close(list(tree.leaves(got)), list(tree.leaves(want)))

for name in sys.argv[2:]:
    for method in sys.argv[1].split(","):
        try:
            found = problem(name, method)
        except Exception as e:
            found = f"{type(e).__name__}: {e}"[:1500]
        print(json.dumps([f"{name}.{method}", found]), flush=True)
"""


# One core for each operator whose form depends on the shape.
SCANS = ["deltanet", "ffm", "gru", "mlstm", "s6", "transformer_xl"]


@pytest.mark.parametrize(("method", "names"), [("step", NAMES), ("scan", SCANS)])
def test_exported_programs_take_any_number_of_rows(method, names):
    assert not problems(EXPORT, names, method)


def checkpointed(method):
    """`method` without stored activations: the backward computes it again."""
    return lambda *arguments: checkpoint(method, *arguments, use_reentrant=False)


@every_core
@pytest.mark.parametrize("method", [scan, fold])
def test_checkpointing_changes_no_gradient(name, method):
    core = make(name)
    given = data(core)
    got, want = (run(how, core, given) for how in (checkpointed(method), method))
    identical(got[:2], want[:2], "outputs and states")
    identical(got.grad_state, want.grad_state, "gradients of the state")
    grads = ([each.grad_x, *each.grad_params.values()] for each in (got, want))
    identical(*grads, "gradients of inputs and parameters")


@every_core
@every_device
def test_vmap_equals_a_loop_over_the_outer_batch(name, device):
    core = make(name, torch.float64, device)
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


@every_core
def test_a_copy_is_equal_and_independent(name):
    core = make(name)
    given = data(core)
    with torch.no_grad():
        want = scan(core, *given)
        twin = copy.deepcopy(core)
        identical(scan(twin, *given), want, "the core and its copy")
        for parameter in twin.parameters():
            parameter.zero_()
        identical(scan(core, *given), want, "the core before and after its copy changed")


@every_core
def test_saved_weights_restore_the_core(name, tmp_path):
    core, other = make(name), make(name)
    given = data(core)
    torch.save(core.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    with torch.no_grad():
        identical(scan(other, *given), scan(core, *given), "the core and the restored one")
