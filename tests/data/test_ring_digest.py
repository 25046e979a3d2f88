"""Hashes of rings in files: any changed entry is found, and only new blocks are hashed again."""

from __future__ import annotations

import pytest
import torch

from rlmem.data import ring_digest
from rlmem.data.ring_digest import RingDigest
from rlmem.errors import UsageError

SLOTS = 10


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_digest, "BLOCK", 4)


def rings() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "obs0": torch.randn(2 * SLOTS, 3, generator=generator),
        "flags": torch.randint(9, (2 * SLOTS,), generator=generator).to(torch.uint8),
        "bits": torch.rand(2 * SLOTS, 2, generator=generator) < 0.5,
    }


def test_every_stored_entry_counts_and_no_other() -> None:
    leaves, oldest, head = rings(), torch.tensor([13, 0]), torch.tensor([23, 7])
    digest = RingDigest(SLOTS)
    saved = digest.state(leaves, oldest, head)
    assert saved["blocks"].tolist() == [
        [0, 13, 16], [0, 16, 20], [0, 20, 23], [1, 0, 4], [1, 4, 7],
    ]  # fmt: skip
    for ring, slot in ((ring, slot) for ring in (0, 1) for slot in range(SLOTS)):
        for name, leaf in leaves.items():
            changed = leaf.clone()
            one = changed[ring * SLOTS + slot].view(-1)
            one[-1] = one[-1] + 1 if leaf.dtype != torch.bool else ~one[-1]
            given = {**leaves, name: changed}
            if ring == 0 or slot < 7:
                with pytest.raises(UsageError, match=f"of environment {ring} were changed"):
                    RingDigest(SLOTS).check(saved, given, oldest, "here")
            else:
                RingDigest(SLOTS).check(saved, given, oldest, "here")
    digest.check(saved, leaves, oldest, "here")


def test_overwritten_blocks_are_passed_over() -> None:
    leaves = rings()
    saved = RingDigest(SLOTS).state(leaves, torch.tensor([0, 0]), torch.tensor([10, 7]))
    leaves["obs0"][0] += 1
    with pytest.raises(UsageError, match="entries 0 to 3 of environment 0"):
        RingDigest(SLOTS).check(saved, leaves, torch.tensor([0, 0]), "here")
    RingDigest(SLOTS).check(saved, leaves, torch.tensor([1, 0]), "here")


def test_only_new_blocks_are_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, digest = rings(), RingDigest(SLOTS)
    hashed: list[tuple[int, int, int]] = []
    original = RingDigest._hash

    def spy(self: RingDigest, given: dict[str, torch.Tensor], *block: int) -> bytes:
        hashed.append(block)  # type: ignore[arg-type]
        return original(self, given, *block)

    monkeypatch.setattr(RingDigest, "_hash", spy)
    digest.state(leaves, torch.tensor([0, 0]), torch.tensor([8, 4]))
    assert len(hashed) == 3
    hashed.clear()
    again = digest.state(leaves, torch.tensor([0, 0]), torch.tensor([9, 6]))
    # The newest block of each ring before, since its last entry may have changed, and the new ones.
    assert hashed == [(0, 4, 8), (0, 8, 9), (1, 0, 4), (1, 4, 6)]
    fresh = RingDigest(SLOTS).state(leaves, torch.tensor([0, 0]), torch.tensor([9, 6]))
    assert all(torch.equal(again[key], fresh[key]) for key in fresh)
