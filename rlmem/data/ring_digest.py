"""Hashes of rings in files, so that a checkpoint knows the content that it counts on.

The entries of each ring are hashed in blocks. Entries do not change before they are overwritten, so
that a checkpoint hashes only the blocks that are new or cut since the one before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.errors import UsageError

BLOCK = 4096  # entries


class RingDigest:
    """The SHA-256 of all entries from `oldest` to `head` of some rings of `slots` entries."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._known: dict[tuple[int, int, int], bytes] = {}  # blocks that no longer grow

    def state(
        self, leaves: Mapping[str, Tensor], oldest: Int[Tensor, "N"], head: Int[Tensor, "N"]
    ) -> dict[str, Tensor]:
        """The blocks (ring, first entry, end) [M, 3] and their hashes [M, 32]."""
        found: dict[tuple[int, int, int], bytes] = {}
        for block in _blocks(oldest, head):
            found[block] = self._known.get(block) or self._hash(leaves, *block)
        # The newest entry changes if its episode is truncated.
        newest = head.tolist()
        self._known = {block: sha for block, sha in found.items() if block[2] < newest[block[0]]}
        return {
            "blocks": torch.tensor(list(found), dtype=torch.int64).reshape(-1, 3),
            "hashes": torch.frombuffer(bytearray(b"".join(found.values())), dtype=torch.uint8)
            if found
            else torch.empty(0, dtype=torch.uint8),
        }

    def check(
        self,
        saved: Mapping[str, Tensor],
        leaves: Mapping[str, Tensor],
        oldest: Int[Tensor, "N"],
        where: object,
    ) -> None:
        """Raise a `UsageError` if a block is not the saved one; overwritten ones do not count."""
        kept, hashes = oldest.tolist(), saved["hashes"].numpy().tobytes()
        for number, (ring, first, end) in enumerate(saved["blocks"].tolist()):
            if first < kept[ring]:
                continue
            if self._hash(leaves, ring, first, end) != hashes[32 * number : 32 * number + 32]:
                raise UsageError(
                    f"the replay files in {where} are damaged: entries {first:,} to {end - 1:,} of "
                    f"environment {ring} were changed after the last checkpoint"
                )

    def _hash(self, leaves: Mapping[str, Tensor], ring: int, first: int, end: int) -> bytes:
        digest = hashlib.sha256()
        for name in sorted(leaves):
            for part in self._parts(ring, first, end):
                digest.update(leaves[name][part].reshape(-1).view(torch.uint8).numpy().data)
        return digest.digest()

    def _parts(self, ring: int, first: int, end: int) -> Iterator[slice]:
        """The slots of consecutive entries, in one piece or two."""
        begin, place = ring * self.slots, first % self.slots
        length = min(end - first, self.slots - place)
        yield slice(begin + place, begin + place + length)
        if length < end - first:
            yield slice(begin, begin + end - first - length)


def _blocks(oldest: Tensor, head: Tensor) -> Iterator[tuple[int, int, int]]:
    for ring, (low, high) in enumerate(zip(oldest.tolist(), head.tolist(), strict=True)):
        for block in range(low // BLOCK, -(-high // BLOCK)):
            yield ring, max(low, block * BLOCK), min(high, (block + 1) * BLOCK)
