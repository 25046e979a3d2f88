"""A replay in files: its resident memory is bounded, and no data is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rlmem.data.allocation import allocate
from rlmem.data.storage import START, RingStorage, StepBlock, mapped_bytes

MIB = 2**20


def write(storage: RingStorage, chunk: int) -> None:
    """Writes 32 steps of 4 environments; observations of 4 kB hold the number of their step."""
    number = torch.arange(chunk * 128, chunk * 128 + 128, dtype=torch.float32)
    leaves = {
        "obs0": number.view(32, 4, 1).expand(32, 4, 1024),
        "reward": number.view(32, 4),
        "flags": torch.full((32, 4), START, dtype=torch.uint8),
    }
    storage.write(StepBlock(leaves, torch.zeros(32, 4, dtype=torch.bool), {}))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from Linux")
@pytest.mark.parametrize("limit", [8 * MIB, 512 * MIB])
def test_resident_memory_is_bounded(limit: int, tmp_path: Path) -> None:
    storage = RingStorage(4, 4096, tmp_path / "replay")
    example = {
        "obs0": torch.zeros(1024),
        "reward": torch.zeros(()),
        "flags": torch.tensor(0).byte(),
    }
    storage.open(example, allocate)
    storage.resident.limit = limit
    before, peak = mapped_bytes(), 0
    for chunk in range(128):
        write(storage, chunk)
        peak = max(peak, mapped_bytes() - before)
    slot = storage.slot(torch.arange(4)[:, None], torch.arange(4096)[None])
    for piece in slot.split(64, dim=1):
        # Released pages are read again with the values written before.
        got = storage.read(piece)
        assert torch.equal(got["obs0"][..., 7], got["reward"])
        assert torch.equal(got["reward"], (piece % 4096 * 4.0 + torch.arange(4)[:, None]))
        peak = max(peak, mapped_bytes() - before)
    # There are 64 MiB of observations; without a release all of them stay resident.
    assert peak < 16 * MIB if limit == 8 * MIB else peak > 60 * MIB
