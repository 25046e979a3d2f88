"""Memory of a run: an estimate before anything is built, and one line if it runs out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from rlmem.errors import UsageError

CGROUP = Path("/sys/fs/cgroup/memory.max")
# Lower bounds in bytes: modules of a layer, a seed with its object, a step in a replay.
PER_LAYER, PER_ENV, PER_ENTRY = 8_000, 60, 16
# Messages of failed requests for memory, and for sizes that no tensor has.
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|out of memory|not enough memory|[Ss]torage size calculation overflow"
    r"|integer multiplication overflow|Unable to allocate|array is too big|dimension size is too "
    r"large|cannot fit 'int' into an index"
)
ADVICE = "smaller num_envs, hidden_size, layers, or sizes of the core, algorithm or environment"


def require(cfg: DictConfig, device: torch.device) -> None:
    """Raise a `UsageError` if a run surely needs more memory than `device` has."""
    parts = least_bytes(cfg)
    total = available(device)
    if sum(parts.values()) > total:
        option, most = max(parts.items(), key=lambda part: part[1])
        raise UsageError(
            f"this run needs at least {_size(sum(parts.values()))} of memory, and {device} has "
            f"{_size(total)}: {_size(most)} for {option}"
        )


def least_bytes(cfg: DictConfig) -> dict[str, float]:
    """Lower bounds of the bytes of a run's parts, by the options that determine them.

    A layer has at least one weight matrix, with its gradient and Adam's two moments; a stack of
    layers without memory (`core=none`) only its modules.
    """
    width, layers, envs = float(cfg.hidden_size), float(cfg.layers), float(cfg.num_envs)
    weights = 0 if cfg.core.name == "none" else 16 * width * width
    algo = cfg.algo
    parts = {
        f"layers={cfg.layers} of hidden_size={cfg.hidden_size}": layers * (PER_LAYER + weights),
        f"num_envs={cfg.num_envs}": envs * (PER_ENV + 4 * width),
    }
    if "num_minibatches" in algo:
        steps = algo.get("num_steps")
        parts[f"num_envs={cfg.num_envs} times algo.num_steps={steps}"] = 16 * envs * _number(steps)
    replay = algo.get("replay")
    name, batch = ("algo.replay", replay) if isinstance(replay, DictConfig) else ("algo", algo)
    if batch is replay and replay.get("directory") is None:
        capacity = replay.get("capacity")
        parts[f"algo.replay.capacity={capacity}"] = PER_ENTRY * _number(capacity)
    rows, steps = batch.get("batch_size"), batch.get("length")
    product = f"{name}.batch_size={rows} times {name}.length={steps}"
    parts[product] = 4 * _number(rows) * _number(steps) * width
    return parts


def _number(value: Any) -> float:
    """An option's value; 0 for one that `++` has added, which is refused later."""
    return float(value) if isinstance(value, int | float) else 0.0


def available(device: torch.device) -> float:
    """The bytes of memory of a GPU, or of the machine or its container."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    total = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP.read_text().strip()
    except OSError:
        return total
    return min(total, float(limit)) if limit.isdigit() else total


@contextmanager
def errors() -> Iterator[None]:
    """Turn a failed request for memory, or for an impossible size, into a `UsageError`."""
    try:
        yield
    except UsageError:
        raise
    except (MemoryError, RuntimeError, OverflowError, ValueError) as error:
        text = str(error).strip().split("\n")[0]
        known = isinstance(error, MemoryError | OverflowError | torch.OutOfMemoryError)
        if not known and not OUT_OF_MEMORY.search(text):
            raise
        bytes_wanted = re.search(r"allocate (\d+) bytes", text)
        wanted = f" for {_size(float(bytes_wanted[1]))} at once" if bytes_wanted else ""
        raise UsageError(f"not enough memory{wanted}: give {ADVICE}") from error


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} EB"
