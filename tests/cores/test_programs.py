"""Cores in torch programs: memory use of a step, compile, export, vmap, copies, saved weights."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from rlmem import tree
from tests.cores.common import (
    NAMES,
    B,
    close,
    data,
    every_core,
    every_device,
    identical,
    make,
    scan,
    some_starts,
    states_close,
    warm_state,
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


COMPILE = """
import json, sys, torch
from tests.cores.common import make, data
for name in sys.argv[2:]:
    core = make(name)
    x, state, start = data(core, time=5)
    first = (x[:, 0], state, start[:, 0])
    for method, run, args in (("scan", core.scan, (x, state, start)), ("step", core.step, first)):
        torch._dynamo.reset()
        try:
            compiled = torch.compile(run, fullgraph=True, backend=sys.argv[1])
            y, _ = compiled(*args)
            y.sum().backward()
            want, _ = run(*args)
            error = (y - want).abs().max().item()
            problem = "" if error < 1e-4 else f"off by {error}"
        except Exception as e:
            problem = f"{type(e).__name__}: {e}"[:1500]
        print(json.dumps([f"{name}.{method}", problem]), flush=True)
"""


@pytest.mark.parametrize(("backend", "names"), [("aot_eager", NAMES), ("inductor", ["lru"])])
def test_compile_traces_step_and_scan_as_one_graph(backend, names):
    # In a separate process: the shape checks of the tests cannot be traced.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, backend, *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = dict(json.loads(line) for line in done.stdout.splitlines() if line[:1] == "[")
    assert len(results) == 2 * len(names)
    assert not {key: problem for key, problem in results.items() if problem}


class Step(nn.Module):
    """A module whose forward is a core's `step`, for `torch.export`."""

    def __init__(self, core) -> None:
        super().__init__()
        self.core = core

    def forward(self, x, state, start):
        return self.core.step(x, state, start)


@every_core
def test_step_can_be_exported(name):
    core = make(name).eval()
    x, state, start = torch.randn(B, core.input_size), warm_state(core, B), some_starts("cpu", 1)
    given = (x, state, start[:, 0])
    program = torch.export.export(Step(core), given).module()
    y, final = program(*given)
    want, want_final = core.step(*given)
    close(y, want, 1e-6, "outputs")
    states_close(final, want_final, 1e-6)


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
