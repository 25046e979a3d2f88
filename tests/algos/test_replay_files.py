"""A replay in files: pages go back before they fill the memory, and nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rlmem.algos.replay import allocate
from rlmem.algos.replay_tapes import START, Played, Tapes, mapped

MIB = 2**20


def write(tapes: Tapes, chunk: int) -> None:
    """32 steps of 4 environments, an observation of 4 kB each that tells where it belongs."""
    number = torch.arange(chunk * 128, chunk * 128 + 128, dtype=torch.float32)
    leaves = {
        "obs0": number.view(32, 4, 1).expand(32, 4, 1024),
        "reward": number.view(32, 4),
        "flags": torch.full((32, 4), START, dtype=torch.uint8),
    }
    tapes.write(Played(leaves, torch.zeros(32, 4, dtype=torch.bool), {}))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
@pytest.mark.parametrize("most", [8 * MIB, 512 * MIB])
def test_resident_memory_is_bounded(most: int, tmp_path: Path) -> None:
    tapes = Tapes(4, 4096, tmp_path / "replay")
    example = {
        "obs0": torch.zeros(1024),
        "reward": torch.zeros(()),
        "flags": torch.tensor(0).byte(),
    }
    tapes.open(example, allocate)
    tapes.resident.most = most
    before, peak = mapped(), 0
    for chunk in range(128):
        write(tapes, chunk)
        peak = max(peak, mapped() - before)
    slot = tapes.slot(torch.arange(4)[:, None], torch.arange(4096)[None])
    for piece in slot.split(64, dim=1):
        # What was written before its pages went is what is read after.
        got = tapes.read(piece)
        assert torch.equal(got["obs0"][..., 7], got["reward"])
        assert torch.equal(got["reward"], (piece % 4096 * 4.0 + torch.arange(4)[:, None]))
        peak = max(peak, mapped() - before)
    # 64 MiB of observations: all of them stay where nothing hands them back.
    assert peak < 16 * MIB if most == 8 * MIB else peak > 60 * MIB
