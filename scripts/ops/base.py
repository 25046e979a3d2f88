"""The description of an operator for the benchmarks and for the report on compiled kernels.

`bind` and `errors` turn a description into a timed function and into errors against float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

Form = Callable[..., Tensor]
Shape = tuple[int, ...]


class Case(NamedTuple):
    """One measurement: `passes` is "forward" or "both"; `dtype` is torch's name of it."""

    op: str
    shape: Shape
    variant: str
    passes: str
    dtype: str = "float32"

    @property
    def itemsize(self) -> int:
        """Bytes per real number of the inputs."""
        return getattr(torch, self.dtype).itemsize


class Inputs(NamedTuple):
    """Arguments of a form (floating ones are differentiated), and the gradient for its result."""

    arguments: tuple[Tensor, ...]
    grad: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """All floating (not complex) tensors in this dtype."""
        arguments = tuple(x.to(dtype) if x.is_floating_point() else x for x in self.arguments)
        return Inputs(
            arguments, self.grad.to(dtype) if self.grad.is_floating_point() else self.grad
        )


class Work(NamedTuple):
    """The minimal memory traffic and computation of a case, for any form."""

    elements: int
    bytes: float
    flops: float


class Op(ABC):
    """An operator: its cases and forms (benchmarks) and its Triton launches (report).

    `gpu_shapes` are the shapes of `gpu_check.py`, most valuable first: rows of reinforcement
    learning, then long rows; `tiny` is the shape of its dry run.
    """

    name: ClassVar[str]
    axes: ClassVar[str]  # the meaning of a shape's numbers, as in "BxTxD"
    shapes: ClassVar[Sequence[Shape]]
    quick: ClassVar[Sequence[Shape]]
    gpu_shapes: ClassVar[Sequence[Shape]] = ()
    tiny: ClassVar[Shape]
    variants: ClassVar[Sequence[str]] = ("float32",)
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32,)  # of the compiled kernels
    tolerance: ClassVar[float] = 1e-2  # of other forms' results, relative and absolute
    apart: ClassVar[Sequence[str]] = ()  # forms that compute something else, for comparison

    @abstractmethod
    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        """All available forms for this case, by name; the first is ours, "rlmem"."""

    @abstractmethod
    def leading(self, case: Case) -> tuple[str, ...]:
        """The first dimensions of each argument.

        "BT" (or M + T steps, with M of the past), "B", or "" for one that all rows share.
        """

    @abstractmethod
    def definition(self, case: Case, form: str) -> Form:
        """The reference, as a function of the arguments of this form."""

    @abstractmethod
    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        """The same numbers for every form, in the layout it needs; not timed."""

    @abstractmethod
    def work(self, case: Case) -> Work:
        """Bytes, with each input read once and each result written once; useful flops."""

    def precisions(self, variant: str) -> tuple[str, ...]:
        """The dtypes of inputs that this variant supports."""
        return "float32", "bfloat16"

    def size(self, shape: Shape) -> int:
        """The number of elements, for `--max-elements`."""
        return prod(shape)

    def modules(self) -> tuple[ModuleType, ModuleType] | None:
        """`triton_form`, which launches `triton_kernels.NAME_kernel[grid](...)`, and that module.

        Imported here, so that the benchmark needs no Triton. None if there are no kernels.
        """
        return None

    def launch(self, dtype: torch.dtype, odd: bool) -> None:
        """Launch the kernels on CPU tensors, so that every configuration for `dtype` is compiled.

        With `odd`, also for sizes that prevent vectorised loads.
        """
        raise NotImplementedError(f"{self.name} has no kernels")

    def describe(
        self, tensors: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[torch.dtype, dict[str, object]]:
        """The dtype and the settings of a launch, from its arguments and constants by name."""
        given = [x for x in tensors.values() if isinstance(x, Tensor)]
        return given[0].dtype, {key.lower(): value for key, value in options.items()}


Run = Callable[[], Tensor]


def prepare(op: Op, case: Case, name: str, device: str) -> Inputs:
    """The inputs of a form, the same numbers at every call, in the dtype of the case."""
    torch.manual_seed(0)
    return op.inputs(case, name, device).to(getattr(torch, case.dtype))


def differentiable(arguments: Sequence[Tensor]) -> list[Tensor]:
    """The arguments that have gradients; they require them from now on."""
    return [x.requires_grad_() for x in arguments if x.is_floating_point() or x.is_complex()]


def bind(op: Op, case: Case, name: str, form: Form, device: str) -> Run:
    """One pass, or both, over prepared inputs; returns the result."""
    arguments, grad = prepare(op, case, name, device)
    if case.passes == "forward":
        return lambda: form(*arguments).detach()
    leaves = differentiable(arguments)

    def both() -> Tensor:
        result = form(*arguments)
        torch.autograd.grad(result, leaves, grad.to(result.dtype))
        return result.detach()

    return both


class Errors(NamedTuple):
    """The largest error of the result and of any gradient, relative to the largest entry of each.

    NaN if a value is NaN.
    """

    result: float
    grad: float


def errors(
    op: Op, case: Case, name: str, form: Form, device: str, rows: int = 2, time: int = 256
) -> Errors:
    """Errors of a form against the definition in float64, on the same rounded inputs.

    The form computes the whole case, so the launches are those that are timed. Compared are the
    first `time` steps of the first `rows` rows. The gradient of the result is zero elsewhere, and
    nothing depends on later steps or other rows, so the definition needs only that part.
    """
    arguments, grad = prepare(op, case, name, device)
    time = min(time, case.shape[1])
    part = torch.zeros_like(grad)
    part[:rows, :time] = grad[:rows, :time]
    leaves = differentiable(arguments)
    result = form(*arguments)
    grads = iter(torch.autograd.grad(result, leaves, part.to(result.dtype)))
    got = [next(grads) if x.requires_grad else x for x in arguments]
    got = [x for x in cut(op, case, got, rows, time) if x.is_floating_point() or x.is_complex()]

    short = [_widened(x.detach()) for x in cut(op, case, arguments, rows, time)]
    wide = differentiable(short)
    want = op.definition(case, name)(*short)
    exact = torch.autograd.grad(want, wide, _widened(grad[:rows, :time]).to(want.dtype))
    return Errors(
        relative_error(result[:rows, :time], want),
        max_or_nan([relative_error(g, w) for g, w in zip(got, exact, strict=True)]),
    )


def cut(op: Op, case: Case, tensors: Sequence[Tensor], rows: int, time: int) -> list[Tensor]:
    """The first rows and steps of each argument, or of its gradient."""
    ends = {"BT": lambda x: x[:rows, : x.shape[1] - case.shape[1] + time], "B": lambda x: x[:rows]}
    return [
        ends[leading](x) if leading else x
        for x, leading in zip(tensors, op.leading(case), strict=True)
    ]


def _widened(x: Tensor) -> Tensor:
    """A copy in double precision; integers and flags stay as they are."""
    if x.is_complex():
        return x.to(torch.complex128, copy=True)
    return x.to(torch.float64, copy=True) if x.is_floating_point() else x


def relative_error(got: Tensor, want: Tensor) -> float:
    """The largest difference divided by the largest entry of `want`."""
    difference = (_widened(got.detach()) - want.detach()).abs().max()
    return (difference / want.detach().abs().max().clamp(min=1e-30)).item()


def max_or_nan(values: Sequence[float]) -> float:
    """The largest value; NaN if one is NaN, which Python's `max` may hide."""
    return float("nan") if any(value != value for value in values) else max(values)
