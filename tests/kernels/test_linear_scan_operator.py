"""The linear scan as an operator: dtypes, error messages, tracing, vmap, memory use."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from rlmem.kernels import linear_scan, native
from rlmem.kernels.linear_scan import c_form, linear_scan_reference, ops, torch_form
from tests.warm_python import warm_python

ROWS, TIME, CHANNELS = SHAPE = (2, 6, 3)


@pytest.mark.parametrize(
    "shape",
    [(), (1,), (3,), (6, 1), (6, 3), (1, 3), (1, 1, 3), (2, 1, 1), (1, 6, 3), (2, 1, 3), (2, 6, 1)],
    ids=str,
)
def test_a_gate_of_any_broadcastable_shape(shape: tuple[int, ...]) -> None:
    gate = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    value = torch.randn(SHAPE, dtype=torch.float64)
    got, want = linear_scan(gate, value), linear_scan_reference(gate, value)
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(h.pow(2).sum(), gate)[0] for h in (got, want)]
    assert grads[0].shape == shape
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("gate", "value", "h0", "result"),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, None, torch.float32),
        (torch.float32, torch.complex64, None, torch.complex64),
        (torch.complex64, torch.float32, torch.float32, torch.complex64),
        (torch.float64, torch.complex64, None, torch.complex128),
        (torch.bfloat16, torch.bfloat16, torch.complex64, torch.complex64),
    ],
)
def test_mixed_dtypes_are_promoted(
    gate: torch.dtype, value: torch.dtype, h0: torch.dtype | None, result: torch.dtype
) -> None:
    a = torch.randn(CHANNELS).to(gate).requires_grad_()
    v = torch.randn(SHAPE).to(value).requires_grad_()
    state = None if h0 is None else torch.randn(ROWS, CHANNELS, dtype=h0)
    h = linear_scan(a, v, state)
    assert h.dtype == result
    torch.testing.assert_close(h, linear_scan_reference(a, v, state), check_dtype=False)
    h.abs().sum().backward()
    assert (a.grad.dtype, v.grad.dtype) == (gate, value)


GATE, VALUE, H0 = torch.rand(SHAPE), torch.randn(SHAPE), torch.randn(ROWS, CHANNELS)
START = torch.zeros(ROWS, TIME, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GATE[0], VALUE[0]), r"value must be \[B, T, D\], each at least 1, not \[6, 3\]"),
        ((GATE[:, :0], VALUE[:, :0]), r"each at least 1, not \[2, 0, 3\]"),
        ((GATE[..., :2], VALUE), r"gate must be \[D\] = \[3\] or broadcast .* not \[2, 6, 2\]"),
        ((GATE[:, :4], VALUE), r"broadcast to value's \[2, 6, 3\], not \[2, 4, 3\]"),
        ((GATE[None], VALUE), r"not \[1, 2, 6, 3\]"),
        ((GATE, VALUE, H0[:1]), r"h0 must be \[2, 3\], not \[1, 3\]"),
        ((GATE, VALUE, H0, START[:, :4]), r"start must be \[2, 6\], not \[2, 4\]"),
        ((GATE, VALUE, H0, START.float()), "start must be torch.bool, not torch.float32"),
        ((GATE.half(), VALUE), r"gate is torch.float16; allowed are float32, .*complex128"),
        ((GATE, VALUE.long()), r"value is torch.int64; allowed are"),
        ((GATE, VALUE, H0.long()), r"h0 is torch.int64; allowed are"),
        ((GATE.to("meta"), VALUE), r"one device, not .*'gate': 'meta', 'value': 'cpu'"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_arguments_raise_an_error(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_scan(*arguments)


@pytest.mark.by_day(2)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_opcheck(constant: bool, reverse: bool, dtype: torch.dtype) -> None:
    gate, h0 = torch.rand(CHANNELS if constant else SHAPE), torch.randn(ROWS, CHANNELS)
    gate, value, h, grad_h = (x.to(dtype).requires_grad_() for x in (gate, *torch.randn(3, *SHAPE)))
    h0 = h0.to(dtype).requires_grad_()
    start = torch.rand(ROWS, TIME) < 0.3
    for first, starts in [(h0, start), (None, None)]:
        torch.library.opcheck(ops.scan, (gate, value, first, starts, reverse))
        needs = (True, True, first is not None)
        arguments = (grad_h, gate, h, first, starts, reverse, *needs)
        torch.library.opcheck(ops.scan_backward, arguments)
    arguments = (grad_h, gate, None, None, start, reverse, False, True, False)
    torch.library.opcheck(ops.scan_backward, arguments)


@pytest.mark.parametrize("mapped", ["gate", "value", "h0", "start", "all"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_vmap(mapped: str, constant: bool, reverse: bool) -> None:
    """Over single arguments and all at once; outputs and gradients."""
    size = 4
    shapes = {
        "gate": (CHANNELS,) if constant else SHAPE,
        "value": SHAPE,
        "h0": (ROWS, CHANNELS),
        "start": (ROWS, TIME),
    }
    dims = tuple(1 if mapped in (name, "all") else None for name in shapes)
    sizes = [
        s if d is None else (s[0], size, *s[1:]) for s, d in zip(shapes.values(), dims, strict=True)
    ]
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in sizes[:3]]
    start = torch.rand(sizes[3]) < 0.3

    def scan(gate: Tensor, value: Tensor, h0: Tensor, start: Tensor) -> Tensor:
        return linear_scan(gate, value, h0, start, reverse=reverse)

    got = torch.vmap(scan, dims)(*leaves, start)
    examples = [
        [x if d is None else x.select(d, i) for x, d in zip((*leaves, start), dims, strict=True)]
        for i in range(size)
    ]
    want = torch.stack([linear_scan_reference(*x, reverse=reverse) for x in examples])
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    grads = [torch.autograd.grad((h * weight).sum(), leaves) for h in (got, want)]
    torch.testing.assert_close(*grads)


def test_vmap_of_the_backward() -> None:
    """Many gradients at once, as with torch.autograd.grad(is_grads_batched=True)."""
    for gate in (torch.rand(CHANNELS, requires_grad=True), torch.rand(SHAPE, requires_grad=True)):
        value = torch.randn(SHAPE, requires_grad=True)
        h, weights = linear_scan(gate, value, None, START), torch.randn(4, *SHAPE)
        got = torch.autograd.grad(
            h, (gate, value), weights, is_grads_batched=True, retain_graph=True
        )
        each = [torch.autograd.grad(h, (gate, value), w, retain_graph=True) for w in weights]
        for g, w in zip(got, zip(*each, strict=True), strict=True):
            torch.testing.assert_close(g, torch.stack(w))
        torch.testing.assert_close(
            torch.autograd.grad(h, gate, weights, is_grads_batched=True)[0], got[0]
        )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(backend: str) -> None:
    """In a new process, because the test session's checks of shape annotations cannot be traced."""
    program = """
import sys, torch
from rlmem.kernels import linear_scan
torch.manual_seed(0)
def layer(gate, value, h0, start):
    return linear_scan(gate.sigmoid(), value * 2, h0, start, reverse=True).tanh()
compiled = torch.compile(layer, fullgraph=True, backend=sys.argv[1])
for time, constant in [(6, True), (6, False), (7, False)]:  # the last one with T as a symbol
    gate = torch.randn(3) if constant else torch.randn(2, time, 3)
    leaves = [x.requires_grad_() for x in (gate, torch.randn(2, time, 3), torch.randn(2, 3))]
    start = torch.rand(2, time) < 0.3
    results = []
    for f in (layer, compiled):
        h = f(*leaves, start)
        results.append([h, *torch.autograd.grad(h.sum(), leaves)])
    torch.testing.assert_close(*results)
"""
    command = [*warm_python(), "-c", program, backend]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


