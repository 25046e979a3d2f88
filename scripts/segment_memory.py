"""Peak memory of a scan and its backward pass, in one piece and in segments of 1,024 steps.

    python scripts/segment_memory.py [--cores s5 gru ...] [--page NAME]

Each case is a process of its own: one row of T steps, inputs and outputs of width 2, states of
width 2,048. The peak is that of resident memory (VmHWM) after a short warm-up, less the memory
before the scan: so it includes outputs and gradients of inputs [1, T, 2], which segments keep.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

import torch
from pages import publish

from rlmem import cores

WIDTH, STATE, SEGMENT, LENGTHS = 2, 2048, 1024, (8192, 65536)
# Cores with a wide state between narrow inputs and outputs, and the option that widens it.
CORES: dict[str, dict[str, Any]] = {"s5": {"ssm_size": STATE}, "lru": {"state_size": STATE}}


def status(name: str) -> float:
    """A size of this process in MiB, as the system counts it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def measure(name: str, length: int, segment: int | None) -> float:
    """The peak in MiB of one forward and backward pass in this process."""
    torch.set_num_threads(1)
    core = cores.make(name, input_size=WIDTH, output_size=WIDTH, **CORES[name])
    x, start = torch.randn(1, length, WIDTH), torch.zeros(1, length, dtype=torch.bool)
    x.requires_grad_()

    def pass_(steps: int) -> None:
        y, _ = core.scan(x[:, :steps], core.initial_state(1), start[:, :steps])
        y.square().mean().backward()

    core.checkpoint_segments = segment and 8
    pass_(16)  # imports and buffers
    core.checkpoint_segments = segment
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins again
    pass_(length)
    return status("VmHWM") - before


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", nargs="+", default=list(CORES))
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--page")
    given = parser.parse_args()
    if given.case:
        name, length, segment = given.case
        print(measure(name, int(length), int(segment) or None))
        return
    rows = []
    for name in given.cores:
        row = {"core": f"`{name}`"}
        for segment in (0, SEGMENT):
            peaks = []
            for length in LENGTHS:
                command = [sys.executable, __file__, "--case", name, str(length), str(segment)]
                # Large tensors go back to the system at once.
                env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
                peaks.append(float(done.stdout))
                how = "in segments" if segment else "whole"
                row[f"T = {length:,}, {how} (MiB)"] = f"{peaks[-1]:.0f}"
            row[f"ratio, {how}"] = f"{peaks[1] / peaks[0]:.2f}"
        rows.append(row)
    caption = (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip(". ")
    publish(f"Scans in segments of {SEGMENT:,} steps. {caption}", rows, given.page)


if __name__ == "__main__":
    main()
