"""The group of ranks: processes that `torchrun` has started to train one agent together.

A single process is rank 0 of 1 and calls nothing of `torch.distributed`. Tensors on CPUs travel
with gloo, those on GPUs with NCCL. This module imports torch late, for the command line.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

from rlmem.errors import UsageError

# The variables of torchrun, which other launchers set too.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The others wait while rank 0 evaluates. A rank that dies is noticed at once, without this limit.
TIMEOUT = timedelta(hours=6)

_joined = (0, 1)  # the number of this rank, and that of all ranks


class RankLost(UsageError):
    """Another rank has ended in the middle of the training."""


def number() -> int:
    """The number of this rank, from 0; 0 in a single process."""
    return _joined[0]


def count() -> int:
    """The number of ranks; 1 in a single process."""
    return _joined[1]


def several() -> bool:
    """Whether this process is one of several ranks."""
    return _joined[1] > 1


def launched() -> tuple[int, int]:
    """The number of this rank and that of all ranks, as the launcher has set them; else (0, 1).

    A program that has set up `torch.distributed` itself is its own launcher.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if not all(os.environ.get(name) for name in VARIABLES):
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def local_number() -> int:
    """The number of this rank on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", number()))


def local_count() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", launched()[1]))


def restarts() -> int:
    """How often torchrun has started the ranks anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)


def max_restarts() -> int:
    """How often torchrun may start the ranks anew."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0)


def join() -> None:
    """Wait for all launched ranks; does nothing in a single process.

    No rank returns before all of them have called it.
    """
    global _joined
    found = launched()
    if found[1] == 1 or several():
        return
    from torch import cuda, distributed

    if not distributed.is_initialized():
        on_gpus = cuda.is_available() and distributed.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        with collective():
            store, rank, ranks = next(iter(distributed.rendezvous("env://")))
            # The store of torchrun still has the addresses from before a restart.
            store = distributed.PrefixStore(f"rlmem-{restarts()}", store)
            distributed.init_process_group(
                backend, timeout=TIMEOUT, rank=rank, world_size=ranks, store=store
            )
        # It stays for further trainings of this process.
        atexit.register(distributed.destroy_process_group)
    _joined = found


def share(name: str, total: int, ranks: int | None = None) -> int:
    """The part of one rank in `total`; a `UsageError` with the option `name` if it has a rest.

    `ranks` is the number of ranks, by default those that have joined.
    """
    ranks = count() if ranks is None else ranks
    if total % ranks:
        raise UsageError(f"{name} ({total}) must be divisible by the number of ranks ({ranks})")
    return total // ranks


def rows(part: int) -> slice:
    """The rows of this rank among those of all ranks, each of which has `part` rows."""
    return slice(number() * part, (number() + 1) * part)


def barrier() -> None:
    """Wait until all ranks are here."""
    if several():
        gather(None)


def gather(value: Any) -> list[Any]:
    """The plain values and CPU tensors of all ranks, in their order."""
    if not several():
        return [value]
    from torch import distributed

    found: list[Any] = [None] * count()
    with collective():
        distributed.all_gather_object(found, value)
    return found


def gather_at_first(value: Any) -> list[Any]:
    """As `gather`, on rank 0 alone; the others get an empty list."""
    if not several():
        return [value]
    from torch import distributed

    found: list[Any] | None = [None] * count() if number() == 0 else None
    with collective():
        distributed.gather_object(value, found)
    return found or []


def of_first(value: Any) -> Any:
    """The plain value of rank 0."""
    if not several():
        return value
    from torch import distributed

    found = [value]
    with collective():
        distributed.broadcast_object_list(found)
    return found[0]


@contextmanager
def collective() -> Iterator[None]:
    """Turn errors of the communication into `RankLost`."""
    try:
        yield
    except RuntimeError as error:  # those of gloo and NCCL have no class of their own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        place = "another rank has ended, or cannot be reached"
        raise RankLost(f"rank {launched()[0]}: {place} ({first[:120]})") from error


@contextmanager
def only_first_speaks() -> Iterator[None]:
    """Hide the output of all ranks but rank 0 in the block."""
    if number() == 0:
        yield
        return
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield
