"""Checks of saved tensors before they are read: their claims must not exceed their file."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

# The largest header of a safetensors file (it also holds the description of an agent), the most
# tensors in it, and the largest pickle and number of records in a file of torch.
MAX_HEADER, MAX_TENSORS = 64 * 2**20, 20_000
MAX_PICKLE, MAX_RECORDS = 64 * 2**20, 200_000


def check_safetensors(path: Path) -> None:
    """Raise a ValueError or OSError for a file that is not plain, or whose header is too large."""
    size = _plain_size(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise ValueError(f"{path.name} claims a header of {length:,} bytes")
        tensors = file.read(length).count(b'"dtype"')
    if tensors > MAX_TENSORS:
        raise ValueError(f"{path.name} has {tensors:,} tensors, more than {MAX_TENSORS:,}")


def check_torch(path: Path) -> None:
    """Raise a ValueError or OSError for a file that torch has not written: a compressed archive.

    torch stores its records without compression, so a record cannot be larger than the file.
    """
    size = _plain_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path.name} is not an archive of torch: {error}") from error
    if len(records) > MAX_RECORDS:
        raise ValueError(f"{path.name} has {len(records):,} records")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise ValueError(f"{path.name} is compressed, and torch compresses nothing")
        if record.filename.endswith(".pkl") and record.file_size > MAX_PICKLE:
            raise ValueError(f"{path.name} has a pickle of {record.file_size:,} bytes")
    if sum(record.file_size for record in records) > size:
        raise ValueError(f"{path.name} claims more bytes than it has")


def _plain_size(path: Path) -> int:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name} is not a plain file")
    return found.st_size
