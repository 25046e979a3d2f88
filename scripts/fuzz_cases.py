"""Random correct calls of every operator and of every entry point of the C, for `fuzz_kernels`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmem import kernels
from rlmem.kernels import native
from rlmem.kernels.delta_rule import delta_rule_reference
from rlmem.kernels.gated_rnn import CELLS, gated_rnn_reference, tiles
from rlmem.kernels.gated_rnn import c_form as rnn_c
from rlmem.kernels.gated_rnn.newton_gru import gru_parallel
from rlmem.kernels.gated_rnn.reference import step_unchecked
from rlmem.kernels.linear_scan import c_form as scan_c
from rlmem.kernels.linear_scan import linear_scan_reference
from rlmem.kernels.matrix_memory import Memory, matrix_memory_reference
from rlmem.kernels.self_reference import c_form as self_c
from rlmem.kernels.self_reference import self_reference as self_ref
from rlmem.kernels.self_reference import self_reference_reference
from rlmem.kernels.short_conv import c_form as conv_c
from rlmem.kernels.short_conv.reference import short_conv_reference
from rlmem.kernels.simple_rnn import CELLS as SIMPLE
from rlmem.kernels.simple_rnn import c_form as simple_c
from rlmem.kernels.simple_rnn import simple_rnn as simple
from rlmem.kernels.simple_rnn import simple_rnn_reference
from rlmem.kernels.titans import Learned, Rates, Rule, titans_reference
from rlmem.kernels.window_attention import window_attention_reference

Tensors = dict[str, Tensor]


class Case(NamedTuple):
    """A correct call: `run(tensors)` of the operator and of its definition (None: not compared).

    Sizes are distinct, so that a changed one is wrong, except for the dimensions in `free`; there,
    -1 means that dimensions may be added or dropped. `dtypes` are also allowed.
    """

    run: Callable[[Tensors], Any]
    reference: Callable[[Tensors], Any] | None
    tensors: Tensors
    free: Collection[tuple[str, int]] = ()
    dtypes: Collection[torch.dtype] = ()


def floats(rng: Random) -> Callable[..., Tensor]:
    """A maker of random tensors of one dtype, drawn once."""
    dtype = rng.choice([torch.float32, torch.float64])
    return lambda *shape: torch.randn(shape, dtype=dtype)


def flags(*shape: int) -> Tensor:
    return torch.rand(shape) < 0.3


def both(operator: Callable[..., Any], reference: Callable[..., Any], *fixed: Any, **options: Any):
    """The operator and its definition as functions of named tensors, in the order of the names."""

    def bind(function: Callable[..., Any]) -> Callable[[Tensors], Any]:
        return lambda given: function(*fixed, *given.values(), **options)

    return bind(operator), bind(reference)


def linear_scan(rng: Random) -> Case:
    B, T, D = rng.sample(range(3, 10), 3)
    make = floats(rng)
    if rng.random() < 0.4:
        real = make
        make = lambda *shape: torch.complex(real(*shape), real(*shape))  # noqa: E731
    gate = make(D) if rng.random() < 0.4 else make(B, T, D)
    run = both(kernels.linear_scan, linear_scan_reference, reverse=rng.random() < 0.3)
    tensors = {"gate": gate, "value": make(B, T, D), "h0": make(B, D), "start": flags(B, T)}
    # A gate may be broadcast to the value's shape.
    return Case(*run, tensors, [("gate", -1)], [torch.complex64])


def matrix_memory(rng: Random) -> Case:
    B, T, H, K, V = rng.sample(range(2, 10), 5)
    make = floats(rng)
    gates, norm = rng.random() < 0.5, rng.choice(["none", "max", "max"])
    tensors = {"q": make(B, T, H, K), "k": make(B, T, H, K), "v": make(B, T, H, V)}
    tensors["forget"] = make(B, T, H) if gates or rng.random() < 0.5 else -make(H).abs()
    tensors |= {"input": make(B, T, H), "m": make(B, H)} if gates else {}
    tensors |= {"C": make(B, H, K, V), "start": flags(B, T)}
    tensors |= {} if norm == "none" else {"n": make(B, H, K)}
    forget = "sigmoid" if gates or rng.random() < 0.5 else "exponential"

    def bind(function: Callable[..., Any]) -> Callable[[Tensors], Any]:
        def run(x: Tensors) -> Any:
            memory = Memory(x["C"], x.get("n"), x.get("m"))
            row = x["q"], x["k"], x["v"], x.get("input"), x["forget"], memory, x["start"]
            h, (C, n, m) = function(*row, forget=forget, normalizer=norm)
            return [each for each in (h, C, n, m) if each is not None]

        return run

    return Case(bind(kernels.matrix_memory), bind(matrix_memory_reference), tensors)


def delta_rule(rng: Random) -> Case:
    B, T, H, K, V, N = rng.sample(range(2, 10), 6)
    make, several = floats(rng), (N,) if rng.random() < 0.5 else ()
    tensors = {"q": make(B, T, H, K), "k": make(B, T, *several, H, K) * 0.3}
    tensors |= {"v": make(B, T, *several, H, V), "beta": make(B, T, *several, H).sigmoid()}
    tensors |= {"g": -make(B, T, H).abs(), "state": make(B, H, K, V), "start": flags(B, T)}
    return Case(*both(kernels.delta_rule, delta_rule_reference), tensors)


def gated_rnn(rng: Random) -> Case:
    B, T, H, D = rng.sample(range(2, 10), 4)
    make, cell = floats(rng), rng.choice(list(CELLS))
    total, step = CELLS[cell].gates * D, rng.random() < 0.3
    lead = (B, H) if step else (B, T, H)
    tensors = {"projected": make(*lead, total), "weight": make(H, D, total) * 0.3}
    tensors["bias"] = make(H, 4 * D)
    # The sLSTM divides by its third state.
    tensors |= {f"state{i}": make(B, H, D).abs() + 0.1 for i in range(CELLS[cell].states)}
    tensors |= {} if step else {"start": flags(B, T)}

    def bind(function: Callable[..., Any]) -> Callable[[Tensors], Any]:
        def run(x: Tensors) -> Any:
            state = tuple(each for name, each in x.items() if name.startswith("state"))
            start = () if step else (x["start"],)
            return function(cell, x["projected"], x["weight"], x["bias"], state, *start)

        return run

    if step:
        half = (torch.float16,)
        return Case(bind(kernels.gated_step), bind(step_unchecked), tensors, dtypes=half)
    return Case(bind(kernels.gated_rnn), bind(gated_rnn_reference), tensors)


def simple_rnn(rng: Random) -> Case:
    B, T, D = rng.sample(range(2, 10), 3)
    make, cell = floats(rng), rng.choice(list(SIMPLE))
    kind = SIMPLE[cell]
    tensors = {"projected": make(B, T, kind.parts * D)}
    shape = (kind.diagonals * D,) if kind.diagonals else (D, kind.parts * D)
    tensors["weight"] = 0.3 * make(*shape)
    tensors |= {f"state{i}": make(B, D) for i in range(kind.states)} | {"start": flags(B, T)}

    def bind(function: Callable[..., Any]) -> Callable[[Tensors], Any]:
        def run(x: Tensors) -> Any:
            state = tuple(each for name, each in x.items() if name.startswith("state"))
            return function(cell, x["projected"], x["weight"], state, x["start"])

        return run

    return Case(bind(simple), bind(simple_rnn_reference), tensors)


def parallel_gru(rng: Random) -> Case:
    B, T, D = rng.sample(range(2, 7), 3)
    tensors = {"projected": torch.randn(B, T, 3 * D), "weight": torch.randn(3 * D, D) * 0.3}
    tensors |= {"bias": torch.randn(3 * D), "h0": torch.rand(B, D), "start": flags(B, T)}

    def reference(x: Tensors) -> Tensor:
        bias = torch.cat([x["bias"][: 2 * D], x["bias"].new_zeros(D), x["bias"][2 * D :]])
        given = x["projected"][:, :, None], x["weight"].t()[None], bias[None]
        return gated_rnn_reference("gru", *given, (x["h0"][:, None],), x["start"])[0][:, :, 0]

    diagonal = rng.random() < 0.5
    run = lambda x: gru_parallel(*x.values(), diagonal=diagonal).h  # noqa: E731
    return Case(run, reference, tensors)


def project(rng: Random) -> Case:
    make = floats(rng)
    if rng.random() < 0.3:  # large enough for the C
        rows, time, inputs, outputs = rng.choice([(8, 40, 32, 512), (64, 33, 37, 64)])
    else:
        rows, time, inputs, outputs = rng.sample(range(2, 10), 4)
    tensors = {"x": make(rows, time, inputs), "weight": make(outputs, inputs)}
    free = [("x", -1), ("x", 0), ("x", 1), ("weight", 0)]
    return Case(*both(kernels.project, lambda x, weight: x @ weight.t()), tensors, free)


def short_conv(rng: Random) -> Case:
    B, T, D = rng.sample(range(2, 10), 3)
    make, W = floats(rng), rng.randint(1, 5)
    tensors = {"x": make(B, T, D), "weight": make(D, W), "bias": make(D)}
    tensors |= {"window": make(B, W - 1, D), "start": flags(B, T)}
    return Case(*both(kernels.short_conv, short_conv_reference), tensors)


def titans(rng: Random) -> Case:
    B, T, H, D, V, E = rng.sample(range(2, 8), 6)
    make, layers, window = floats(rng), rng.choice([1, 2]), rng.choice([1, 3])
    rule = Rule(rng.randint(1, 4), 4.0, bias=rng.choice(["l2", "huber"]), window=window)
    sizes = [(D, V)] if layers == 1 else [(D, E), (E, V)]
    tensors = {"q": make(B, T, H, D), "k": make(B, T, H, D) * 0.5, "v": make(B, T, H, V)}
    tensors |= {name: make(B, T, H).sigmoid() * 0.5 for name in Rates._fields}
    tensors |= {f"first{i}": make(H, *size) * 0.3 for i, size in enumerate(sizes)}
    for kind in Learned._fields[:3]:
        tensors |= {f"{kind}{i}": make(B, H, *size) * 0.3 for i, size in enumerate(sizes)}
    tensors |= {"age": torch.randint(window, 9, (B,)), "start": flags(B, T)}
    tensors |= {} if window == 1 else {"recent": make(B, window - 1, H, D + V + 2) * 0.3}

    def bind(function: Callable[..., Any]) -> Callable[[Tensors], Any]:
        def run(x: Tensors) -> Any:
            def matrices(kind: str) -> tuple[Tensor, ...]:
                return tuple(x[f"{kind}{i}"] for i in range(layers))

            kinds = (matrices(kind) for kind in Learned._fields[:3])
            state = Learned(*kinds, x["age"], x.get("recent", ()))
            rates = Rates(*(x[name] for name in Rates._fields))
            row = x["q"], x["k"], x["v"], rates, matrices("first")
            y, after = function(*row, state, x["start"], rule)
            return y, after.weight, after.momentum, after.anchor

        return run

    half = (torch.float16,)
    return Case(bind(kernels.titans), bind(titans_reference), tensors, dtypes=half)


def window_attention(rng: Random) -> Case:
    B, T, H, D, E, M = rng.sample(range(2, 10), 6)
    make, past = floats(rng), rng.choice([0, M, M])
    tensors = {"query": make(B, T, H, D), "key": make(B, past + T, H, D)}
    tensors |= {"value": make(B, past + T, H, E), "alive": flags(B, past), "start": flags(B, T)}
    if rng.random() < 0.5:
        tensors |= {"position_query": make(B, T, H, D), "relative": make(past + 1, H, D)}
    run = both(kernels.window_attention, window_attention_reference)
    return Case(*run, tensors, [("value", 3)], [torch.float16])


def self_reference(rng: Random) -> Case:
    B, T, H, D = rng.sample(range(2, 8), 4)
    make, R = floats(rng), 2 * D + 4 + rng.randint(1, 5)
    tensors = {"x": make(B, T, H, D), "weight": make(H, R, D), "change": make(B, H, R, D)}
    tensors["start"] = flags(B, T)
    return Case(*both(self_ref, self_reference_reference), tensors, [("weight", 1), ("change", 2)])


def c_linear_scan(rng: Random) -> Case:
    B, T, D = rng.sample(range(2, 10), 3)
    make = floats(rng)
    gate = make(D) if rng.random() < 0.4 else make(B, T, D)
    rest = {"h0": make(B, D), "start": flags(B, T)}
    if rng.random() < 0.5:
        forward = lambda x: scan_c.forward(*x.values(), False)  # noqa: E731
        return Case(forward, None, {"gate": gate, "value": make(B, T, D)} | rest)
    tensors = {"grad": make(B, T, D), "gate": gate, "h": make(B, T, D)} | rest
    return Case(lambda x: scan_c.backward(*x.values(), False), None, tensors)


def c_short_conv(rng: Random) -> Case:
    B, T, D = rng.sample(range(2, 10), 3)
    make, W = floats(rng), rng.randint(1, 4)
    x, weight, rest = make(B, T, D), make(D, W), {"window": make(B, W - 1, D), "start": flags(B, T)}
    if rng.random() < 0.5:
        tensors = {"x": x, "weight": weight, "bias": make(D)} | rest
        return Case(lambda x: conv_c.forward(*x.values()), None, tensors)
    tensors = {"grad": make(B, T, D), "x": x, "weight": weight} | rest
    return Case(lambda x: conv_c.backward(*x.values()), None, tensors)


def c_gated_rnn(rng: Random) -> Case:
    B, T, H, D = rng.sample(range(5, 10), 4)
    make, cell = floats(rng), rng.choice(list(CELLS))
    total, S = CELLS[cell].gates * D, CELLS[cell].states
    weight, state, start = make(H, D, total), make(B, S, H, D), flags(B, T)
    if rng.random() < 0.5:
        tensors = {"projected": make(B, T, H, total), "weight": weight, "bias": make(H, 4 * D)}
        tensors |= {"state": state, "start": start}
        return Case(lambda x: rnn_c.forward(cell, *x.values(), True), None, tensors)
    tensors = {"grad_h": make(B, T, H, D), "grad_last": make(B, S, H, D), "weight": weight}
    tensors |= {"state": state, "start": start, "h": make(B, T, H, D)}
    tensors |= {"activations": make(B, T, H, 4 * D)}
    tensors |= {"saved": make(B, T, H, (S - 1) * D)}
    return Case(lambda x: rnn_c.backward(cell, *x.values()), None, tensors)


def c_self_reference(rng: Random) -> Case:
    B, T, H, D = rng.sample(range(2, 8), 4)
    make, Y = floats(rng), rng.randint(1, 5)
    x, weight, start = make(B, T, H, D), make(H, Y + 2 * D + 4, D), flags(B, T)
    change = make(B, *weight.shape)
    if rng.random() < 0.5:
        tensors = {"x": x, "weight": weight, "change": change, "start": start}
        return Case(lambda x: self_c.forward(*x.values()), None, tensors)
    tensors = {"grad_y": make(B, T, H, Y), "grad_change": change, "x": x, "weight": weight}
    tensors |= {"start": start, "kept": make(B, -(-T // 16), *weight.shape)}
    return Case(lambda x: self_c.backward(*x.values()), None, tensors)


def c_simple_rnn(rng: Random) -> Case:
    B, T, D = rng.sample(range(2, 10), 3)
    make, cell = floats(rng), rng.choice(["paragru", "paralstm"])
    kind = SIMPLE[cell]
    projected, weight = make(B, T, 3 * D), make(kind.diagonals * D)
    state, states = make(B, kind.states * D), make(B, T, kind.states * D)
    tensors = {"projected": projected, "weight": weight, "state": state, "start": flags(B, T)}
    if rng.random() < 0.5:
        return Case(lambda x: simple_c.forward(cell, *x.values(), 1.0), None, tensors)
    tensors = {"grad": states.clone()} | tensors | {"states": states}
    return Case(lambda x: simple_c.backward(cell, *x.values(), 1.0), None, tensors)


def c_product(rng: Random) -> Case:
    make, rows = floats(rng), 1301
    x = make(rows, 67)
    if rng.random() < 0.5:
        return Case(
            lambda x: tiles.times(*x.values()),
            None,
            {"x": x, "weight": make(64, 67)},
            [("x", 0), ("weight", 0)],
        )
    run = lambda x: tiles.gram(*x.values())  # noqa: E731
    return Case(run, None, {"x": x, "y": make(rows, 64)}, [("x", 1), ("y", 1)])


OPERATORS = {
    "linear_scan": linear_scan,
    "matrix_memory": matrix_memory,
    "delta_rule": delta_rule,
    "gated_rnn": gated_rnn,
    "gru_parallel": parallel_gru,
    "project": project,
    "self_reference": self_reference,
    "short_conv": short_conv,
    "simple_rnn": simple_rnn,
    "titans": titans,
    "window_attention": window_attention,
}
ENTRIES = {
    "C linear_scan": c_linear_scan,
    "C short_conv": c_short_conv,
    "C gated_rnn": c_gated_rnn,
    "C products": c_product,
    "C self_reference": c_self_reference,
    "C simple_rnn": c_simple_rnn,
}
CASES = OPERATORS | (ENTRIES if native.AVAILABLE else {})