MEMORY, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
linux = pytest.mark.skipif(not MEMORY.exists(), reason="reads the peak of memory from /proc")


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or the maximum since the last reset (VmHWM)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("form", [c_form, torch_form])
def test_results_are_on_the_device_of_the_arguments(
    form: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on torch's default device; also without gradients."""
    monkeypatch.setattr(ops, "_cpu_form", lambda: form)
    shape = (2, native.LARGE // 16, 3)
    value, gate = torch.randn(shape), torch.rand(CHANNELS, requires_grad=True)
    with torch.device("meta"):
        h = linear_scan(gate, value)
        (grad,) = torch.autograd.grad(h, gate, torch.ones_like(h))
    with torch.inference_mode():
        assert torch.equal(linear_scan(gate, value), h)
    assert grad.device == h.device == value.device
    torch.testing.assert_close(h[0, :2, 0], linear_scan_reference(gate, value[:, :2])[0, :, 0])


@linux
@pytest.mark.parametrize(
    ("constant", "needs", "tensors"),
    [(False, (0, 1), 2), (True, (0, 1), 1), (False, (1,), 1), (False, (0,), 1), (True, (0,), 0)],
)
def test_backward_uses_memory_only_for_its_results(
    constant: bool, needs: tuple[int, ...], tensors: int
) -> None:
    """In tensors of value's size: grad_gate and grad_value, each only if requested."""
    shape = (8, 4096, 256)
    gate = torch.rand(shape[-1] if constant else shape)
    leaves = [x.requires_grad_(i in needs) for i, x in enumerate((gate, torch.rand(shape)))]
    h = linear_scan(*leaves)
    grad_h = torch.ones_like(h)
    native.release()  # reuse of kept blocks would hide new memory
    MEMORY.write_text("5")
    before = resident("VmRSS")
    grads = torch.autograd.grad(h, [leaves[i] for i in needs], grad_h)
    growth = (resident("VmHWM") - before) / h.nbytes
    assert len(grads) == len(needs)
    assert growth < tensors + 0.25


def test_an_unneeded_gradient_is_not_computed() -> None:
    gate, value, grad_h = torch.rand(CHANNELS), torch.randn(SHAPE), torch.randn(SHAPE)
    h = linear_scan(gate, value)
    full = ops.scan_backward(grad_h, gate, h, H0, START, False, True, True, True)
    for needs in product([False, True], repeat=3):
        states = (h, H0) if needs[0] else (None, None)
        some = ops.scan_backward(grad_h, gate, *states, START, False, *needs)
        for needed, want, got in zip(needs, full, some, strict=True):
            torch.testing.assert_close(got, want if needed else torch.empty(0))


def test_states_are_saved_only_for_the_gradient_of_the_gate() -> None:
    value = torch.randn(SHAPE, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear_scan(GATE, value, H0, START)
        assert [t.shape for t in kept] == [SHAPE, SHAPE[:2]]
        kept.clear()
        linear_scan(GATE.clone().requires_grad_(), value, H0, START)
        assert [t.shape for t in kept] == [SHAPE, SHAPE, H0.shape, SHAPE[:2]]
