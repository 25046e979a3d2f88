"""Builds `rlmem.kernels._c` from every kernel's cpu.c; run by setuptools, not imported by rlmem.

Plain C: it needs a compiler and no torch. Where there is no compiler the installation goes on
without the module, and the kernels fall back to loops of torch operations.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

KERNELS = Path("rlmem/kernels")
OPS = ["linear_scan"]

ffi = FFI()
for op in OPS:
    ffi.cdef((KERNELS / op / "cpu.h").read_text())

ffi.set_source(
    "rlmem.kernels._c",
    "\n".join(f'#include "{op}/cpu.h"' for op in OPS),
    sources=[str(KERNELS / op / "cpu.c") for op in OPS],
    depends=[str(path) for op in OPS for path in (KERNELS / op).glob("*.h")],
    include_dirs=[str(KERNELS)],
    # Never -ffast-math: a NaN must stay one.
    extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
    optional=True,
)
