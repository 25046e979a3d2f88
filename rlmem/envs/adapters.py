"""Helpers of the adapters to other libraries: environments by name, action checks, nesting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import gymnasium as gym
from gymnasium.spaces import Dict, Tuple

from rlmem.envs.base import Spaces, Tensors, VecEnv, registry
from rlmem.envs.spaces import ActionSpace
from rlmem.errors import UsageError

# The name of a leaf, or a dict or tuple of these.
Shape = str | dict[str, Any] | tuple[Any, ...]


def made(env: VecEnv | str, num_envs: int | None, options: dict[str, Any]) -> VecEnv:
    """`env` itself, or the environment of that name, made with `num_envs` and `options`.

    `env_id` is another name of the option `id`, which is an argument of `gymnasium.make_vec`.
    """
    if isinstance(env, str):
        if "env_id" in options:
            if "id" in options or "id" not in registry.options(env):
                problem = "is given twice, as id and as env_id" if "id" in options else "is unknown"
                raise UsageError(f"the option env_id of env {env!r} {problem}")
            options = {"id" if key == "env_id" else key: each for key, each in options.items()}
        given = {} if num_envs is None else {"num_envs": num_envs}
        return registry.make(env, **given, **options)
    if options or num_envs not in (None, env.num_envs):
        raise UsageError("num_envs and options go with an environment's name, not with a made one")
    return env


class ActionCheck:
    """Checks names, shapes, dtypes and values of actions, leaf by leaf."""

    def __init__(self, env: VecEnv) -> None:
        self.num_envs = env.num_envs
        self._leaves = {key: ActionSpace(key, space) for key, space in env.action_space.items()}

    def __call__(self, action: Tensors) -> None:
        """Raises ValueError, which names the space, for an invalid action."""
        for key, space in self._leaves.items():
            space.check({key: action[key]}, self.num_envs)


class Nesting:
    """Nests flat leaves (`obs.0`, `obs.position`, ...) by the dots in their names.

    Children numbered 0, 1, ... become a Tuple, others a Dict. A single root is left out: `obs.0`
    and `obs.1` become a Tuple of two, `obs` and `start` a Dict. Raises `UsageError` if a leaf's
    name is a prefix of another one's.
    """

    def __init__(self, spaces: Spaces) -> None:
        self.shape = _shape(spaces)
        self.space: gym.Space = self._space(self.shape, spaces)

    def nest(self, leaves: Mapping[str, Any]) -> Any:
        """`leaves` as nested dicts and tuples."""
        return _nest(self.shape, leaves)

    def rows(self, leaves: Mapping[str, Any]) -> Iterator[Any]:
        """Leaves [N, ...] as N samples."""
        if isinstance(self.shape, str):
            return iter(leaves[self.shape])
        rows = zip(*leaves.values(), strict=True)
        return (self.nest(dict(zip(leaves, row, strict=True))) for row in rows)

    def flatten(self, nested: Any) -> dict[str, Any]:
        """The leaves by name; KeyError, IndexError or TypeError if the structure differs."""
        found: dict[str, Any] = {}

        def walk(shape: Shape, part: Any) -> None:
            if isinstance(shape, str):
                found[shape] = part
            elif len(part) != len(shape):
                raise KeyError(f"{len(shape)} parts expected, not {len(part)}")
            else:
                inner = shape.items() if isinstance(shape, dict) else enumerate(shape)
                for key, below in inner:
                    walk(below, part[key])

        walk(self.shape, nested)
        return found

    def _space(self, shape: Shape, spaces: Spaces) -> gym.Space:
        if isinstance(shape, str):
            return spaces[shape]
        if isinstance(shape, tuple):
            return Tuple([self._space(part, spaces) for part in shape])
        return Dict({key: self._space(part, spaces) for key, part in shape.items()})


def _shape(names: Iterable[str]) -> Shape:
    roots: dict[str, Any] = {}
    for name in names:
        *path, last = name.split(".")
        node = roots
        for key in path:
            node = node.setdefault(key, {})
            if isinstance(node, str):
                raise UsageError(f"leaf {name!r} lies inside of leaf {node!r}")
        if last in node:
            raise UsageError(f"leaf {name!r} has others inside")
        node[last] = name
    return _tuples(next(iter(roots.values())) if len(roots) == 1 else roots)


def _tuples(node: Any) -> Shape:
    """Dicts with the keys 0, 1, ... as tuples."""
    if isinstance(node, str):
        return node
    parts = {key: _tuples(part) for key, part in node.items()}
    if parts.keys() == {str(i) for i in range(len(parts))}:
        return tuple(parts[str(i)] for i in range(len(parts)))
    return parts


def _nest(shape: Shape, leaves: Mapping[str, Any]) -> Any:
    if isinstance(shape, str):
        return leaves[shape]
    if isinstance(shape, tuple):
        return tuple(_nest(part, leaves) for part in shape)
    return {key: _nest(part, leaves) for key, part in shape.items()}
