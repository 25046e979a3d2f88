"""The loggers that a configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlmem.envs.given import Given
from rlmem.runs.evaluate import Trained
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


def require(cfg: DictConfig, env: Given | None) -> None:
    """Raise a `UsageError` if a package is missing (with its extra), or `env` does not render.

    `env` is the environment of evaluations itself, if Python has given it.
    """
    for name in asked_for(cfg.log):
        KINDS[name][0].require()
    if cfg.log.get("video_every") is not None:
        from rlmem.runs.loggers.video import VideoLogger

        VideoLogger.require(cfg, env)


def opened(trained: Trained, stack: ExitStack) -> list[Guarded]:
    """The loggers of a run at its first step, which `stack` closes."""
    cfg = trained.cfg
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    run = Run(trained.run_dir, trained.step, {str(key): value for key, value in plain.items()})
    project, uri = cfg.log.get("project", PROJECT), cfg.log.get("mlflow_uri")

    def make(name: str) -> Logger:
        if name == "wandb":
            return WandbLogger(run, project)
        return MlflowLogger(run, project, uri) if name == "mlflow" else TensorBoardLogger(run)

    found = [Guarded(f"log.{name}", partial(make, name)) for name in asked_for(cfg.log)]
    if cfg.log.get("video_every") is not None:
        from rlmem.runs.loggers.video import OPTION, VideoLogger

        found.append(Guarded(OPTION, partial(VideoLogger, trained)))
    return [stack.enter_context(each) for each in found]
