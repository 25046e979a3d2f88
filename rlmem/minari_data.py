"""Minari's datasets as folders that `algo.dataset` reads.

    python -m rlmem.minari_data ID DIR

adds the local Minari dataset `ID` to the folder `DIR`, episode after episode in its order; `minari
download ID` fetches it first. Needs the extra `minari`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlmem.algos.replay_tapes import START, TERMINATED, TRUNCATED, Played, named
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.errors import UsageError
from rlmem.record import Part


def convert(dataset: str, folder: str | Path) -> Path:
    """Add a local Minari dataset to the dataset in `folder`; returns the new part of it.

    Raises `UsageError` where Minari or the dataset is missing, or `folder` holds something else.
    """
    data = _load(dataset)
    obs, action = FlatSpace("obs", data.observation_space), ActionSpace("action", data.action_space)
    about = {"minari": dataset, "algo": {"name": "minari"}}
    part = Part(Path(folder), obs.spaces, action.spaces, 1, about, int(data.total_steps))
    for episode in data.iterate_episodes():
        part.write(_played(episode, obs, action))
    part.tell()
    if part.path is None:
        raise UsageError(f"the Minari dataset {dataset} is empty")
    return part.path


def _load(dataset: str) -> Any:
    try:
        import minari
    except ImportError as error:
        raise UsageError(
            "reading Minari's datasets needs minari: pip install 'rlmem[minari]'"
        ) from error
    try:
        return minari.load_dataset(dataset)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"there is no Minari dataset {dataset} here (minari download {dataset} fetches it)"
        ) from error


def _played(episode: Any, obs: FlatSpace, action: FlatSpace) -> Played:
    """An episode; what Minari does not call over with its last step was cut off there."""
    steps = len(episode.rewards)
    seen = named("obs", list(obs.spaces), obs.read(episode.observations))
    done = named("action", list(action.spaces), action.read(episode.actions))
    terminated = torch.from_numpy(np.array(episode.terminations, bool))
    ends = torch.zeros(steps, dtype=torch.bool)
    ends[-1] = True
    flags = TERMINATED * terminated.to(torch.uint8)
    flags[-1] |= 0 if terminated[-1] else TRUNCATED
    flags[0] |= START
    leaves = {name: leaf[:steps] for name, leaf in {**seen, **done}.items()} | {
        "reward": torch.from_numpy(np.array(episode.rewards, np.float32)),
        "flags": flags,
    }
    return Played(
        leaves={name: leaf[:, None] for name, leaf in leaves.items()},
        ends=ends[:, None],
        final={name: leaf[steps:] for name, leaf in seen.items()},
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m rlmem.minari_data ID DIR")
    try:
        print(convert(sys.argv[1], sys.argv[2]))
    except UsageError as error:
        sys.exit(f"rlmem: {error}")
