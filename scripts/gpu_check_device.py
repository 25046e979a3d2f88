"""The device and its ceilings: versions, copy bandwidth, matrix rates, launch time."""

from __future__ import annotations

import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from gpu_check_worker import Deadline, clock, emit, parser, prepare, serve

PACKAGES = ("torch", "triton", "jax", "numpy", "gymnasium", "jaxtyping")
CASES = ("device", "copy", "float32", "bfloat16", "tf32", "launch")
REPEATS = 10


def about(device: str) -> None:
    """Names and versions; raises `RuntimeError` if there is no CUDA device."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    name: Any = platform.machine()
    if device == "cuda":
        name = torch.cuda.get_device_name()
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        found |= {"cuda": str(torch.version.cuda), "memory": f"{memory:.0f} GiB"}
        found["cudnn"] = str(torch.backends.cudnn.version())
    from rlmem.kernels import native

    found["C kernels"] = "built" if native.AVAILABLE else "not built"
    emit("device", name=name, detail=", ".join(f"{k} {v}" for k, v in found.items()))


def copy_rate(device: str, small: bool) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.rand(2**20 if small else 2**30, device=device)
    target = torch.empty_like(source)
    seconds = median(lambda: target.copy_(source), device)
    return 2 * source.nbytes / seconds


def matrix_rate(device: str, small: bool, dtype: str) -> float:
    """Operations per second of a product of square matrices of random numbers."""
    size = 256 if small else 8192 if dtype == "bfloat16" else 4096
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    seconds = median(lambda: a @ b, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * size**3 / seconds


def launch_seconds(device: str) -> float:
    """Seconds from one small operation to the next."""
    x = torch.zeros(8, device=device)
    return clock(lambda: x.add_(1), device, calls=1000)


def median(run: Any, device: str) -> float:
    """Median seconds per call after three calls."""
    for _ in range(3):
        run()
    return statistics.median(clock(run, device) for _ in range(REPEATS))


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0]).parse_args()
    prepare(options.device)

    here = options.device == "cpu" or torch.cuda.is_available()

    def run(case: str, deadline: Deadline) -> None:
        device, small = options.device, options.small
        if case == "device":
            about(device)
        elif case == "copy":
            emit("rate", name=case, value=copy_rate(device, small))
        elif case == "launch":
            emit("rate", name=case, value=launch_seconds(device))
        else:
            emit("rate", name=case, value=matrix_rate(device, small, case))

    # Without a device the first case fails, and there is nothing to measure.
    serve(CASES if here else CASES[:1], run, lambda case: f"device: {case}", options)


if __name__ == "__main__":
    main()
