"""Facts of the hidden state of environments, one number or name for each environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from rlmem.envs.base import Tensors, VecEnv, find_wrapped
from rlmem.envs.meta.task_env import TaskEnv
from rlmem.envs.privileged import PRIVILEGED
from rlmem.envs.tensor_env import TensorEnv

# More facts of one environment are left out.
MAX_FACTS = 32

# Reads the facts [N] at the present observations: floats, or integers or text for classes.
ReadFacts = Callable[[Tensors], dict[str, ndarray]]


def facts_of(env: VecEnv) -> ReadFacts | None:
    """The reader of the facts of `env`; None if no hidden state is known.

    They are the entries of the leaves `privileged`, if the observations have them; else of the
    hidden task, if the environment draws one; else the words of `reveal`.
    """
    if any(_is_hidden(key) for key in env.observation_space):
        return lambda obs: _entries(
            (key.removeprefix(f"{PRIVILEGED}."), leaf)
            for key, leaf in obs.items()
            if _is_hidden(key)
        )
    tasks: TaskEnv | None = find_wrapped(env, TaskEnv)
    if tasks is not None:
        return lambda obs: _entries(_named("task", tasks.task))
    inner: TensorEnv | None = find_wrapped(env, TensorEnv)
    if inner is None:
        return None
    return lambda obs: {"reveal": np.array([inner.reveal(row) for row in range(inner.num_envs)])}


def _is_hidden(key: str) -> bool:
    return key.partition(".")[0] == PRIVILEGED


def _named(name: str, part: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree with the names of their fields."""
    if isinstance(part, Tensor):
        yield name, part
        return
    fields = getattr(part, "_fields", None) or [f"{name}[{i}]" for i in range(len(part))]
    for field, below in zip(fields, part, strict=True):
        yield from _named(field, below)


def _entries(leaves: Iterator[tuple[str, Tensor]]) -> dict[str, ndarray]:
    """Each entry of leaves [N, ...], at most `MAX_FACTS`; those of a single one keep their name."""
    found: dict[str, ndarray] = {}
    for name, leaf in leaves:
        columns = leaf.detach().cpu().reshape(len(leaf), -1)
        columns = columns.long() if columns.dtype == torch.bool else columns
        for i in range(min(columns.shape[1], MAX_FACTS - len(found))):
            found[name if columns.shape[1] == 1 else f"{name}[{i}]"] = columns[:, i].numpy().copy()
    return found
