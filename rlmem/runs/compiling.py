"""The option `compile`: CUDA graphs or torch.compile for the two parts of a training."""

from __future__ import annotations

import sys

import torch
from omegaconf import DictConfig

from rlmem.algos import Algorithm, Compilable
from rlmem.compiled import Graphs, Inductor, check, obstacle
from rlmem.envs.base import VecEnv
from rlmem.ranks import group


def of(cfg: DictConfig) -> str:
    """The mode of a configuration; that of older versions is none. A `UsageError` if unknown."""
    return check(cfg.get("compile", "none"))


def apply(cfg: DictConfig, algo: Algorithm, env: VecEnv, device: torch.device) -> None:
    """Let the algorithm use the compiler of the configuration, or say why it does not."""
    mode = of(cfg)
    if mode == "none":
        return
    if reason := _against(mode, cfg, algo, env, device):
        if mode != "auto":
            print(f"compile={mode} has no effect: {reason}", file=sys.stderr)
        elif device.type == "cuda":
            print(f"no CUDA graphs: {reason}", file=sys.stderr)
        return
    assert isinstance(algo, Compilable)
    algo.compile(Inductor() if mode == "inductor" else Graphs(device))


def _against(
    mode: str, cfg: DictConfig, algo: Algorithm, env: VecEnv, device: torch.device
) -> str | None:
    """A reason against the compiler in words; None without one."""
    if mode != "inductor" and device.type != "cuda":
        return f"the device is {device.type}, and CUDA graphs need a GPU"
    if not isinstance(algo, Compilable):
        return f"algo {cfg.algo.name} is not compiled"
    if mode != "auto":  # parts that cannot be captured say it themselves
        return None
    return "several ranks train together" if group.several() else obstacle(env)
