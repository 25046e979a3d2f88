"""The loggers that a configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlmem.runs.loggers.base import Guarded, Logger, Run
from rlmem.runs.loggers.mlflow_log import MlflowLogger
from rlmem.runs.loggers.tensorboard_log import TensorBoardLogger
from rlmem.runs.loggers.wandb_log import WandbLogger

# The loggers with an option of their name in `log`, and the value for runs of older versions.
KINDS: dict[str, tuple[type[TensorBoardLogger | WandbLogger | MlflowLogger], bool]] = {
    "tensorboard": (TensorBoardLogger, True),
    "wandb": (WandbLogger, False),
    "mlflow": (MlflowLogger, False),
}
PROJECT = "rlmem"


def asked_for(log: Mapping[str, Any]) -> list[str]:
    """The names of the loggers in the configuration `log`."""
    return [name for name, (_, before) in KINDS.items() if log.get(name, before)]


def require(log: Mapping[str, Any]) -> None:
    """Raise a `UsageError`, with the extra to install, if the package of a logger is missing."""
    for name in asked_for(log):
        KINDS[name][0].require()


def opened(cfg: DictConfig, run_dir: Path, step: int, stack: ExitStack) -> list[Guarded]:
    """The loggers of a run at `step`, which `stack` closes."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    run = Run(run_dir, step, {str(key): value for key, value in plain.items()})
    project, uri = cfg.log.get("project", PROJECT), cfg.log.get("mlflow_uri")

    def make(name: str) -> Logger:
        if name == "wandb":
            return WandbLogger(run, project)
        return MlflowLogger(run, project, uri) if name == "mlflow" else TensorBoardLogger(run)

    found = [Guarded(f"log.{name}", partial(make, name)) for name in asked_for(cfg.log)]
    return [stack.enter_context(each) for each in found]
