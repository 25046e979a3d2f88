"""Converts Minari datasets into folders for `algo.dataset`.

    python -m rlmem.data.minari ID DIR

adds the local Minari dataset `ID` to the folder `DIR` as a new run, with its episodes in their
order. Download it first with `minari download ID`. Needs the extra `minari`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlmem.data.recorder import RunWriter
from rlmem.data.storage import START, TERMINATED, TRUNCATED, StepBlock, numbered
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.errors import UsageError, install_hint


def convert(dataset: str, folder: str | Path) -> Path:
    """Add a local Minari dataset to the dataset in `folder`; returns the folder of the new run.

    Raises `UsageError` if Minari or the dataset is missing, or `folder` holds anything else.
    """
    data = _load(dataset)
    obs, action = FlatSpace("obs", data.observation_space), ActionSpace("action", data.action_space)
    about = {"minari": dataset, "algo": {"name": "minari"}}
    writer = RunWriter(Path(folder), obs.spaces, action.spaces, 1, about, int(data.total_steps))
    for episode in data.iterate_episodes():
        writer.write(_episode_block(episode, obs, action))
    writer.write_about()
    if writer.path is None:
        raise UsageError(f"the Minari dataset {dataset} is empty")
    return writer.path


def _load(dataset: str) -> Any:
    try:
        import minari
    except ImportError as error:
        raise UsageError(
            f"reading Minari's datasets needs minari: {install_hint('minari')}"
        ) from error
    try:
        return minari.load_dataset(dataset)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"there is no Minari dataset {dataset} here (minari download {dataset} fetches it)"
        ) from error


def _episode_block(episode: Any, obs: FlatSpace, action: FlatSpace) -> StepBlock:
    """The steps of an episode; it is truncated at its last step unless Minari has it terminated."""
    steps = len(episode.rewards)
    observations = numbered("obs", list(obs.spaces), obs.read(episode.observations))
    actions = numbered("action", list(action.spaces), action.read(episode.actions))
    terminated = torch.from_numpy(np.array(episode.terminations, bool))
    ends = torch.zeros(steps, dtype=torch.bool)
    ends[-1] = True
    flags = TERMINATED * terminated.to(torch.uint8)
    flags[-1] |= 0 if terminated[-1] else TRUNCATED
    flags[0] |= START
    leaves = {name: leaf[:steps] for name, leaf in {**observations, **actions}.items()} | {
        "reward": torch.from_numpy(np.array(episode.rewards, np.float32)),
        "flags": flags,
    }
    return StepBlock(
        leaves={name: leaf[:, None] for name, leaf in leaves.items()},
        ends=ends[:, None],
        final={name: leaf[steps:] for name, leaf in observations.items()},
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m rlmem.data.minari ID DIR")
    try:
        print(convert(sys.argv[1], sys.argv[2]))
    except UsageError as error:
        sys.exit(f"rlmem: {error}")
