"""Child processes of `gpu_check.py`: messages to the parent, and a loop that survives errors.

Every message is a line of JSON, appended to the file named by the environment variable
GPU_CHECK_MESSAGES. The parent reads them while the child runs, so a crash loses no earlier result.
torch is imported late: not every child needs it.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MESSAGES = "GPU_CHECK_MESSAGES"
BROKEN = 70  # exit status of a child whose CUDA context cannot be used any more


def emit(kind: str, **values: Any) -> None:
    """Append a message for the parent."""
    with open(os.environ[MESSAGES], "a") as file:
        file.write(json.dumps({"kind": kind, **values}) + "\n")


def fail(title: str, error: BaseException, minor: bool = False) -> None:
    """Report an error; a minor one is not about our code."""
    lines = str(error).strip().splitlines() or [""]
    summary = f"{type(error).__name__}: {lines[0]}"
    emit("failure", title=title, error=summary, minor=minor, traceback=traceback.format_exc())


def parser(description: str) -> argparse.ArgumentParser:
    """The options of every child."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    made.add_argument("--small", action="store_true", help="tiny sizes, for a dry run")
    made.add_argument("--first", type=int, default=0, help="index of the first case to run")
    return made


def prepare(device: str) -> None:
    """Settings of every child: exact float32, and a stack trace when the parent asks for it."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if torch.cuda.is_available():
        torch.zeros(1, device=device)  # makes the CUDA context


class Deadline:
    """The time that the parent gives to this child."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()


def wait_for_go() -> Deadline:
    """Wait until the parent gives the device to this child; ends the process if it does not."""
    emit("ready")
    words = sys.stdin.readline().split()
    if not words:
        sys.exit("the parent has no time left for this step")
    return Deadline(float(words[1]))


def serve(
    cases: Sequence[T],
    run: Callable[[T, Deadline], None],
    title: Callable[[T], str],
    options: argparse.Namespace,
) -> None:
    """Run the cases from `options.first` on; an error ends a case, a broken device the process."""
    deadline = wait_for_go()
    for index, case in enumerate(cases[options.first :], options.first):
        emit("case", index=index, of=len(cases), title=title(case))
        try:
            run(case, deadline)
        except Exception as error:
            fail(title(case), error)
            if not healthy(options.device):
                os._exit(BROKEN)
        free(options.device)
    emit("done")


def healthy(device: str) -> bool:
    """Whether the device still computes; after an illegal access it does not."""
    if device == "cpu":
        return True
    import torch

    try:
        return (torch.ones(4, device=device) + 1).sum().item() == 8
    except Exception:
        return False


def free(device: str) -> None:
    """Return unused memory to the device."""
    gc.collect()
    if device == "cuda":
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def clock(run: Callable[[], object], device: str, calls: int = 1) -> float:
    """Seconds per call of `run`, measured on the device by events."""
    if device == "cpu":
        begun = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - begun) / calls
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls
