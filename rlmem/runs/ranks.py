"""Training on several ranks: options that do not go with it, and the parts of a checkpoint.

A checkpoint has the state of rank 0 as that of a single process, and those of the others beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from rlmem import algos
from rlmem.data.place import reshard_place
from rlmem.data.replay_shards import reshard_replay
from rlmem.envs.base import VecEnv
from rlmem.envs.given import Batch, Given
from rlmem.errors import UsageError
from rlmem.ranks import group
from rlmem.runs import checkpoint

# The parts of an algorithm's state that differ between ranks.
OWN = ("place", "replay")
OTHERS = "others"  # the key of the states of all ranks but rank 0
ONE_PROCESS = {"record": "recording", "algo.replay.directory": "a replay in files"}


def require(cfg: DictConfig, unique: bool, env: Given | None) -> None:
    """Raise a `UsageError` if the launched ranks cannot train `cfg` together.

    `unique` says that the run folder may get another name.
    """
    if group.max_restarts() and unique:
        raise UsageError("torchrun --max-restarts needs run_dir=..., to find the run again")
    ranks = group.launched()[1]
    if ranks == 1:
        return
    names = [name for name in algos.names() if algos.requirements(name).ranks]
    if cfg.algo.name not in names:
        raise UsageError(
            f"algo {cfg.algo.name!r} trains in one process only, not on {ranks} ranks (algorithms "
            f"that do: {', '.join(names)})"
        )
    for name, what in ONE_PROCESS.items():
        if OmegaConf.select(cfg, name) is not None:
            raise UsageError(f"{name}: {what} works in one process only, not on {ranks} ranks")
    if isinstance(env, Batch):
        raise UsageError(
            f"a batch of environments cannot be shared out over {ranks} ranks: give env as a name, "
            "class or function"
        )
    part, minibatches = (
        group.share("num_envs", cfg.num_envs, ranks),
        cfg.algo.get("num_minibatches"),
    )
    if isinstance(minibatches, int) and minibatches > 0 and part % minibatches:
        raise UsageError(
            f"num_minibatches ({minibatches}) must divide num_envs ({part} on each of {ranks} "
            "ranks): a minibatch is a set of whole rows"
        )
    if (size := OmegaConf.select(cfg, "algo.replay.batch_size")) is not None:
        group.share("algo.replay.batch_size", size, ranks)


def own_seed(seed: int, step: int) -> int:
    """A seed for the random numbers of this rank, in a training that it joins at `step`."""
    words = np.random.SeedSequence((seed, step, group.number())).generate_state(1, np.uint32)
    return int(words[0] >> 1)


def gathered(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's state with the parts of all ranks, on rank 0; all ranks must call it."""
    if not group.several():
        return dict(trainer)
    algo = trainer["algo"]
    own = {name: _on_host(algo[name]) for name in OWN if name in algo}
    parts = group.gather_at_first({"algo": own, "rng": checkpoint.rng_state()})
    for name in OWN:
        if any(name not in part["algo"] for part in parts):  # the episodes of a rank are too long
            algo = {key: value for key, value in algo.items() if key != name}
            for part in parts:
                part["algo"].pop(name, None)
    return {**trainer, "algo": algo, OTHERS: parts[1:]}


def count_in(trainer: Mapping[str, Any]) -> int:
    """The number of ranks that have trained until a checkpoint."""
    return 1 + len(trainer.get(OTHERS, ()))


def own_part(trainer: Mapping[str, Any], env: VecEnv) -> dict[str, Any]:
    """A trainer's state with the parts of this rank, whose environments are `env`.

    Its `"rng"` is None if there were fewer ranks. Raises `CannotContinue` if there were others, and
    the episodes cannot be shared out anew.
    """
    algo = {name: part for name, part in trainer["algo"].items() if name not in OWN}
    first = {name: trainer["algo"][name] for name in OWN if name in trainer["algo"]}
    parts = [{"algo": first, "rng": trainer["rng"]}, *trainer.get(OTHERS, ())]
    rng = parts[group.number()]["rng"] if group.number() < len(parts) else None
    if len(parts) == group.count():
        algo |= {name: parts[group.number()]["algo"][name] for name in first}
    else:
        states = {name: [part["algo"][name] for part in parts] for name in first}
        algo |= _shared_out(states, env)
    found = {name: part for name, part in trainer.items() if name != OTHERS}
    return found | {"algo": algo, "rng": rng}


def _shared_out(states: Mapping[str, Sequence[Any]], env: VecEnv) -> dict[str, Any]:
    begin = group.rows(env.num_envs).start
    found: dict[str, Any] = {}
    if "replay" in states:
        found["replay"] = reshard_replay(states["replay"], begin, env.num_envs)
    if "place" in states:
        found["place"] = reshard_place(states["place"], env, begin)
    return found


def _on_host(value: Any) -> Any:
    """Nested dicts, lists and tuples with their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_host(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_on_host, value))
    return value
