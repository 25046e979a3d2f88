"""A limit on the memory of a model that is built from a stranger's configuration.

The weights of a checkpoint are there before the model is built, and a model that fits them is not
much larger. So `hidden_size: 60000` or `layers: 100000` is refused before its memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlmem.errors import UsageError

# A tensor may have this many times the elements of all weights, and all together; and a base of
# elements for buffers, random numbers and the memory of one environment.
ONE, ALL, BASE = 8, 64, 2**22
# Parameters and modules for each tensor in the file, and a base of them.
PARTS, BASE_PARTS = 8, 2**12


class TooLarge(Exception):
    """More memory was asked for than the weights of a checkpoint justify."""


class _Count(TorchDispatchMode):
    """Counts the elements of all new tensors; those of a given size before they are made."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.one = ONE * elements + BASE
        self.left: float = ALL * elements + 16 * BASE

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and to skip it, torch would import its compiler (a second)."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(each.alias_info is not None for each in func._schema.returns):
            return func(*args, **kwargs)
        counted = asked_for(func._schema.name.rpartition("::")[2], [*args, *kwargs.values()])
        self._count(counted)
        made = func(*args, **kwargs)
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(max(leaf.numel() - counted, 0))
        return made

    def _count(self, elements: float | int) -> None:
        self.left -= elements
        if elements > self.one or self.left < 0:
            raise TooLarge


def asked_for(operator: str, arguments: Sequence[Any]) -> float | int:
    """The elements of the new tensor of an operator, as its arguments say; 0 if they do not."""
    numbers = [x for x in arguments if isinstance(x, int | float) and not isinstance(x, bool)]
    if operator == "arange" and numbers:
        start, end, step = (0, numbers[0], 1) if len(numbers) == 1 else [*numbers, 1][:3]
        return abs((end - start) / step) if step else 0
    if operator in ("randperm", "linspace", "logspace", "eye"):
        return prod(abs(x) for x in numbers if isinstance(x, int))
    for each in arguments:
        if isinstance(each, list | tuple) and each and all(isinstance(x, int) for x in each):
            copies = operator == "repeat" and isinstance(arguments[0], Tensor)
            return prod(abs(x) for x in each) * (arguments[0].numel() if copies else 1)
    return 0


@contextmanager
def limited(weights: Mapping[str, Tensor] | None, where: object) -> Iterator[None]:
    """Raise a `UsageError` if the block makes more tensors than a model of these weights has.

    Without `weights` there is no limit.
    """
    if weights is None:
        yield
        return
    left = PARTS * len(weights) + BASE_PARTS

    def count(module: nn.Module, name: str, part: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooLarge

    try:
        with ExitStack() as stack:
            for register in (
                hooks.register_module_parameter_registration_hook,
                hooks.register_module_module_registration_hook,
            ):
                stack.callback(register(count).remove)
            stack.enter_context(_Count(sum(leaf.numel() for leaf in weights.values())))
            yield
    except (TooLarge, MemoryError, RecursionError) as error:
        size = sum(leaf.nbytes for leaf in weights.values())
        raise UsageError(
            f"{where} does not fit its weights: its configuration asks for a much larger model "
            f"than their {size:,} bytes (hidden_size, layers or the options of its core)"
        ) from error
