"""Recording: every step that is played in training, kept for agents that learn from data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlmem.algos.dataset import ABOUT, FORMAT, TAPES, abouts, described, require_alike
from rlmem.algos.replay import CHUNK, allocate
from rlmem.algos.replay_tapes import Played, Staged, Tapes
from rlmem.envs.base import Spaces, Tensors, Transition, VecEnv


class Part:
    """A new part of the dataset in `folder`, for at most `steps` steps of each environment.

    It is there from the first steps on; where the process dies, what was written stays. Files have
    room for episodes of one step and are sparse: they take the room of what is in them. Raises
    `UsageError` where the folder is no dataset or one of other spaces.
    """

    def __init__(
        self,
        folder: Path,
        observation_space: Spaces,
        action_space: Spaces,
        num_envs: int,
        about: dict[str, Any],
        steps: int | None = None,
    ) -> None:
        self.folder = folder
        self.steps = steps
        self.num_envs = num_envs
        self.keys = tuple(observation_space), tuple(action_space)
        self.about = {
            "format": FORMAT,
            "observation_space": described(observation_space),
            "action_space": described(action_space),
            "num_envs": num_envs,
            **about,
        }
        self.path: Path | None = None
        self.played = 0
        for there in abouts(folder).values():
            require_alike(folder, there, self.about)

    def write(self, played: Played) -> None:
        """Append steps of all environments."""
        if self.path is None:
            assert self.steps is not None
            # Each step may be an episode, whose final observation has an entry too.
            self.about["slots"] = slots = 2 * self.steps
            self.path = self._folder()
            self.tapes = Tapes(self.num_envs, slots, self.path / TAPES)
            self.tapes.open({k: leaf[0, 0] for k, leaf in played.leaves.items()}, allocate)
        self.played += len(played.ends)
        if self.played > self.tapes.slots // 2:
            raise ValueError(f"{self.path} has room for {self.tapes.slots // 2} steps, no more")
        self.tapes.write(played)

    def tell(self) -> None:
        """Write down how much there is."""
        if self.path is not None:
            self._tell(self.path)

    def _tell(self, folder: Path) -> None:
        partial = folder / f"{ABOUT}.partial"
        steps = self.played * self.num_envs
        partial.write_text(json.dumps({**self.about, "steps": steps}, indent=1) + "\n")
        partial.replace(folder / ABOUT)

    def _folder(self) -> Path:
        """A new part, under a number that no other process has taken meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        partial.chmod(0o755)
        self._tell(partial)
        number = len(abouts(self.folder))
        while True:
            try:
                # A folder cannot take the place of one in which there is something.
                return partial.rename(self.folder / f"{number:03d}")
            except OSError:
                number += 1


class Recorder:
    """The environments `env`, with every step that they play in a new part of the dataset `folder`.

    `about` is what its page says beside its form; `steps` and errors are those of `Part`.
    """

    def __init__(
        self, env: VecEnv, folder: Path, about: dict[str, Any], steps: int | None = None
    ) -> None:
        self.env = env
        self.part = Part(
            folder, env.observation_space, env.action_space, env.num_envs, about, steps
        )
        self.num_envs = env.num_envs
        self.device = env.device
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.staged: list[Staged] = []

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode everywhere. An int seeds environment i with `seed + i`."""
        self.obs = self.env.reset(seed)
        self.start: Tensor = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        return self.obs

    def step(self, action: Tensors) -> Transition:
        """Play one action each; a ValueError names the space that an action is not in."""
        step = self.env.step(action)
        self.staged.append(Staged(self.obs, self.start, None, action, step))
        self.obs, self.start = step.obs, step.starts
        if len(self.staged) == CHUNK:
            self.flush()
        return step

    def flush(self) -> None:
        """Write what was kept back."""
        if self.staged:
            self.part.write(Played.of(self.staged, *self.part.keys))
            self.staged = []

    def close(self) -> None:
        """Write the rest and close the environments."""
        self.flush()
        self.part.tell()
        self.env.close()
