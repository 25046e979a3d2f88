"""`rlmem.train`: training from Python, with the options of the command line."""

# ruff: noqa: E402 (a missing Hydra is one line, before the imports that would fail)

from __future__ import annotations

from rlmem.errors import UsageError, need

need("hydra", "rlmem.train", "train", "hydra-core")

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import hydra
import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from rlmem.cli.commands import file_error, interrupt_message, register_third_party
from rlmem.cli.config import has_own_folder, prepare_train, with_saved_groups
from rlmem.cli.hydra_errors import GROUPS, to_usage_error
from rlmem.cli.overrides import check, is_gymnasium_id, quote, readable
from rlmem.envs.given import Batch, Given, given
from rlmem.imports import being_imported
from rlmem.runs import memory
from rlmem.runs import train as training
from rlmem.runs.result import Result

# Options that choose a member by its name.
CHOICES = (*GROUPS, "tuned", "experiment")
# Keys of a dict in a list, as Hydra's grammar reads them.
NAME = r"[A-Za-z_]\w*"

# Hydra's state belongs to the process.
_composing = threading.Lock()


def train(
    env: Any = None,
    *,
    core: Any = None,
    algo: Any = None,
    total_steps: Any = None,
    run_dir: Any = None,
    resume: Any = None,
    eval_env: Any = None,
    callbacks: Any = (),
    **options: Any,
) -> Result:
    """Train an agent, as `rlmem train` does; writes the same run folder.

    `env` is a name of ours, a Gymnasium id, `module:NAME`, `file.py:NAME`, a class or function that
    makes a Gymnasium environment, a `gymnasium.vector.VectorEnv` or a `VecEnv`. `eval_env` is
    another one for the evaluations (no name of ours). Everything else are options of the command
    line: nested dicts, or dotted keys (`**{"algo.gamma": 0.9}`), which mean the same. The `name` in
    the dict of a group chooses its member: `algo={"name": "sac", "gamma": 0.9}`.

    Raises `UsageError` for bad input. A Ctrl-C in the main thread saves a checkpoint first, and the
    handlers of signals are those from before afterwards.
    """
    if module := being_imported():
        raise UsageError(
            f"{module} trains while it is imported for its environment: call rlmem.train under "
            '`if __name__ == "__main__":`'
        )
    named = {"core": core, "algo": algo, "total_steps": total_steps, "run_dir": run_dir}
    named |= {"resume": resume}
    chosen = {key: value for key, value in named.items() if value is not None}
    flat = flatten(chosen | options)
    source = _given(env, flat)
    eval_source = None if eval_env is None else _eval_source(eval_env)
    cfg, unique = _configuration(_overrides(flat), source is not None)
    if isinstance(source, Batch) and resume is None:
        cfg.env = {"name": cfg.env.name, "id": cfg.env.id}
    try:
        with memory.errors():
            return training.train(cfg, unique, source, eval_source, callbacks)
    except KeyboardInterrupt as interrupt:
        again = f"rlmem.train(resume={str(cfg.run_dir)!r})"
        interrupt.args = (interrupt_message(cfg.run_dir, cfg.total_steps, again),)
        raise
    except OSError as error:
        raise file_error(error) from error


def flatten(options: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts as dotted keys; `GROUP.name` is `GROUP`.

    Raises `UsageError` for a key that is given twice.
    """
    found: dict[str, Any] = {}

    def add(key: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for part, below in value.items():
                add(f"{key}.{part}", below)
            return
        group, _, name = key.rpartition(".")
        key = group if name == "name" and group in CHOICES else key
        if not re.fullmatch(r"[\w.-]+", key):
            raise UsageError(f"unknown key {key!r}")
        if key in found:
            raise UsageError(f"{key} is given twice: {found[key]!r} and {value!r}")
        found[key] = value

    for key, value in options.items():
        add(key, value)
    return found


def encode(key: str, value: Any) -> str:
    """A value as the command line takes it; a `UsageError` if it is not plain."""
    if value is None or isinstance(value, bool | np.bool_):
        return "null" if value is None else str(bool(value)).lower()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return quote(str(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(encode(key, each) for each in value)}]"
    if isinstance(value, Mapping) and all(re.fullmatch(NAME, str(part)) for part in value):
        pairs = (f"{part}:{encode(key, each)}" for part, each in value.items())
        return f"{{{','.join(pairs)}}}"
    hint = "; env=lambda: MyEnv(...) can hold any object" if key.startswith("env.") else ""
    raise UsageError(
        f"{key} must be a number, text, true or false, None, or a list or dict of these, not "
        f"{type(value).__name__}{hint}"
    )


def _given(env: Any, flat: dict[str, Any]) -> Given | None:
    """The environment itself if it is an object; adds the options that describe it to `flat`."""
    if env is not None:
        flat |= {key: value for key, value in flatten({"env": env}).items() if key not in flat}
    env = flat.pop("env", None)
    if env is None:
        return None
    if isinstance(env, str):
        flat |= _named(env)
        return None
    source = given(env)
    own = [key for key in flat if key.startswith("env.")]
    if isinstance(source, Batch) and own:
        raise UsageError(f"{own[0]}: options of env go with a name, class or function")
    known = {"num_envs": source.num_envs, "env.vectorization": source.vectorization}
    if flat.get("resume") is None:
        known |= {"env": "gym", "env.id": source.id}
    if isinstance(source, Batch):
        if flat.get("num_envs", source.num_envs) != source.num_envs:
            raise UsageError(
                f"num_envs is {flat['num_envs']}, and the batch has {source.num_envs} environments"
            )
        if source.device is not None:
            known["device"] = str(source.device)
    for key, value in known.items():
        if value is not None:
            flat.setdefault(key, value)
    return source


def _named(env: str) -> dict[str, Any]:
    """The options of an environment given as text."""
    if is_gymnasium_id(env) or env in gymnasium.registry:
        return {"env": "gym", "env.id": env}
    return {"env": env}


def _eval_source(env: Any) -> Given:
    if isinstance(env, str):
        raise UsageError(
            f"eval_env={env!r}: give a class or function, or rlmem.envs.make(NAME, num_envs=N)"
        )
    return given(env)


def _overrides(flat: Mapping[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    overrides = []
    for key, value in flat.items():
        plain = key in CHOICES and isinstance(value, str) and re.fullmatch(r"[\w-]+", value)
        overrides.append(f"{key}={value if plain else encode(key, value)}")
    return overrides


def _configuration(overrides: Sequence[str], env_given: bool) -> tuple[DictConfig, bool]:
    """The checked configuration, and whether its run folder may get another name."""
    with _composing, _own_hydra():
        try:
            check(overrides)
            overrides = with_saved_groups("train", readable(overrides))
            register_third_party()
            cfg = hydra.compose("train", list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            with read_write(cfg), open_dict(cfg):
                del cfg["hydra"]
            cfg = prepare_train(cfg, env_given)
        except (HydraException, OmegaConfBaseException) as error:
            raise to_usage_error(error, "train", overrides) from error
        return cfg, not has_own_folder(cfg)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Use Hydra for this package in the block; a program around it may use Hydra for itself."""
    program, config, version = (
        GlobalHydra.instance(),
        HydraConfig.instance(),
        VersionBase.instance(),
    )
    before = program.hydra, config.cfg, version.version_base
    program.clear()
    try:
        with hydra.initialize_config_module("rlmem.configs", version_base="1.3"):
            yield
    finally:
        GlobalHydra.set_instance(program)
        program.hydra, config.cfg, version.version_base = before
