"""Builds environment, policy and algorithm from a configuration."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from rlmem import algos, envs
from rlmem.algos import Algorithm
from rlmem.data.recorder import Recorder
from rlmem.envs.base import VecEnv, find_wrapped
from rlmem.envs.given import Batch, Given
from rlmem.envs.seeding import train_seeds
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError, positive
from rlmem.options import check_call, check_range, check_type
from rlmem.policies import Policy
from rlmem.ranks import group, reduce
from rlmem.runs import checkpoint, compiling, memory, precision, run_files, trust
from rlmem.runs.guard import environment_errors
from rlmem.runs.size_limit import limited

# Keys that all versions have written, and their types.
SAVED: dict[str, Any] = {
    **dict.fromkeys(("env", "core", "algo", "policy", "log"), dict),
    **dict.fromkeys(("seed", "total_steps", "num_envs", "hidden_size", "layers"), int),
    **dict.fromkeys(("eval_episodes", "checkpoint_keep"), int),
    "device": str,
    "threads": int | None,
}


def resolve_device(name: str) -> torch.device:
    """The device named `auto`, `cpu` or `cuda`; a `UsageError` if it is unknown or unavailable.

    Each of several ranks has a GPU of its own.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name.startswith("cuda") and group.several():
        return _own_gpu(name, count)
    # A pattern, because torch also knows devices that it was built without (mps, xla, meta).
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UsageError(f"unknown device {name!r} (allowed: auto, cpu, cuda, cuda:N)")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        found = f"only {count}" if count else "no"
        raise UsageError(f"device={name}, but torch finds {found} CUDA device")
    return device


def _own_gpu(name: str, count: int) -> torch.device:
    """The GPU of this rank, of `count` on this machine."""
    if name != "cuda":
        raise UsageError(
            f"device={name} is one GPU, and every rank needs its own: give device=cuda"
        )
    if (ranks := group.local_count()) > count:
        raise UsageError(f"{ranks} ranks need as many CUDA devices, and torch finds {count}")
    torch.cuda.set_device(group.local_number())
    return torch.device("cuda", group.local_number())


def options(node: DictConfig) -> dict[str, Any]:
    """The keyword arguments in a configuration group: all keys except `name`."""
    return {key: value for key, value in plain(node).items() if key != "name"}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as nested dicts."""
    found = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def make_env(
    cfg: DictConfig, num_envs: int, device: torch.device, given: Given | None = None
) -> VecEnv:
    """The configured environment, `num_envs` copies, with the history its algorithm needs.

    `given` is the environment itself if Python has given it; the configuration has its options.
    """
    with environment_errors():
        if given is not None:
            known = options(cfg.env) if isinstance(given, Batch) else env_options(cfg)
            env = given.make(num_envs, device, known)
        else:
            env = envs.make(cfg.env.name, num_envs=num_envs, device=device, **env_options(cfg))
    return with_history(env, cfg.algo.name) if "algo" in cfg else env


def env_options(cfg: DictConfig) -> dict[str, Any]:
    """The options of the configured environment, which a class or name takes.

    `info_privileged` is only true with a critic that may read it. Runs of older versions did not.
    """
    found = options(cfg.env)
    if cfg.env.name == "gym":
        asked = "algo" in cfg and found.get("info_privileged", False)
        reads = asked and algos.requirements(cfg.algo.name).policy_type.has_privileged_critic
        found["info_privileged"] = bool(reads)
    return found


def with_history(env: VecEnv, algo: str) -> VecEnv:
    """Add the previous action and reward to the observations of `env` if `algo` needs them."""
    needed = algos.requirements(algo).needs_history and find_wrapped(env, Trials) is None
    return Trials(env, episodes=1) if needed else env


def make_policy(cfg: DictConfig, env: VecEnv) -> Policy:
    """A new policy for the spaces of `env`, of the type that the configured algorithm trains.

    Raises `UsageError`, with the algorithms that fit, if the algorithm does not fit the actions.
    """
    memory.require(cfg, env.device)
    algos.require_supported(cfg.algo.name, env.action_space)
    policy_type = algos.requirements(cfg.algo.name).policy_type
    arguments = policy_arguments(cfg)
    check_call("policy", policy_type, arguments)
    return policy_type(env.observation_space, env.action_space, **arguments)


def training_of(cfg: DictConfig) -> dict[str, Any]:
    """The options of a training that an agent file keeps, for `rlmem eval run=FILE`."""
    found = plain(cfg)
    return {key: found[key] for key in ("env", "seed", "eval_max_steps") if key in found}


def policy_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of the configured policy, but for the spaces; plain values."""
    shared = algos.requirements(cfg.algo.name).policy_options
    return {
        "core": cfg.core.name,
        "core_options": options(cfg.core),
        "hidden_size": cfg.hidden_size,
        "layers": cfg.layers,
        # Runs of older versions had no statistics.
        "normalize_obs": False,
        **options(cfg.policy),
        **{key: value for key, value in options(cfg.algo).items() if key in shared},
    }


