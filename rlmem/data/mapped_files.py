"""Tensors in memory-mapped files: a folder with `meta.json`, and `NAME.memmap` for each leaf.

The format is that of tensordict's memory maps, but only plain leaves are read: tensordict itself
also reads pickles, which can run code. Nothing in a folder is trusted: names, dtypes and sizes are
checked before a file is mapped, and links are not followed.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlmem.errors import UsageError
from rlmem.files import atomic_write

META = "meta.json"
MAX_META_BYTES = 2**20
NAME = re.compile(r"(obs|action|state)\d{1,4}|reward|flags")
# Keys of `meta.json` that are not leaves.
OTHER_KEYS = ("shape", "device", "_type")
DTYPES = {
    str(dtype): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    )
}  # fmt: skip
# Disk space is reserved for this many entries at least, and for this share more than needed.
LEAST, AHEAD = 64, 1.25


def create(example: Mapping[str, Tensor], size: int, directory: Path) -> dict[str, Tensor]:
    """New files with leaves [size, ...] of the shapes and dtypes of `example`.

    The files are sparse; see `reserve`. Raises `UsageError` if the folder is not empty.
    """
    if directory.is_symlink() or (directory.exists() and any(directory.iterdir())):
        raise UsageError(f"replay.directory must be an empty or a new folder, not {directory}")
    directory.mkdir(parents=True, exist_ok=True)
    leaves = {}
    meta: dict[str, Any] = {}
    for name, one in example.items():
        shape = [size, *one.shape]
        leaves[name] = _create(_file(directory, name), shape, one.dtype)
        meta[name] = {
            "device": "cpu", "shape": shape, "dtype": str(one.dtype), "is_nested": False
        }  # fmt: skip
    meta |= {"shape": [size], "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
    atomic_write(directory / META, json.dumps(meta))
    return leaves


def open_existing(directory: Path, writable: bool = True) -> dict[str, Tensor]:
    """The leaves in the files of `directory`; without `writable` they are a private copy.

    Raises `UsageError` if a file is missing, has another size than `meta.json` claims, or is not a
    plain file, and for anything in `meta.json` but plain leaves.
    """
    leaves = {}
    for name, entry in _read_meta(directory).items():
        dtype, shape = _claim(directory, name, entry)
        leaves[name] = map_file(_file(directory, name), shape, dtype, writable)
    if not leaves:
        raise UsageError(f"{directory / META} names no leaves")
    return leaves


def create_numbers(path: Path, count: int) -> Tensor:
    """A new file of `count` zeros (int64)."""
    numbers = _create(path, [count], torch.int64)
    with path.open("r+b") as file:
        _allocate(file.fileno(), 0, 8 * count, path)
    return numbers


def map_file(path: Path, shape: list[int], dtype: torch.dtype, writable: bool = True) -> Tensor:
    """The file as a tensor; a `UsageError` if it is not a plain file of exactly this size."""
    count = 1
    for size in shape:
        count *= size
    needed = count * dtype.itemsize
    try:
        found = os.lstat(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a plain file")
    if found.st_size != needed:
        raise UsageError(
            f"{path} is damaged: it has {found.st_size:,} bytes, and its description "
            f"claims {needed:,}"
        )
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    try:
        return torch.from_file(str(path), writable, count, dtype=dtype).view(shape)
    except RuntimeError as error:
        raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def reserve(directory: Path, leaves: Mapping[str, Tensor], rings: int, entries: range) -> None:
    """Reserve the disk space of these entries in each of the `rings` of all leaves.

    Without it, a write to a mapped file on a full disk ends the process (SIGBUS). Raises
    `UsageError` if there is no space.
    """
    for name, leaf in leaves.items():
        path = _file(directory, name)
        each = leaf.nbytes // len(leaf)
        ring = len(leaf) // rings
        with path.open("r+b") as file:
            for number in range(rings):
                first = (number * ring + entries.start) * each
                _allocate(file.fileno(), first, len(entries) * each, path)


def enough(needed: int, reserved: int, most: int) -> int:
    """The entries to reserve if `needed` exceed the `reserved` ones; the ring has `most`."""
    return min(most, max(needed, LEAST, int(AHEAD * reserved)))


def _allocate(handle: int, first: int, size: int, path: Path) -> None:
    if not hasattr(os, "posix_fallocate") or size == 0:
        return
    try:
        os.posix_fallocate(handle, first, size)
    except OSError as error:
        raise UsageError(f"no disk space for {path}: {error.strerror}") from error


def _create(path: Path, shape: list[int], dtype: torch.dtype) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    # Exclusive, so that a link at this place is not followed.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.ftruncate(handle, count * dtype.itemsize)
    except OSError as error:
        raise UsageError(f"no disk space for {path}: {error.strerror}") from error
    finally:
        os.close(handle)
    return map_file(path, shape, dtype)


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}.memmap"


def _read_meta(directory: Path) -> dict[str, Any]:
    path = directory / META
    if path.is_symlink() or not path.is_file():
        raise UsageError(f"{directory} holds no recorded steps: it has no {META}")
    try:
        if path.stat().st_size > MAX_META_BYTES:
            raise ValueError(f"it has more than {MAX_META_BYTES:,} bytes")
        meta = json.loads(path.read_text(encoding="utf-8"))
        return {name: entry for name, entry in meta.items() if name not in OTHER_KEYS}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _claim(directory: Path, name: str, entry: Any) -> tuple[torch.dtype, list[int]]:
    """The dtype and shape of a leaf in `meta.json`."""
    where = directory / META
    if not NAME.fullmatch(name):
        raise UsageError(f"{where} names {name[:40]!r}, which is no leaf of recorded steps")
    if not isinstance(entry, dict) or not {"dtype", "shape"} <= set(entry):
        raise UsageError(f"{where} is damaged: {name} is not the description of a tensor")
    if set(entry) - {"device", "shape", "dtype", "is_nested"} or entry.get("is_nested"):
        raise UsageError(f"{where}: {name} is not a plain tensor, and nothing else is read")
    dtype, shape = DTYPES.get(str(entry["dtype"])), entry["shape"]
    if dtype is None:
        raise UsageError(f"{where}: {name} has the unknown dtype {str(entry['dtype'])[:40]!r}")
    sizes = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**48 for n in shape)
    if not sizes or not 1 <= len(shape) <= 16:
        raise UsageError(f"{where}: {name} has the impossible shape {str(shape)[:40]}")
    return dtype, shape
