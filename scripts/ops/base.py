"""The description of an operator for the benchmark and for the report on compiled kernels."""

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
    """One measurement: `passes` is "forward" or "both"."""

    op: str
    shape: Shape
    variant: str
    passes: str


class Inputs(NamedTuple):
    """Arguments of a form (floating ones are differentiated), and the gradient for its result."""

    arguments: tuple[Tensor, ...]
    grad: Tensor


class Work(NamedTuple):
    """The minimal memory traffic and computation of a case, for any form."""

    elements: int
    bytes: float
    flops: float


class Op(ABC):
    """An operator: its cases and forms (benchmark) and its Triton launches (report)."""

    name: ClassVar[str]
    axes: ClassVar[str]  # the meaning of a shape's numbers, as in "BxTxD"
    shapes: ClassVar[Sequence[Shape]]
    quick: ClassVar[Sequence[Shape]]
    variants: ClassVar[Sequence[str]] = ("float32",)
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32,)  # of the compiled kernels
    tolerance: ClassVar[float] = 1e-2  # of other forms' results, relative and absolute
    apart: ClassVar[Sequence[str]] = ()  # forms that compute something else, for comparison

    @abstractmethod
    def forms(self, case: Case, device: str) -> Iterator[tuple[str, Form]]:
        """All available forms for this case, by name; the first is ours, "rlmem"."""

    @abstractmethod
    def inputs(self, case: Case, form: str, device: str) -> Inputs:
        """The same numbers for every form, in the layout it needs; not timed."""

    @abstractmethod
    def work(self, case: Case) -> Work:
        """Bytes, with each input read once and each result written once; useful flops."""

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
