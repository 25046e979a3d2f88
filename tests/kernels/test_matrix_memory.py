"""The matrix memory: its definition, extreme gates, and the requirements on an operator."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from rlmem.kernels import matrix_memory
from rlmem.kernels.matrix_memory import Memory, matrix_memory_reference, ops, torch_form
from tests.kernels.matrix_memory_cases import (
    SETTINGS,
    assert_close,
    fresh,
    leaves,
    make,
    options,
    results,
)

every_setting = pytest.mark.parametrize("name", SETTINGS)
C = torch_form.CHUNK
STARTS = {
    "none": (),
    "first": (0,),
    "inside, two in a row": (3, 4),
    "around a border": (C - 1, C, C + 1),
    "border and last": (C, 2 * C + 4),
    "all": tuple(range(2 * C + 5)),
}


def starts(shape, *at):
    start = torch.zeros(shape[:2], dtype=torch.bool)
    for t in at:
        start[0, t] = True
    return start


def assert_equals_the_definition(problem, name, tolerance=1e-9):
    want = results(matrix_memory_reference, fresh(problem, torch.float64), **options(name))
    assert_close(results(matrix_memory, fresh(problem), **options(name)), want, tolerance)


@pytest.mark.by_day(2)
@every_setting
@pytest.mark.parametrize("at", STARTS.values(), ids=STARTS)
def test_outputs_states_and_gradients(name, at):
    shape = (2, 2 * C + 5, 2, 3, 4)
    assert_equals_the_definition(make(name, shape, starts(shape, *at)), name)


@every_setting
@pytest.mark.parametrize("time", [1, 2, C - 1, C, C + 1, 2 * C])
def test_any_length(name, time):
    assert_equals_the_definition(make(name, (2, time, 1, 2, 3), state=False), name)


@every_setting
def test_the_chunk_size_has_no_effect(name, monkeypatch):
    shape = (1, 23, 2, 3, 2)
    problem = make(name, shape, starts(shape, 4, 9, 10))
    for chunk in (1, 4, 5, 23):
        monkeypatch.setattr(torch_form, "CHUNK", chunk)
        assert_equals_the_definition(problem, name)


@every_setting
def test_gradcheck(name, monkeypatch):
    monkeypatch.setattr(torch_form, "CHUNK", 3)
    shape = (1, 5, 1, 2, 2)
    problem = fresh(make(name, shape, starts(shape, 2)))
    has = [x is not None for x in (*problem[:5], *problem.state)]

    def everything(*given):
        rest = iter(given)
        q, k, v, i, f, *state = (next(rest) if there else None for there in has)
        read = matrix_memory(q, k, v, i, f, Memory(*state), problem.start, **options(name))
        return read.h, *(x for x in read.state if x is not None)

    assert gradcheck(everything, leaves(problem))


@pytest.mark.parametrize("name", [name for name, s in SETTINGS.items() if s.input_gate])
def test_the_stabilizer_has_no_effect_on_results(name):
    """The memory's content is C exp(m): the same content with another m gives the same outputs."""
    settings = options(name) | {"eps": 0.0}
    problem = make(name, (2, 40, 2, 3, 4))
    shift = torch.randn(2, 2, dtype=torch.float64)
    C_, n, m = problem.state
    shrink = torch.exp(-shift)
    other = Memory(
        C_ * shrink[..., None, None], None if n is None else n * shrink[..., None], m + shift
    )
    want = matrix_memory(*problem, **settings).h
    got = matrix_memory(*problem._replace(state=other), **settings).h
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("size", [-50.0, 50.0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_extreme_gates_over_ten_thousand_steps_stay_finite(size, dtype):
    """Gates of +-50, or of alternating signs."""
    shape = (1, 10_000, 2, 4, 4)
    problem = make("mlstm", shape, starts(shape, 5_000), dtype)
    for which in (3, 4):
        sign = torch.where(torch.rand(shape[:3]) < 0.5, -50.0, 50.0)
        gate = sign if size is None else torch.full(shape[:3], size)
        problem = problem._replace(**{("input_gate", "forget_gate")[which - 3]: gate})
    for x in results(matrix_memory, fresh(problem), normalizer="max", eps=1e-6):
        assert x.isfinite().all()


@pytest.mark.parametrize("forget", [-50.0, 50.0])
def test_extreme_gates_are_precise_in_float32(forget):
    """Sums of a chunk's gates reach 1,600; their differences are still precise to 1e-4."""
    problem = make("mlstm", (2, 70, 2, 4, 4), None, torch.float32)
    gate = forget * torch.rand(2, 70, 2)
    problem = problem._replace(input_gate=25 * problem.input_gate, forget_gate=gate)
    want = results(matrix_memory_reference, fresh(problem, torch.float64), **options("mlstm"))
    got = results(matrix_memory, fresh(problem), **options("mlstm"))
    assert_close(got, want, 1e-4)


@every_setting
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_narrower_dtypes(name, dtype, tolerance):
    shape = (2, 70, 2, 8, 8)
    problem = make(name, shape, starts(shape, 20, 33), dtype)
    assert_equals_the_definition(problem, name, tolerance)
    h, state = matrix_memory(*problem, **options(name))
    assert h.dtype == dtype
    assert {x.dtype for x in state if x is not None} == {torch.float32}


@every_setting
def test_values_before_a_start_have_no_effect_after_it(name):
    """In outputs, state and gradients, to the last bit."""
    shape = (1, 2 * C + 5, 2, 3, 4)
    for at in (0, 5, C, C + 3):
        outcomes = []
        start, later = starts(shape, at), slice(at, None)
        problem = make(name, shape, start, torch.float32)
        for past in (problem, make(name, shape, start, torch.float32)):
            mixed = [x if x is None or x.dim() == 1 else x.clone() for x in problem[:5]]
            for x, other in zip(mixed, past[:5], strict=True):
                if x is not None and x.dim() > 1:
                    x[:, :at] = other[:, :at]
            given = fresh(type(problem)(*mixed, past.state, start))
            h, end = matrix_memory(*given, **options(name))
            gradient = torch.autograd.grad(h[:, later].square().sum(), leaves(given))
            assert not any(x[:, :at].any() for x in gradient[:3])
            outcomes.append([h[:, later], *(x[:, later] for x in gradient[:3]), *end])
        for x, y in zip(*outcomes, strict=True):
            assert (x is None and y is None) or torch.equal(x, y)


def test_any_strides():
    shape = (3, 37, 2, 4, 5)
    problem = make("mlstm", shape, starts(shape, 7))

    def strided(x):
        if x is None:
            return None
        return x.transpose(0, 1).contiguous().transpose(0, 1).repeat_interleave(2, -1)[..., ::2]

    other = type(problem)(
        *map(strided, problem[:5]), Memory(*map(strided, problem.state)), strided(problem.start)
    )
    for x, y in zip(
        matrix_memory(*other, **options("mlstm")).state,
        matrix_memory(*problem, **options("mlstm")).state,
        strict=True,
    ):
        torch.testing.assert_close(x, y)


def arguments(name, dtype=torch.float64):
    """Arguments of the operator, not of the public function."""
    shape = (2, 35, 2, 3, 4)
    q, k, v, i, f, state, start = make(name, shape, starts(shape, 3), dtype)
    lf = f if f is not None and f.dim() == 3 else torch.zeros(shape[:3], dtype=torch.float64)
    first = state.C if state.n is None else torch.cat([state.C, state.n[..., None]], -1)
    setting = SETTINGS[name]
    return (q, k, v, i, -lf.abs(), first, state.m, start, setting.normalizer, setting.eps)


@pytest.mark.parametrize("name", ["mlstm", "simple gla"])
def test_opcheck(name):
    given = [
        x.requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x
        for x in arguments(name)
    ]
    torch.library.opcheck(ops.read, tuple(given))
    given = [x.detach() if torch.is_tensor(x) else x for x in given]
    q, k, v, i, lf, _, m0, start, normalizer, eps = given
    saved = ops.read(*given)
    grad_m = None if i is None else torch.randn_like(saved[2])
    back = (torch.randn_like(v), torch.randn_like(saved[1]), grad_m, q, k, v, i, lf, m0, start)
    torch.library.opcheck(ops.read_backward, (*back, *saved, normalizer, eps))


@pytest.mark.parametrize("name", ["mlstm", "simple gla"])
def test_compile_in_one_graph(name):
    """The operator; the public function is compiled with the cores, without shape checks."""
    *tensors, normalizer, eps = arguments(name)

    def read(*given):
        return ops.read(*given, normalizer, eps)[0]

    compiled, outcomes = torch.compile(read, backend="aot_eager", fullgraph=True), []
    for form in (read, compiled):
        given = [
            x.clone().requires_grad_() if x is not None and x.dtype != torch.bool else x
            for x in tensors
        ]
        h = form(*given)
        inputs = [x for x in given if x is not None and x.requires_grad]
        outcomes.append([h, *torch.autograd.grad(h.square().sum(), inputs)])
    assert_close(*outcomes, 1e-12)


@pytest.mark.parametrize("which", [(0,), (3, 4), (0, 1, 2, 3, 4)], ids=str)
def test_vmap(which):
    """Over some arguments; the others are shared."""
    shape = (2, 35, 2, 3, 4)
    many = [make("mlstm", shape) for _ in range(3)]
    mixed = [torch.stack([x[j] for x in many]) if j in which else many[0][j] for j in range(5)]

    def h(*given):
        return matrix_memory(*given, **options("mlstm")).h

    got = torch.vmap(h, tuple(0 if j in which else None for j in range(5)))(*mixed)
    for row in range(3):
        want = h(*(x[row] if j in which else x for j, x in enumerate(mixed)))
        torch.testing.assert_close(got[row], want)


Q, K, V, IN, F = (x.float() for x in make("mlstm", (2, 5, 3, 4, 6))[:5])
STATE = Memory(torch.zeros(2, 3, 4, 6), torch.zeros(2, 3, 4), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        ((Q[0], K, V), {}, r"q must be \[B, T, H, K\], each at least 1, not \[5, 3, 4\]"),
        ((Q[:, :0], K, V), {}, r"each at least 1, not \[2, 0, 3, 4\]"),
        ((Q, K[:, :4], V), {}, r"k must be \[2, 5, 3, 4\], not \[2, 4, 3, 4\]"),
        ((Q, K, V[:1]), {}, r"v must be \[2, 5, 3, 6\], not \[1, 5, 3, 6\]"),
        ((Q, K, V, IN[..., :1]), {}, r"input_gate must be \[2, 5, 3\], not \[2, 5, 1\]"),
        ((Q, K, V, IN, F[0, 0, :2]), {}, r"forget_gate must be \[3\], not \[2\]"),
        ((Q, K, V, IN, F, STATE), {}, r"must have n if and only if there is a normalizer"),
        ((Q, K, V, None, F, STATE), {"normalizer": "max"}, r"only if there is an input gate"),
        ((Q, K, V, IN, F, None, IN > 0), {}, r"start must be \[2, 5\], not \[2, 5, 3\]"),
        ((Q, K, V, IN, F, None, IN[..., 0]), {}, "start must be torch.bool, not torch.float32"),
        ((Q.long(), K, V), {}, "q is torch.int64; allowed are float32"),
        ((Q, K, V.to("meta")), {}, r"on one device, not .*'v': 'meta'"),
        ((Q, K, V), {"forget": "tanh"}, r"forget must be one of .*not 'tanh'"),
        ((Q, K, V), {"normalizer": "min"}, r"normalizer must be one of .*not 'min'"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_arguments_raise_an_error(given, settings, message):
    with pytest.raises(ValueError, match=message):
        matrix_memory(*given, **settings)
