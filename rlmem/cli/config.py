"""Composed configurations of commands: type checks against the defaults, and the run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlmem.cli import values
from rlmem.cli.help import CONFIGS
from rlmem.cli.hydra_errors import GROUPS, compose, leaves, to_usage_error
from rlmem.cli.overrides import expand_paths
from rlmem.errors import UsageError, unknown
from rlmem.ranks import group as ranks

# The value of `resume` that goes on with the run in `run_dir`, if there is one.
AUTO = "auto"
# Hydra's own configuration, ours, and the empty one.
OUR_SOURCES = {"hydra.conf", "rlmem.configs", ""}
# Groups of options that a resumed run has in its configuration already.
SETS = {"tuned", "experiment"}
# Options that may differ when a sweep goes on.
MAY_DIFFER = r"(total_steps|trust|eval_\w+|checkpoint\w*|log\.\w+) is "


def prepare_train(cfg: DictConfig, env_given: bool = False) -> DictConfig:
    """The checked configuration of `rlmem train`, with the run folder in `run_dir`.

    With `resume` it is that run's configuration, changed by the given options; `resume=auto`
    resumes the run in `run_dir` if there is one. With `env_given` Python gives the environment.
    """
    from rlmem.runs import folder
    from rlmem.runs.saver import interval

    overrides = _check_values(cfg, "train")
    for name in ("checkpoint_every", "eval_every"):
        interval(name, cfg[name], cfg.total_steps)
    interval("log.video_every", cfg.log.get("video_every"), cfg.total_steps)
    if cfg.resume not in (None, AUTO):
        return _resumed_config(cfg, overrides, env_given)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        if any(override.startswith("run_dir=") for override in overrides):
            raise UsageError("run_dir is one folder for many runs: with -m use hydra.sweep.dir")
        cfg.run_dir = os.path.relpath(HydraConfig.get().runtime.output_dir)
    if cfg.resume == AUTO:
        if not has_own_folder(cfg):
            raise UsageError("resume=auto needs run_dir=..., the folder of the run to go on with")
        if (Path(cfg.run_dir) / folder.CONFIG).exists():
            cfg.resume = cfg.run_dir
            resumed = _resumed_config(cfg, overrides, env_given)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                _require_same(resumed)
            return resumed
        cfg.resume = None
    if cfg.checkpoint != "last":
        raise UsageError(f"checkpoint={cfg.checkpoint} needs resume=RUN")
    if has_own_folder(cfg) and (Path(cfg.run_dir) / folder.CONFIG).exists():
        raise UsageError(folder.taken(cfg.run_dir))
    return cfg


def _require_same(cfg: DictConfig) -> None:
    """Raise a `UsageError` if a job of a sweep would go on with a run of other options.

    The folders of a sweep have numbers, which another sweep gives to other options.
    """
    from rlmem.runs import run_files
    from rlmem.runs.build import load_config, plain

    found = run_files.differences(plain(load_config(cfg.resume)), plain(cfg))
    if other := [each for each in found if not re.match(MAY_DIFFER, each)]:
        raise UsageError(
            f"{cfg.resume} is a run with other options ({', '.join(other[:3])}): give another "
            "hydra.sweep.dir"
        )


def has_own_folder(cfg: DictConfig) -> bool:
    """Whether the user has chosen the run folder; the default one may get another name."""
    job = HydraConfig.get()
    given = any(override.lstrip("+").startswith("run_dir=") for override in job.overrides.task)
    return given or job.mode == RunMode.MULTIRUN or cfg.resume not in (None, AUTO)


def prepare_eval(cfg: DictConfig) -> DictConfig:
    """The checked configuration of `rlmem eval`."""
    _check_values(cfg, "eval")
    if cfg.run is None:
        raise UsageError("rlmem eval needs run=<dir>, a folder written by rlmem train")
    if cfg.deterministic not in (None, True, False):
        raise UsageError(f"deterministic must be true, false or null, not {cfg.deterministic!r}")
    if cfg.split is None and not isinstance(cfg.run, str):
        raise UsageError("run must be one folder, except with split=... (trials on its tasks)")
    return cfg


def prepare_export(cfg: DictConfig) -> DictConfig:
    """The checked configuration of `rlmem export`."""
    _check_values(cfg, "export")
    if cfg.run is None or cfg.to is None:
        raise UsageError(
            "rlmem export needs run=<dir or .rlmem file> and to=<file that ends in .onnx, .pt2 or "
            ".rlmem>"
        )
    return cfg


def prepare_play(cfg: DictConfig) -> DictConfig:
    """The checked configuration of `rlmem play`.

    With `run` the environment is that of the run, changed by the given options.
    """
    overrides = _check_values(cfg, "play")
    if cfg.run is not None:
        from rlmem.runs import trust
        from rlmem.runs.build import load_config, plain

        saved = load_config(cfg.run)
        env_overrides = [o for o in overrides if o.lstrip("+").startswith("env")]
        _apply_overrides(saved, cfg, env_overrides, cfg.run)
        cfg.env = saved.env
        trust.require_code(plain(saved), cfg.run, cfg.trust, _single(env_overrides))
    return cfg


def prepare_show(cfg: DictConfig) -> None:
    """Check the values of `rlmem show` and `check`, whose options are those of `train`."""
    _check_values(cfg, "train")


def _check_values(cfg: DictConfig, command: str) -> list[str]:
    """Resolve `cfg` in place and check every value against the type of its default.

    The defaults define the types, so no separate schema is needed. Returns the overrides.
    """
    job = HydraConfig.get()
    # Unresolved: an override that contains an interpolation stays as it was written.
    overrides = OmegaConf.to_container(job.overrides.task, resolve=False)
    chosen = job.runtime.choices
    deciding = [f"{group}={chosen[group]}" for group in GROUPS if group in chosen]
    deciding += [o for o in job.overrides.hydra if o.startswith("hydra.searchpath=")]
    # The files of this package do not change; those of other folders may.
    ours = {source.path for source in job.runtime.config_sources} <= OUR_SOURCES
    defaults = (_defaults if ours else _defaults.__wrapped__)(command, tuple(deciding))
    assert isinstance(overrides, list)
    if any(override.startswith("tuned=") for override in overrides):
        _require_tuned(job.runtime.choices["tuned"])
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise to_usage_error(error, command, overrides) from error
    expand_paths(cfg)
    members = {group: str(job.runtime.choices[group]) for group in GROUPS if group in cfg}
    values.check(cfg, defaults, values.nullable(command, members))
    return overrides


@cache
def _defaults(command: str, deciding: tuple[str, ...]) -> Mapping[str, Any]:
    """The default of every option of a command, after the overrides that choose group members."""
    return dict(leaves(compose(command, deciding)))


def _require_tuned(name: str) -> None:
    """Raise a `UsageError` for an unknown member of `tuned`, which Hydra would ignore."""
    names = GlobalHydra.instance().config_loader().get_group_options("tuned")
    if name not in names:
        raise unknown("tuned", name, names)


def with_saved_groups(command: str, overrides: Sequence[str]) -> list[str]:
    """`overrides`, with the group members of the run that they resume or play.

    So `resume=RUN algo.OPTION=VALUE` knows the options of the run's own algorithm. Raises
    `UsageError` if there is no such run, or for a set of options (`tuned`, `experiment`). After a
    restart by torchrun a training resumes its own run.
    """
    from rlmem.runs.build import load_config

    if command == "train" and ranks.restarts() and _given_path(overrides, "resume") is None:
        # torchrun has started this command before.
        overrides = [*overrides, f"resume={AUTO}"]
    option, groups = {"train": ("resume", GROUPS), "play": ("run", ("env",))}.get(command, ("", ()))
    run = _given_path(overrides, option)
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    if run == AUTO and command == "train":
        # The same command goes on: its sets of options are in the run's configuration already.
        run = _given_path(overrides, "run_dir")
        if run is None or not (Path(run) / "config.yaml").exists():
            return list(overrides)
        given -= SETS
        overrides = [o for o in overrides if o.partition("=")[0].lstrip("+") not in SETS]
    if run is None:
        return list(overrides)
    saved = load_config(run)
    if command == "train" and (whole := given & SETS):
        raise UsageError(f"{whole.pop()}: a resumed run has its own settings; give single options")
    members = []
    for group in groups:
        name = saved[group].get("name")
        needed = name is not None and any(key.startswith(f"{group}.") for key in given)
        # Members of other packages and folders may be missing now; few commands need them.
        if group not in given and (needed or (CONFIGS / group / f"{name}.yaml").exists()):
            members.append(f"{group}={name}")
    return [*members, *overrides]


def _given_path(overrides: Sequence[str], option: str) -> str | None:
    """The path that `overrides` give to an option; None without one."""
    return next((_folder(o) for o in overrides if o.lstrip("+").startswith(f"{option}=")), None)


def _folder(override: str) -> str | None:
    """The path in an override; None for null, the values of a sweep, and if it is not readable."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return None
    value = None if parsed.is_sweep_override() else parsed.value()
    return None if value is None else os.path.expanduser(str(value))


