"""Memory of replays and datasets: torchrl's storage in memory, or memory-mapped files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from rlmem.data import mapped_files
from rlmem.errors import need


def allocate(example: dict[str, Tensor], size: int, directory: Path | None) -> dict[str, Tensor]:
    """Tensors [size, ...] with the shapes and dtypes of `example`, in files of a `directory`.

    Raises `UsageError` if the folder is not empty.
    """
    if directory is not None:
        return mapped_files.create(example, size, directory)
    need("torchrl", "the memory of a replay or dataset", "train")
    # Imported late: these imports take as long as all others together.
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage

    storage = LazyTensorStorage(size)
    with _quiet(logging.getLogger("torchrl")):  # it logs the size of its storages
        storage.set(0, TensorDict(example))
    leaves = storage.state_dict()["_storage"]
    return {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
