"""A limit on the memory of a model that is built from a stranger's configuration.

The weights of a checkpoint are there before the model is built, and a model that fits them is not
much larger. So `hidden_size: 60000` or `layers: 100000` is refused before its memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from rlmem.errors import UsageError

# A tensor may have this many times the elements of all weights, and all together; and a base of
# elements for buffers, random numbers and the memory of one environment.
ONE, ALL, BASE = 8, 64, 2**22
# Parameters and modules for each tensor in the file, and a base of them.
PARTS, BASE_PARTS = 8, 2**12


class TooLarge(Exception):
    """More memory was asked for than the weights of a checkpoint justify."""


class _Count(TorchDispatchMode):
    """Counts the elements of all new tensors, before they are made."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.one = ONE * elements + BASE
        self.left = ALL * elements + 16 * BASE

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(each.alias_info is None for each in func._schema.returns):
            self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Run an operator on tensors without memory, for the sizes of its results."""
        shapes = tree_map_only(Tensor, lambda leaf: leaf.to("meta"), (args, dict(kwargs)))
        if any(each.name == "device" for each in func._schema.arguments):
            shapes[1]["device"] = torch.device("meta")
        try:
            made = func(*shapes[0], **shapes[1])
        except Exception:  # an operator whose result depends on values, which are few
            return
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.left -= leaf.numel()
                if leaf.numel() > self.one or self.left < 0:
                    raise TooLarge


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
