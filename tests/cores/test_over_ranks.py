"""Rows shared out over ranks: real processes find the results of one, and gradients."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from rlmem import cores
from rlmem.cores.base import registry
from rlmem.cores.over_ranks import can_share_rows, scan_over_ranks, supporting
from rlmem.errors import UsageError
from tests.cores.rank_rows import CASES, TIME, make, run
from tests.marks import by_night
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]


def on_ranks(folder: Path, lengths: list[int]) -> list[dict[str, Any]]:
    """The results of all ranks, one for each piece."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    words = ["-m", "tests.cores.rank_rows", str(folder), ",".join(map(str, lengths))]
    processes = []
    for rank in range(len(lengths)):
        variables = {"RANK": str(rank), "WORLD_SIZE": str(len(lengths)), "MASTER_PORT": port}
        variables |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command, pipe = [*warm_python(), *words], subprocess.PIPE
        environment = os.environ | variables
        processes.append(subprocess.Popen(command, env=environment, stderr=pipe, text=True))
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert not any(process.returncode for process in processes), said
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(lengths))]


# Pieces of different lengths, one of them shorter than the window of a convolution.
@pytest.mark.parametrize("lengths", [[9, 2, 12], *by_night([[14, 9], [1, 22]])], ids=str)
def test_ranks_find_the_results_of_one_process(tmp_path: Path, lengths: list[int]) -> None:
    pieces = on_ranks(tmp_path, lengths)
    for case in CASES:
        whole = run(case, lambda core, *row: core.scan(*row), slice(0, TIME))
        found = [piece[case] for piece in pieces]
        close = {"rtol": 1e-10, "atol": 1e-10, "msg": lambda m, case=case: f"{case}: {m}"}
        for key in ("y", "x"):
            row = torch.cat([each[key] for each in found], dim=1)
            torch.testing.assert_close(row, whole[key], **close)
        for each in found:
            torch.testing.assert_close(each["last"], whole["last"], **close)
        # What all ranks have gets a part of its gradient on each.
        sums = [
            torch.stack(parts).sum(0)
            for parts in zip(*(each["shared"] for each in found), strict=True)
        ]
        torch.testing.assert_close(sums, whole["shared"], **close)


def test_one_process_scans() -> None:
    core, x, state, start = make("s5")
    for one, other in zip(
        scan_over_ranks(core, x, state, start), core.scan(x, state, start), strict=True
    ):
        assert torch.equal(one, other)


def test_the_supporting_cores_are_those_of_the_test() -> None:
    found = {registry.get(name) for name in supporting()}
    tested = {registry.get(name) for name, _ in CASES.values() if name != "stack"}
    assert {core for core in found if core.__module__.startswith("rlmem.")} == tested


@pytest.mark.parametrize(
    ("name", "options"), [("gru", {}), ("mlstm", {}), ("stack", {"layers": ["s5", "gru"]})]
)
def test_other_cores_are_refused(name: str, options: dict[str, Any]) -> None:
    core = cores.make(name, input_size=3, **options)
    assert not can_share_rows(core)
    start = torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(UsageError, match="cannot share out rows over ranks; cores that can: ffm"):
        scan_over_ranks(core, torch.zeros(2, 4, 3), core.initial_state(2), start)
