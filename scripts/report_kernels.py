"""Compile every Triton kernel ahead of time, without a GPU, and print its resources.

`python scripts/report_kernels.py [op ...] [--arch 90] [--dtype float32]` calls the kernels' own
launchers on CPU tensors with shapes (in `ops/`) that cover every configuration of their tables. A
stand-in for the driver names the architecture, so that the compiler produces exactly the code for
such a GPU; nothing is launched. Registers, stack and shared memory are read from the binaries by
Triton's own `cuobjdump`, spills from their instructions.
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

import ops
import torch
import triton
from ops.base import Op
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

# Compute capability: shared memory available to a block, in bytes.
ARCHITECTURES = {80: 166_912, 90: 232_448}
BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Row(NamedTuple):
    """One compiled kernel; `stack` and `shared` in bytes, `spills` in instructions."""

    op: str
    kernel: str
    dtype: str
    settings: tuple[tuple[str, object], ...]
    arch: int
    registers: int
    stack: int
    spills: int
    shared: int

    def __getitem__(self, key: Any) -> Any:
        """A setting by its name."""
        return dict(self.settings)[key] if isinstance(key, str) else tuple(self)[key]

    def cells(self) -> list[str]:
        """The cells of its table row."""
        settings = ", ".join(f"{key} {value}" for key, value in self.settings if value != "")
        return [settings if field is self.settings else str(field) for field in tuple(self)]


class Driver:
    """A stand-in for a CUDA driver, as far as the compiler needs one."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        # Triton caches compiled kernels by device: one device per architecture.
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class Recorder:
    """A kernel that is compiled instead of launched."""

    def __init__(self, op: Op, kernel: Any, arch: int, rows: list[Row]) -> None:
        self.op = op
        self.kernel = kernel
        self.arch = arch
        self.rows = rows

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def warm(*args: Any, **options: Any) -> None:
            binary = self.kernel.warmup(*args, **options, grid=grid)
            tensors = dict(zip(self.kernel.arg_names, args, strict=False))
            dtype, settings = self.op.describe(tensors, options)
            row = Row(
                op=self.op.name,
                kernel=self.kernel.__name__,
                dtype=str(dtype).removeprefix("torch."),
                settings=tuple(settings.items()),
                arch=self.arch,
                **usage(binary),
            )
            self.rows.append(row)

        return warm


def kernels(op: Op) -> dict[str, Any]:
    """The operator's kernels by name."""
    modules = op.modules()
    named = vars(modules[1]) if modules else {}
    return {name: kernel for name, kernel in named.items() if name.endswith("_kernel")}


@contextmanager
def recording(op: Op, arch: int) -> Iterator[list[Row]]:
    """Compile the launches of the operator's `triton_form` for `arch`; lists them, runs none."""
    rows: list[Row] = []
    modules = op.modules()
    if modules is None:
        raise ValueError(f"{op.name} has no kernels")
    recorders = {name: Recorder(op, kernel, arch, rows) for name, kernel in kernels(op).items()}
    before = driver._active
    driver.set_active(Driver(arch))
    try:
        with mock.patch.object(modules[0], "triton_kernels", SimpleNamespace(**recorders)):
            yield rows
    finally:
        driver.set_active(before)


def report(op: Op, arch: int, dtype: torch.dtype, odd: bool = True) -> list[Row]:
    """Every kernel in every configuration for this dtype, compiled for this architecture."""
    with recording(op, arch) as rows:
        op.launch(dtype, odd)
    return list(dict.fromkeys(rows))


def usage(binary: Any) -> dict[str, int]:
    """Registers, stack, spills and shared memory of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = _cuobjdump("-res-usage", file.name)
        found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        stack = found["STACK"] + found["LOCAL"]
        # Spills are on the stack: without a stack there is no need to disassemble.
        code = _cuobjdump("-sass", file.name) if stack else ""
    return {
        "registers": found["REG"],
        "stack": stack,
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "shared": binary.metadata.shared,
    }


def misfits(rows: list[Row]) -> list[Row]:
    """The kernels that use a stack, spill, or need more shared memory than a block has."""
    return [
        row
        for row in rows
        if row.stack
        or row.spills
        or row.shared > ARCHITECTURES[row.arch]
        or not 0 < row.registers <= 255
    ]


def _cuobjdump(*arguments: str) -> str:
    command = [str(BIN / "cuobjdump"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("op", nargs="*", help=f"some of {', '.join(ops.names())}; all by default")
    parser.add_argument("--arch", type=int, choices=ARCHITECTURES, action="append")
    parser.add_argument("--dtype", action="append", help="torch's name of it; all by default")
    options = parser.parse_args()
    table = Table(*Row._fields)
    for op in map(ops.get, options.op or ops.names()):
        if op.modules() is None:
            continue
        for arch, dtype in product(options.arch or ARCHITECTURES, op.dtypes):
            if options.dtype and str(dtype).removeprefix("torch.") not in options.dtype:
                continue
            for row in report(op, arch, dtype):
                table.add_row(*row.cells())
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
