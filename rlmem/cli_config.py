"""The composed configuration of a command, checked against its own defaults and made complete."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlmem.cli_errors import GROUPS, compose, explain, leaves
from rlmem.errors import UsageError, unknown

AT_LEAST_ONE = (
    "total_steps",
    "num_envs",
    "hidden_size",
    "layers",
    "eval_episodes",
    "episodes",
    "trials",
    "trial_episodes",
    "threads",
    "checkpoint_every",
    "checkpoint_keep",
)
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list"}


def prepare_train(cfg: DictConfig) -> DictConfig:
    """What `rlmem train` shall do: checked, with the run folder in `run_dir`.

    With `resume` it is the configuration of that run, changed by the options that were given.
    """
    overrides = _check(cfg, "train")
    if cfg.resume is not None:
        return _resumed(cfg, overrides)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        if any(override.startswith("run_dir=") for override in overrides):
            raise UsageError("run_dir is one folder for many runs: with -m give hydra.sweep.dir")
        cfg.run_dir = os.path.relpath(HydraConfig.get().runtime.output_dir)
    if (Path(cfg.run_dir) / "config.yaml").exists():
        raise UsageError(
            f"{cfg.run_dir} holds a run already: give another run_dir, or resume={cfg.run_dir}"
        )
    return cfg


def prepare_eval(cfg: DictConfig) -> DictConfig:
    """What `rlmem eval` shall do: checked."""
    _check(cfg, "eval")
    if cfg.run is None:
        raise UsageError("rlmem eval needs run=<dir>, the folder that rlmem train left")
    if cfg.deterministic not in (None, True, False):
        raise UsageError(f"deterministic must be true, false or null, not {cfg.deterministic!r}")
    if cfg.split is None and not isinstance(cfg.run, str):
        raise UsageError("run is one folder, but with split=... (trials on tasks of that split)")
    return cfg


def prepare_play(cfg: DictConfig) -> DictConfig:
    """What `rlmem play` shall do: checked.

    With `run` its environment is that of the run, changed by the options that were given.
    """
    overrides = _check(cfg, "play")
    if cfg.run is not None:
        from rlmem.train import load_config

        saved = load_config(cfg.run)
        _change(saved, cfg, [o for o in overrides if o.lstrip("+").startswith("env")], cfg.run)
        cfg.env = saved.env
    return cfg


def _check(cfg: DictConfig, command: str) -> list[str]:
    """Resolve `cfg` in place and hold every value against the default of its key.

    The default says what a value is: no schema repeats it. An integer is taken for a number, a
    whole number (1e6) for an integer, and any number for text. Returns the overrides.
    """
    job = HydraConfig.get()
    # As they were written: an interpolation in one is none of this list.
    overrides = OmegaConf.to_container(job.overrides.task, resolve=False)
    deciding = [f"{group}={job.runtime.choices[group]}" for group in GROUPS if group in cfg]
    deciding += [o for o in job.overrides.hydra if o.startswith("hydra.searchpath=")]
    defaults = dict(leaves(compose(command, deciding)))
    assert isinstance(overrides, list)
    if any(override.startswith("tuned=") for override in overrides):
        _known_settings(job.runtime.choices["tuned"])
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise explain(error, command, overrides) from error
    for key, value in leaves(cfg):
        fitting = _fit(key, value, defaults.get(key))
        if fitting is not value:
            OmegaConf.update(cfg, key, fitting)
    return overrides


def _known_settings(name: str) -> None:
    """A `UsageError` where `tuned` has no such member: Hydra lets optional ones be missing."""
    names = GlobalHydra.instance().config_loader().get_group_options("tuned")
    if name not in names:
        raise unknown("tuned", name, names)


def _fit(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`; a `UsageError` if it has none or is out of range."""
    kind = int if key in (*AT_LEAST_ONE, "seed") else type(default)
    if isinstance(value, float) and kind is int and value.is_integer():
        value = int(value)
    elif isinstance(value, int) and kind is float and not isinstance(value, bool):
        value = float(value)
    elif isinstance(value, int | float) and (kind is str or key in ("run", "resume")):
        value = str(value)
    if value is None and (default is None or key not in AT_LEAST_ONE):
        return None
    if kind in KINDS and type(value) is not kind:
        given = "null" if value is None else repr(value)
        raise UsageError(f"{key} must be {KINDS[kind]}, not {given}")
    if key in AT_LEAST_ONE and value < 1:
        raise UsageError(f"{key} must be at least 1, not {value}")
    if kind is int and value < 0 <= (default or 0):
        raise UsageError(f"{key} must not be negative, not {value}")
    return value


def _resumed(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    from rlmem.train import load_config

    saved = load_config(cfg.resume)
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if key == "run_dir":
            raise UsageError("a run goes on in its own folder: give resume or run_dir, not both")
    _change(saved, cfg, overrides, cfg.resume)
    saved.run_dir = saved.resume = cfg.resume
    return saved


def _change(saved: DictConfig, cfg: DictConfig, overrides: Sequence[str], run: str) -> None:
    """Put what `overrides` changed in `cfg` into the configuration of a run, in place.

    Options of its parts can change; to name another part is a `UsageError`.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if key in GROUPS:
            if cfg[key].get("name") != saved[key].get("name"):
                raise UsageError(
                    f"{run} has {key}={saved[key].get('name')} and cannot go on with "
                    f"{key}={cfg[key].get('name')}"
                )
        else:
            OmegaConf.update(saved, key, OmegaConf.select(cfg, key), force_add=True)
