"""The undo log of a replay in files: a way back to its last checkpoint.

A ring overwrites its oldest entries, also those that the last checkpoint counts on. Before it does,
it appends their content to a file of the log. The files have the numbers of checkpoints: file n
holds the content that was overwritten after checkpoint n and before the next one. To return to
checkpoint n, all files from the newest one to n are undone. An entry is kept once per file, because
one that was written after the checkpoint is not needed.

A record is its group of leaves (entries or stored states), its number of rows, the bytes of their
content, the indices of the rows, and their content in all leaves. The last record of a killed
process may be incomplete; the rows that it is about were not overwritten yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlmem.errors import UsageError

ENTRIES, STATES = 0, 1
HEADER = 3 * 8  # bytes of three int64
Leaves = Mapping[str, Tensor]


class Record(NamedTuple):
    """A record of a file: the indices of its rows, and their content."""

    rows: Tensor
    content: bytes


class UndoLog:
    """Keeps what a replay of rings with `slots` entries overwrites after its last checkpoint.

    `name` is that of the last checkpoint in a saved state; None begins a new log. Only the files
    for the last checkpoint and the one before are kept.
    """

    def __init__(self, folder: Path, num_envs: int, slots: int, name: str | None = None) -> None:
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link, which is not followed")
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.slots = slots
        # The first part tells the replays of several runs apart.
        self.replay, number = (name or f"{os.urandom(4).hex()}-0").split("-")
        self.number = int(number)
        self.head = torch.zeros(num_envs, dtype=torch.int64)  # of the last checkpoint
        self._file: int | None = None

    def begin(self, number: int, head: Int[Tensor, "N"]) -> str:
        """Keep from now on what the checkpoint `number` needs, whose rings have `head` entries.

        Returns the name of the checkpoint.
        """
        self.close()
        self.number, self.head = number, head.clone()
        path = self._path(number)
        kept = {path, self._path(number - 1)}
        # The newest ones first: a return that is killed here and repeated needs those before them.
        for other in sorted(set(self.folder.iterdir()) - kept, key=_number, reverse=True):
            other.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(path, flags, 0o644)
        return path.name

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def overwrites(self, env: Int[Tensor, "*K"], entry: Int[Tensor, "*K"]) -> Bool[Tensor, "*K"]:
        """Whether these new entries take the slots of entries that the checkpoint needs."""
        before = entry - self.slots
        return (before >= 0) & (before < self.head[env])

    def keep(self, group: int, leaves: Leaves, index: Int[Tensor, "M"]) -> None:
        """Append the present content of some rows; a `UsageError` if the disk is full."""
        if not len(index):
            return
        content = b"".join(_bytes(leaf.index_select(0, index)) for leaf in leaves.values())
        header = _bytes(torch.tensor([group, len(index), len(content)]))
        rest = header + _bytes(index) + content
        assert self._file is not None
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise UsageError(f"cannot write to {self.folder}: {error.strerror}") from error

    def undo(self, group: int, leaves: Leaves) -> bool:
        """Return with these leaves to the last checkpoint; False without its file.

        Killed in between, it can be repeated: the files stay until `begin`.
        """
        if not self._path(self.number).is_file():
            return False
        number = self.number
        while self._path(number + 1).is_file():
            number += 1
        for newest in range(number, self.number - 1, -1):
            records = list(self._records(self._path(newest).read_bytes(), group))
            for record in reversed(records):
                self._restore(record, leaves)
        return True

    def _records(self, content: bytes, wanted: int) -> Iterator[Record]:
        """The complete records of one group in the content of a file."""
        place = 0
        while len(content) - place >= HEADER:
            group, rows, size = np.frombuffer(content, np.int64, 3, place).tolist()
            place += HEADER
            if rows < 0 or size < 0:
                raise UsageError(f"a file in {self.folder} is damaged")
            if len(content) - place < 8 * rows + size:
                return
            if group == wanted:
                index = torch.from_numpy(np.frombuffer(content, np.int64, rows, place).copy())
                first = place + 8 * rows
                yield Record(index, content[first : first + size])
            place += 8 * rows + size

    def _restore(self, record: Record, leaves: Leaves) -> None:
        """Write the rows of a record back."""
        index, rest = record.rows, record.content
        each = sum(leaf[0].numel() * leaf.element_size() for leaf in leaves.values())
        inside = all(((index >= 0) & (index < len(leaf))).all() for leaf in leaves.values())
        if not inside or len(rest) != len(index) * each:
            raise UsageError(f"a file in {self.folder} does not fit the replay")
        for leaf in leaves.values():
            size = len(index) * leaf[0].numel() * leaf.element_size()
            raw = torch.frombuffer(bytearray(rest[:size]), dtype=torch.uint8)
            leaf[index] = raw.view(leaf.dtype).view(len(index), *leaf.shape[1:])
            rest = rest[size:]

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.replay}-{number}"


def _number(path: Path) -> int:
    """The number at the end of a file's name; 0 without one."""
    end = path.name.rpartition("-")[2]
    return int(end) if end.isdecimal() else 0


def _bytes(part: Tensor) -> bytes:
    return part.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
