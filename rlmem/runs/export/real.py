"""Graphs for other runtimes: pairs of real numbers for complex ones, and other missing operations.

ONNX has neither complex numbers nor triangular systems of equations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from rlmem.errors import UsageError

aten = torch.ops.aten
# Operations that only move numbers, or treat both parts alike.
MOVES = {
    *(aten._unsafe_view, aten.alias, aten.cat, aten.chunk, aten.clone, aten.contiguous),
    *(aten.detach, aten.expand, aten.expand_as, aten.flatten, aten.flip, aten.lift_fresh_copy),
    *(aten.movedim, aten.neg, aten.permute, aten.reshape, aten.resolve_conj, aten.resolve_neg),
    *(aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.squeeze, aten.stack),
    *(aten.sum, aten.transpose, aten.unbind, aten.unflatten, aten.unsqueeze, aten.view),
    *(aten.zeros_like),
}
FILLS = {aten.zeros, aten.new_zeros}


class Pair(NamedTuple):
    """Real and imaginary part of a complex tensor."""

    re: Tensor
    im: Tensor


def has_complex(node: fx.Node) -> bool:
    """Whether the value of a node in a traced graph is a complex tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_complex()


class RealForm(nn.Module):
    """The graph of a traced module with portable operations; its inputs and outputs are real.

    Raises `UsageError` for an operation on complex numbers that it does not know.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.traced = module
        self.names: dict[str, tuple[str, str]] = {}
        for number, node in enumerate(module.graph.nodes):
            if node.op == "get_attr" and has_complex(node):
                value = fx.graph_module._get_attr(module, str(node.target))
                self.names[str(node.target)] = f"real_{number}", f"imag_{number}"
                for name, part in zip(self.names[str(node.target)], _parts(value), strict=True):
                    self.register_buffer(name, part.clone())

    def forward(self, given: Any) -> Any:
        parts = {key: Pair(*map(self.get_buffer, names)) for key, names in self.names.items()}
        return _Run(self.traced, parts).run(given)


class _Run(fx.Interpreter):
    """Runs a graph with a `Pair` for each complex tensor; `constants` are those of its module."""

    def __init__(self, module: fx.GraphModule, constants: dict[str, Pair]) -> None:
        super().__init__(module)
        self.extra_traceback = False  # an error keeps its one line
        self.constants = constants

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr" and str(n.target) in self.constants:
            return self.constants[str(n.target)]
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.target is torch.ops.higher_order.wrap_with_autocast:
            # Nothing is in half precision here.
            *_, module = args[:5]
            return _Run(module, {}).run(*args[5:])
        if n.target is aten.linalg_solve_triangular.default:
            return _solve_triangular(*args, **kwargs)
        if has_complex(n) or any(isinstance(self.env[each], Pair) for each in n.all_input_nodes):
            return _apply(n.target, args, kwargs)
        return super().run_node(n)


def _apply(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation that reads or returns complex numbers."""
    packet = getattr(target, "overloadpacket", target)
    if packet in FILLS:
        zeros = target(*args, **{**kwargs, "dtype": kwargs["dtype"].to_real()})
        return Pair(zeros, zeros)
    if packet in MOVES:
        parts = [target(*_take(args, i), **_take(kwargs, i)) for i in (0, 1)]
        if isinstance(parts[0], Tensor):
            return Pair(*parts)
        return [Pair(*both) for both in zip(*parts, strict=True)]
    if packet not in RULES or set(kwargs) - {"dtype"}:
        raise UsageError(f"export: the operation {target} on complex numbers has no real form yet")
    return RULES[packet](*args)


def _take(tree: Any, part: int) -> Any:
    """The real (0) or imaginary (1) parts in arguments."""
    if isinstance(tree, Pair):
        return tree[part]
    if isinstance(tree, list | tuple):
        return type(tree)(_take(each, part) for each in tree)
    return {key: _take(each, part) for key, each in tree.items()} if type(tree) is dict else tree


def _parts(value: Tensor) -> tuple[Tensor, Tensor]:
    pair = torch.view_as_real(value.resolve_conj())
    return pair[..., 0], pair[..., 1]


def _pair(x: Any) -> Pair:
    """A real tensor or number as a complex one."""
    if isinstance(x, Pair):
        return x
    return Pair(x, torch.zeros_like(x) if isinstance(x, Tensor) else 0.0)  # type: ignore[arg-type]


def _view_as_complex(x: Tensor) -> Pair:
    return Pair(x.select(-1, 0), x.select(-1, 1))


def _add(x: Any, y: Any) -> Pair:
    x, y = _pair(x), _pair(y)
    return Pair(x.re + y.re, x.im + y.im)


def _sub(x: Any, y: Any) -> Pair:
    x, y = _pair(x), _pair(y)
    return Pair(x.re - y.re, x.im - y.im)


def _mul(x: Any, y: Any) -> Pair:
    if not isinstance(x, Pair):
        x, y = y, x
    if not isinstance(y, Pair):
        return Pair(x.re * y, x.im * y)
    return Pair(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re)


def _div(x: Any, y: Any) -> Pair:
    if not isinstance(y, Pair):
        return Pair(x.re / y, x.im / y)
    size = y.re * y.re + y.im * y.im
    return _mul(x, Pair(y.re / size, -y.im / size))


def _where(mask: Tensor, x: Any, y: Any) -> Pair:
    x, y = _pair(x), _pair(y)
    return Pair(torch.where(mask, x.re, y.re), torch.where(mask, x.im, y.im))


def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * torch.cos(angle), size * torch.sin(angle))


def _exp(x: Pair) -> Pair:
    return _polar(torch.exp(x.re), x.im)


def _solve_triangular(matrix: Tensor, right: Tensor, *, upper: bool, **options: bool) -> Tensor:
    """`matrix^-1 right` for a lower triangular matrix, by forward substitution."""
    if upper or options:
        raise UsageError("export: only lower triangular systems from the left have a portable form")
    rows: list[Tensor] = []
    for n in range(matrix.shape[-1]):
        rest = right[..., n : n + 1, :]
        if rows:
            rest = rest - matrix[..., n : n + 1, :n] @ torch.cat(rows, dim=-2)
        rows.append(rest / matrix[..., n : n + 1, n : n + 1])
    return torch.cat(rows, dim=-2)


RULES: dict[Any, Callable[..., Any]] = {
    aten.view_as_complex: _view_as_complex,
    aten.view_as_real: lambda x: torch.stack(x, dim=-1),
    aten.complex: Pair,
    aten.real: lambda x: x.re,
    aten.imag: lambda x: x.im,
    aten.abs: lambda x: torch.hypot(x.re, x.im),
    aten.conj: lambda x: Pair(x.re, -x.im),
    aten._conj: lambda x: Pair(x.re, -x.im),
    aten.conj_physical: lambda x: Pair(x.re, -x.im),
    aten.add: _add,
    aten.sub: _sub,
    aten.mul: _mul,
    aten.div: _div,
    aten.reciprocal: lambda x: _div(Pair(torch.ones_like(x.re), torch.zeros_like(x.re)), x),
    aten.where: _where,
    aten.polar: _polar,
    aten.exp: _exp,
}