def build(
    cfg: DictConfig,
    step: int = 0,
    guard: Callable[[VecEnv], VecEnv] = lambda env: env,
    seeds_used: int = 0,
    given: Given | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> tuple[VecEnv, Policy, Algorithm]:
    """Environment, policy and algorithm of a configuration, for a run at `step`.

    `given` is the environment itself (see `make_env`). `guard` may wrap the environment in which
    the algorithm acts. The environments get the `num_envs` seeds after the first `seeds_used`, so
    that a resumed run has new episodes. They are shared out over the ranks. With `weights` of a
    checkpoint, a policy that is much larger is a `UsageError`.
    """
    device = resolve_device(cfg.device)
    precision.require(cfg, device)
    memory.require(cfg, device)
    seed_everything(cfg.seed)
    num_envs = group.share("num_envs", positive("num_envs", cfg.num_envs))
    env = make_env(cfg, num_envs, device, given)
    with limited(weights, cfg.run_dir):
        policy = make_policy(cfg, env).to(device)
    reduce.copy_first([*policy.parameters(), *policy.buffers()])
    env = guard(env)
    seeds = train_seeds(cfg.seed, cfg.num_envs, seeds_used)[group.rows(num_envs)]
    recorder = None
    if (folder := cfg.get("record")) is not None:
        env = recorder = Recorder(env, Path(folder), _dataset_metadata(cfg))
    algo = algos.make(cfg.algo.name, env=env, policy=policy, seed=seeds, **options(cfg.algo))
    compiling.apply(cfg, algo, env, device)
    if recorder is not None:
        iterations = max(-(-(cfg.total_steps - step) // algo.steps_per_iteration), 0)
        recorder.reserve(iterations * algo.steps_per_iteration // env.num_envs)
    return env, policy, algo


def _dataset_metadata(cfg: DictConfig) -> dict[str, Any]:
    """The description of a run in the dataset that it records."""
    return {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("env", "algo")} | {
        "core": cfg.core.name,
        "seed": cfg.seed,
    }


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch; a `UsageError` if out of range."""
    check_type("seed", seed, int)
    check_range("seed", seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (third-party environments may use it)
    torch.manual_seed(seed)


def load_config(run_dir: str | Path) -> DictConfig:
    """The configuration of a run folder; a `UsageError` if the folder holds no run."""
    run = checkpoint.require_run(run_dir)
    path = run / run_files.CONFIG
    text = run_files.config_text(run)
    try:
        cfg = OmegaConf.create(text)
    except Exception as error:  # YAML and OmegaConf raise their own types
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"cannot read {path}: {reason}") from error
    groups = ("env", "core", "algo", "policy", "log")
    if not isinstance(cfg, DictConfig) or not all(
        isinstance(cfg.get(group), DictConfig) for group in groups
    ):
        raise UsageError(f"{path} is not the configuration of a run")
    for key in trust.WRITTEN:
        if (place := OmegaConf.select(cfg, key)) is not None:
            OmegaConf.update(cfg, key, _moved(str(place), str(cfg.get("run_dir")), run))
    _check_saved(cfg, path)
    return cfg


def _moved(place: str, before: str, run: Path) -> str:
    """A path of a run that was in the folder `before`; one inside it moves with the run."""
    inner = os.path.relpath(os.path.abspath(place), os.path.abspath(before))
    return place if inner.split(os.sep)[0] == os.pardir else str(run / inner)


def _check_saved(cfg: DictConfig, path: Path) -> None:
    """Raise a `UsageError` for a missing key of a run's configuration, or one of another type."""
    if missing := [key for key in SAVED if key not in cfg]:
        raise UsageError(f"{path} is cut or of another version: it has no {', '.join(missing)}")
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    for key, kind in SAVED.items():
        check_type(f"{path}: {key}", plain[key], kind)
        check_range(f"{path}: {key}", plain[key])
    for part in ("env", "core", "algo"):
        check_type(f"{path}: {part}.name", plain[part].get("name"), str)
