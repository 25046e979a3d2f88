"""A stand-in for `torch.cuda.CUDAGraph` on the CPU, with its faults.

Operations between `capture_begin` and `capture_end` are recorded with the memory that they read and
write, and are not computed: their results hold NaN. `replay` computes them again, from and into the
same memory. So a captured function that reads a stale pointer, a number of the host that should
have changed, or a tensor whose memory another graph may use again, gives wrong results, as on a
GPU. Operations that wait for the device are errors inside of a capture.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from tests.far_device import INDEXING, READS

UNDEFINED = {"empty", "empty_strided", "new_empty", "new_empty_strided", "empty_like"}
GARBAGE = -77  # of integers


class Operation(NamedTuple):
    """A recorded operation; `results` are new tensors, without views and arguments."""

    function: Any
    args: Any
    kwargs: Any
    results: list[Tensor]


class RecordedGraph(TorchDispatchMode):
    """Records and replays operations on the CPU; `captures` and `replays` count those of all."""

    captures = replays = 0

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.inner: list[Tensor] | None = None  # results that are spoiled after each replay

    def register_generator_state(self, generator: torch.Generator) -> None:
        """Nothing to do: recorded operations draw from the generators themselves."""

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Record operations from now on."""
        assert not self.operations
        self.random = torch.get_rng_state()
        self.__enter__()

    def capture_end(self) -> None:
        """Record no more operations."""
        self.__exit__(None, None, None)
        torch.set_rng_state(self.random)  # no numbers were drawn
        RecordedGraph.captures += 1

    @torch.no_grad()
    def replay(self) -> None:
        """Compute the recorded operations."""
        if self.inner is None:
            self.inner = self._inner()
        RecordedGraph.replays += 1
        for function, args, kwargs, results in self.operations:
            found = function(*args, **kwargs)
            new = [each for each in tree_flatten(found)[0] if isinstance(each, Tensor)]
            if _name(function) in UNDEFINED:
                _spoil(results)
            elif results:
                for into, each in zip(results, new, strict=True):
                    into.copy_(each)
        _spoil(self.inner)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        self._permit(_name(func), args, kwargs)
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if func._schema.is_mutable:
            self.operations.append(Operation(func, args, kwargs, []))
            return self._unchanged(func, args, kwargs)
        found = func(*args, **kwargs)
        memory = {_memory(each) for each in given}
        results = [each for each in tree_flatten(found)[0] if isinstance(each, Tensor)]
        new = [each for each in results if _memory(each) not in memory]
        if new:
            assert len(new) == len(results), func
            self.operations.append(Operation(func, args, kwargs, results))
            _spoil(results, 0)  # places that exist
        return found

    def _unchanged(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation that changes arguments, which stay as they are."""
        copies = tree_map_only(Tensor, torch.clone, (args, kwargs))
        originals = tree_flatten((args, kwargs))[0]
        before = dict(zip(map(id, tree_flatten(copies)[0]), originals, strict=True))
        found = func(*copies[0], **copies[1])
        return tree_map_only(Tensor, lambda each: before[id(each)], found)

    def _permit(self, name: str, args: Any, kwargs: Any) -> None:
        masks = name in INDEXING and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        if masks or (name in READS and not kwargs.get("output_size")):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")

    def _inner(self) -> list[Tensor]:
        """Results whose memory nothing outside holds: other graphs may use it."""
        held: Counter[int] = Counter()  # references by the recording
        tensors: dict[int, Tensor] = {}
        for operation in self.operations:
            for each in tree_flatten(list(operation))[0]:
                if isinstance(each, Tensor):
                    held[id(each)] += 1
                    tensors[id(each)] = each
        views = Counter(_memory(each) for each in tensors.values())
        kept = set()
        for key, each in tensors.items():
            storage = each.untyped_storage()
            references = torch._C._storage_Use_Count(storage._cdata) - 1
            # The three others: `tensors`, the name `each`, and the argument of the call.
            outside = sys.getrefcount(each) > held[key] + 3
            if outside or each._use_count() > 1 or references > views[_memory(each)]:  # type: ignore[attr-defined]
                kept.add(_memory(each))
        results = [each for operation in self.operations for each in operation.results]
        return [each for each in results if _memory(each) not in kept]


def _name(function: Any) -> str:
    return function.name().split("::")[1].split(".")[0]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@torch.no_grad()
def _spoil(tensors: list[Tensor], integer: int = GARBAGE) -> None:
    for each in tensors:
        if each.is_floating_point() or each.is_complex():
            each.fill_(torch.nan)
        elif each.dtype != torch.bool:
            each.fill_(integer % 256 if each.dtype == torch.uint8 else integer)