def _resumed_config(cfg: DictConfig, overrides: Sequence[str], env_given: bool) -> DictConfig:
    from rlmem.runs import trust
    from rlmem.runs.build import load_config, plain

    saved = load_config(cfg.resume)
    keys = [override.partition("=")[0].lstrip("+") for override in overrides]
    if "run_dir" in keys and cfg.resume != cfg.run_dir:
        raise UsageError("a resumed run keeps its own folder: give resume or run_dir, not both")
    kept = [o for o, key in zip(overrides, keys, strict=True) if key not in SETS]
    _apply_overrides(saved, cfg, kept, cfg.resume)
    given = _single(overrides)
    code_given = [*given, "env"] if env_given else given
    trust.require_code(plain(saved), cfg.resume, cfg.trust, code_given)
    trust.require_places(plain(saved), cfg.resume, cfg.trust, given)
    saved.run_dir = saved.resume = cfg.resume
    saved.checkpoint, saved.trust = cfg.checkpoint, False
    return saved


def _single(overrides: Sequence[str]) -> list[str]:
    """The keys of single options; `with_saved_groups` has added those of groups."""
    keys = (override.partition("=")[0].lstrip("+") for override in overrides)
    return [key for key in keys if key not in GROUPS]


def _apply_overrides(
    saved: DictConfig, cfg: DictConfig, overrides: Sequence[str], run: str
) -> None:
    """Copy the values that `overrides` set in `cfg` into a run's configuration, in place.

    Options of a group can change; another member of a group is a `UsageError`.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+").removesuffix(".name")
        if key in GROUPS:
            if cfg[key].get("name") != saved[key].get("name"):
                raise UsageError(
                    f"{run} was trained with {key}={saved[key].get('name')}, which cannot be "
                    f"changed to {key}={cfg[key].get('name')}"
                )
        else:
            OmegaConf.update(saved, key, OmegaConf.select(cfg, key), force_add=True)
