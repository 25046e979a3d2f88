"""Finds and makes Gymnasium environments: by id, in a module, or in a Python file."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError, need, unknown
from rlmem.imports import module_at, place_of
from rlmem.registry import options_of

# Packages needed by environments of Gymnasium itself; rlmem has extras of the same names.
EXTRAS = ("mujoco",)
# The id of a class or function that cannot be imported begins with this.
OBJECT = "object:"


def registered(id: str | EnvFn, max_episode_steps: int | None, kwargs: dict[str, Any]) -> EnvFn:
    """A factory of the environment `id`; `kwargs` are its own options.

    `id` is an id of Gymnasium (`CartPole-v1`), one that a module registers (`module:Name-v0`), or
    a class or function in a module or file (`module:Name`, `./file.py:Name`). Modules are also
    looked for in the current folder. In Python it may be the class or function itself. Raises
    `UsageError` if there is no such environment, or if it does not take these options.
    """
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"max_episode_steps must be at least 1, not {max_episode_steps}")
    if isinstance(id, str):
        spec = copy.deepcopy(_spec(id))
    else:
        id, entry_point = id_of(id), id
        spec = EnvSpec(re.sub(r"\W", "_", id), entry_point=entry_point)
    for module in EXTRAS:
        if str(spec.entry_point).startswith(f"gymnasium.envs.{module}"):
            require(module, id)
    # GymVecEnv itself checks that `reset` comes before `step`.
    spec.order_enforce = False
    return partial(_make, spec, id, max_episode_steps, kwargs)


def id_of(env_fn: EnvFn) -> str:
    """The id of a class or function: `module:Name`, `file.py:Name`, or one that begins with OBJECT.

    Only objects of a module can be imported; those made in functions and in notebooks cannot.
    """
    name = getattr(env_fn, "__qualname__", "") or type(env_fn).__qualname__
    return place_of(env_fn) or OBJECT + name


def require(module: str, what: str, extra: str | None = None) -> None:
    """Raises `UsageError`, with the extra to install, if `module` is missing."""
    need(module, what, extra or module)


def _spec(id: str) -> EnvSpec:
    if id.startswith(OBJECT):
        raise UsageError(
            f"the environment of this run was given in Python, as {id.removeprefix(OBJECT)}: "
            "give it again, as env=... of rlmem.train(resume=...) and rlmem.evaluate"
        )
    where, _, name = id.rpartition(":")
    if not where:
        if id.endswith(".py"):
            raise UsageError(f"env.id {id!r} lacks the name in the file: write {id}:NAME")
        return _registered_spec(id, name)
    module = module_at(where, f"unknown Gymnasium id {id!r}")
    found = getattr(module, name, None)
    if name not in gym.registry and callable(found):
        return EnvSpec(name, entry_point=found)
    own = [key for key, value in vars(module).items() if _makes_env(value)]
    return _registered_spec(id, name, own)


def _makes_env(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, gym.Env) and value is not gym.Env


def _registered_spec(id: str, name: str, names: list[str] | None = None) -> EnvSpec:
    try:
        return gym.spec(name)
    except (gym.error.Error, ImportError) as error:
        near = _nearest(name, [*gym.registry, *(names or [])])
        hint = f"; did you mean {' or '.join(near)}?" if near else f" ({error})"
        raise UsageError(f"unknown Gymnasium id {id!r}{hint}") from error


def _nearest(name: str, known: list[str]) -> list[str]:
    """The nearest names, without regard to case; no vector environments of rlmem."""
    lower = {key.lower(): key for key in known if not key.startswith("rlmem/")}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    return [lower[key] for key in near]


def _make(spec: EnvSpec, id: str, max_episode_steps: int | None, kwargs: dict[str, Any]) -> gym.Env:
    try:
        return gym.make(spec, max_episode_steps, disable_env_checker=True, **kwargs)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
        refused = re.search(r"unexpected keyword argument '(\w+)'", reason)
        if isinstance(error, TypeError) and refused and refused[1] in kwargs:
            known = _options(spec.entry_point)
            raise unknown(f"option of {id!r}:", refused[1], known) from error
        kind = "" if isinstance(error, gym.error.Error) else f"{type(error).__name__}: "
        raise UsageError(f"cannot make {id!r} with {kwargs}: {kind}{reason}") from error


def _options(entry: Callable[..., Any] | str | None) -> list[str]:
    """The keywords of a function, or of the constructors of a class and its bases."""
    creator: Any = load_env_creator(entry) if isinstance(entry, str) else entry
    functions = [creator]
    if inspect.isclass(creator):
        functions = [vars(each)["__init__"] for each in creator.__mro__ if "__init__" in vars(each)]
    found = dict.fromkeys(name for each in functions for name in options_of(each))
    return [name for name in found if name != "self"]
