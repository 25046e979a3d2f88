"""Builds `rlmem.kernels._c` from every kernel's cpu.c; run by setuptools, not imported by rlmem.

Plain C: it needs a compiler and no torch. Where there is no compiler the installation goes on
without the module, and the kernels fall back to loops of torch operations.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

KERNELS = Path("rlmem/kernels")
SOURCES = [
    KERNELS / name
    for name in ("native.c", "linear_scan/cpu.c", "short_conv/cpu.c", "gated_rnn/cpu.c")
]

ffi = FFI()
for source in SOURCES:
    ffi.cdef(source.with_suffix(".h").read_text())

ffi.set_source(
    "rlmem.kernels._c",
    "".join(
        f'#include "{source.relative_to(KERNELS).with_suffix(".h").as_posix()}"\n'
        for source in SOURCES
    ),
    sources=[str(source) for source in SOURCES],
    depends=[str(KERNELS / "build.py"), *map(str, KERNELS.rglob("*.h"))],
    include_dirs=[str(KERNELS)],
    # Never -ffast-math: a NaN must stay one. Without traps both sides of a choice can be computed.
    extra_compile_args=[] if sys.platform == "win32" else ["-O3", "-fno-trapping-math"],
    optional=True,
)
