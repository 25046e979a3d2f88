"""Builds `rlmem.kernels._c` from the kernels' C sources; run by setuptools, not imported by rlmem.

Plain C: the build needs a C compiler but no torch. Without a compiler the installation continues
without the module, and the kernels fall back to torch operations.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cffi import FFI

KERNELS = Path("rlmem/kernels")
SOURCES = [
    KERNELS / name
    for name in (
        "native.c",
        "linear_scan/c_kernels.c",
        "short_conv/c_kernels.c",
        "gated_rnn/c_kernels.c",
        "bf16_linear/c_kernels.c",
        "self_reference/c_kernels.c",
        "simple_rnn/c_kernels.c",
    )
]


def make(
    compile_args: list[str],
    link_args: list[str],
    *,
    root: Path = Path(),
    optional: bool = False,
) -> FFI:
    """The module's description for cffi, with the sources below `root`.

    `optional`: a failed build is no error.
    """
    ffi = FFI()
    for source in SOURCES:
        ffi.cdef((root / source).with_suffix(".h").read_text())
    ffi.set_source(
        "rlmem.kernels._c",
        "".join(
            f'#include "{source.relative_to(KERNELS).with_suffix(".h").as_posix()}"\n'
            for source in SOURCES
        ),
        sources=[str(root / source) for source in SOURCES],
        depends=[str(root / KERNELS / "build.py"), *map(str, (root / KERNELS).rglob("*.h"))],
        include_dirs=[str(root / KERNELS)],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        optional=optional,
    )
    return ffi


def installed() -> FFI:
    """The module of an installation, built in the root of the repository."""
    # Never -ffast-math: a NaN must stay one. Without traps, both branches of a select can run.
    flags = [] if sys.platform == "win32" else ["-O3", "-fno-trapping-math"]
    return make(flags, [], optional=True)
