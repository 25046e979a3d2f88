"""The precision of matrix products in training: `precision=fp32` or `bf16`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from omegaconf import DictConfig

from rlmem.errors import UsageError, unknown

PRECISIONS = ("fp32", "bf16")


def of(cfg: DictConfig) -> str:
    """The precision of a configuration; that of older versions is fp32.

    Raises `UsageError` for an unknown one.
    """
    name = cfg.get("precision", "fp32")
    if name not in PRECISIONS:
        raise unknown("precision", str(name), PRECISIONS)
    return str(name)


def require(cfg: DictConfig, device: torch.device) -> None:
    """Raise a `UsageError` for a precision that the device does not compute."""
    if of(cfg) == "bf16" and not _multiplies_bf16(device):
        place = "this CPU has neither AVX512-BF16 nor AMX"
        if device.type == "cuda":
            place = f"{torch.cuda.get_device_name(device)} has no units for it"
        raise UsageError(f"precision=bf16 would not be faster here: {place}; give precision=fp32")


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products of bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Newer versions of torch have a public function, `torch.cpu.get_capabilities`.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def context(name: str, device: torch.device) -> AbstractContextManager[Any]:
    """Products in this precision in the block: autocast with `bf16`.

    Weights, states, sums of products and gradients stay float32. The block may change weights, so
    autocast keeps no converted ones.
    """
    if name == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
