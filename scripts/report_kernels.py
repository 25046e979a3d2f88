"""Compile every Triton kernel ahead of time, on a machine without a GPU, and print what it takes.

`python scripts/report_kernels.py [--arch 90] [--dtype float32]` calls the kernels' own launchers on
CPU tensors of shapes that reach every configuration of their tables. A stand-in for the driver
names the architecture, so that what is compiled is just what a GPU of that kind would run; nothing
is launched. Registers, stack and shared memory are read from the binaries by Triton's own
`cuobjdump`, spills from their instructions.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from rlmem.kernels.linear_scan import gpu, gpu_kernels

# Compute capability -> shared memory that one block may have, in bytes.
ARCHITECTURES = {80: 166_912, 90: 232_448}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128)
TABLES = {"narrow": gpu.NARROW, "wide": gpu.WIDE}
KERNELS = [name for name in vars(gpu_kernels) if name.endswith("_kernel")]
BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Row(NamedTuple):
    """One compiled kernel; `stack` and `shared` in bytes, `spills` in instructions."""

    kernel: str
    dtype: str
    block: int
    unroll: int
    channels: int
    gate: str
    given: str
    arch: int
    registers: int
    stack: int
    spills: int
    shared: int


class Driver:
    """Stands in for a CUDA driver as far as compiling asks for one."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        # Triton keeps compiled kernels by device: one device for each architecture.
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class Recorder:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel: Any, arch: int, rows: list[Row]) -> None:
        self.kernel = kernel
        self.arch = arch
        self.rows = rows

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def warm(*args: Any, **options: Any) -> None:
            binary = self.kernel.warmup(*args, **options, grid=grid)
            tensors = dict(zip(self.kernel.arg_names, args, strict=False))
            given = [name for name in ("h0", "carry", "start") if tensors.get(name) is not None]
            given += ["adjoint"] if options.get("ADJOINT") else []
            dtype = tensors["gate"].dtype
            dtype = dtype.to_complex() if options["COMPLEX"] else dtype
            row = Row(
                kernel=self.kernel.__name__,
                dtype=str(dtype).removeprefix("torch."),
                block=options["BLOCK"],
                unroll=options["UNROLL"],
                channels=tensors["gate"].shape[-2 if options["COMPLEX"] else -1],
                gate="constant" if options["CONSTANT"] else "[B, T, D]",
                given=" ".join(given),
                arch=self.arch,
                **usage(binary),
            )
            self.rows.append(row)

        return warm


@contextmanager
def recording(arch: int) -> Iterator[list[Row]]:
    """Launches of `gpu` inside are compiled for `arch` and listed, not run."""
    rows: list[Row] = []
    recorders = {name: Recorder(getattr(gpu_kernels, name), arch, rows) for name in KERNELS}
    before = driver._active
    driver.set_active(Driver(arch))
    try:
        with mock.patch.object(gpu, "gpu_kernels", SimpleNamespace(**recorders)):
            yield rows
    finally:
        driver.set_active(before)


def launch(dtype: torch.dtype, table: str, constant: bool, extra: int = 0) -> None:
    """Forward and backward, with a first state and starts, in that table's configuration."""
    config = TABLES[table][dtype.itemsize]
    # Many rows, or one row long enough for chunks.
    rows, steps = (gpu.MANY, 2) if table == "wide" else (1, gpu.LONG)
    shape = rows, steps, config.block + extra
    if gpu.plan(torch.Size(shape), dtype.itemsize).config != config:
        raise AssertionError(f"{shape} does not lead to {table} {config}")
    channels = shape[2]
    value = torch.empty(shape, dtype=dtype)
    gate = torch.empty((channels,) if constant else shape, dtype=dtype)
    h0 = torch.empty(rows, channels, dtype=dtype)
    start = torch.empty(rows, steps, dtype=torch.bool)
    gpu.forward(gate, value, h0, start, False)
    gpu.backward(value, gate, value, h0, start, False)


def report(arch: int, dtype: torch.dtype, odd: bool = True) -> list[Row]:
    """Every kernel in every configuration for this dtype, compiled for this architecture.

    With `odd` also for a number of channels that forbids vectors of numbers.
    """
    with recording(arch) as rows:
        for table, constant in product(TABLES, (False, True)):
            launch(dtype, table, constant)
            if odd and table == "narrow":
                launch(dtype, table, constant, extra=3)
    return list(dict.fromkeys(rows))


def usage(binary: Any) -> dict[str, int]:
    """Registers, stack, spills and shared memory of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = _cuobjdump("-res-usage", file.name)
        found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        stack = found["STACK"] + found["LOCAL"]
        # What is spilled lies on the stack: without one there is no need to disassemble.
        code = _cuobjdump("-sass", file.name) if stack else ""
    return {
        "registers": found["REG"],
        "stack": stack,
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "shared": binary.metadata.shared,
    }


def _cuobjdump(*arguments: str) -> str:
    command = [str(BIN / "cuobjdump"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = {str(d).removeprefix("torch."): d for d in DTYPES}
    parser.add_argument("--arch", type=int, choices=ARCHITECTURES, action="append")
    parser.add_argument("--dtype", choices=names, action="append")
    options = parser.parse_args()
    table = Table(*Row._fields)
    for arch, name in product(options.arch or ARCHITECTURES, options.dtype or names):
        for row in report(arch, names[name]):
            table.add_row(*map(str, row))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
