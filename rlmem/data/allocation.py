"""Memory of replays and datasets: torchrl's storages, in memory or in memory-mapped files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from rlmem.errors import UsageError, need


def allocate(
    example: dict[str, Tensor] | None, size: int, directory: Path | None
) -> dict[str, Tensor]:
    """Tensors [size, ...] with the shapes and dtypes of `example`; None opens those in `directory`.

    Raises `UsageError` if the files exist already, or are missing.
    """
    need("torchrl", "the memory of a replay or dataset", "train")
    # Imported late: these imports take as long as all others together.
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, TensorStorage

    if directory is None:
        assert example is not None
        storage: TensorStorage = LazyTensorStorage(size)
    elif example is None:
        if not (directory / "meta.json").exists():
            raise UsageError(f"{directory} does not hold the replay of this run")
        storage = TensorStorage(TensorDict.load_memmap(directory))
    else:
        if directory.exists() and any(directory.iterdir()):
            raise UsageError(f"replay.directory must be an empty or a new folder, not {directory}")
        storage = LazyMemmapStorage(size, scratch_dir=directory)
    if example is not None:
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
