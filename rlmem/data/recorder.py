"""Recording: every step of a training run, written to a dataset for offline algorithms."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlmem.data.allocation import allocate
from rlmem.data.dataset import (
    ABOUT,
    FORMAT,
    STORAGE,
    read_abouts,
    require_same_spaces,
    space_texts,
)
from rlmem.data.replay import CHUNK
from rlmem.data.storage import PendingStep, RingStorage, StepBlock
from rlmem.envs.base import Spaces, Tensors, Transition, VecEnv, load_state, state_of
from rlmem.files import atomic_write


class RunWriter:
    """Writes a new run to the dataset in `folder`, at most `steps` steps of each environment.

    The run's folder is created at the first write; if the process dies, everything written so far
    is kept. The files are allocated for episodes of one step but are sparse: they only use disk
    space for written entries. Raises `UsageError` if `folder` is not a dataset or has other spaces.
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
            "observation_space": space_texts(observation_space),
            "action_space": space_texts(action_space),
            "num_envs": num_envs,
            **about,
        }
        self.path: Path | None = None
        self.written = 0  # steps of each environment
        for there in read_abouts(folder).values():
            require_same_spaces(folder, there, self.about)

    def write(self, block: StepBlock) -> None:
        """Append steps of all environments."""
        if self.path is None:
            assert self.steps is not None
            # Each step may be an episode, whose final observation has an entry too.
            self.about["slots"] = slots = 2 * self.steps
            self.path = self._create_folder()
            self.storage = RingStorage(self.num_envs, slots, self.path / STORAGE)
            self.storage.open({k: leaf[0, 0] for k, leaf in block.leaves.items()}, allocate)
        self.written += len(block.ends)
        if self.written > self.storage.slots // 2:
            raise ValueError(f"{self.path} has space for {self.storage.slots // 2} steps only")
        self.storage.write(block)

    def state_dict(self) -> dict[str, Any]:
        """The place of the next step: the run's folder, and the entries in its rings."""
        if self.path is None:
            return {}
        return {"run": self.path.name, "written": self.written, "head": self.storage.head.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the run of a `state_dict`, over later steps.

        If that is gone, too small or another one, the next steps go to a new run.
        """
        found = read_abouts(self.folder).get(self.folder / state["run"]) if state else None
        if found is None or any(found.get(key) != value for key, value in self.about.items()):
            return
        slots, written, head = found["slots"], state["written"], state["head"]
        if written + (self.steps or 0) > slots // 2:
            return
        self.path, self.about["slots"], self.written = self.folder / state["run"], slots, written
        self.storage = RingStorage(self.num_envs, slots, self.path / STORAGE)
        place = {"head": head, "oldest": torch.zeros_like(head), "leaves": {}}
        self.storage.load_state_dict(place, allocate)
        self.storage.written.copy_(head)

    def write_about(self) -> None:
        """Update `about.json` with the number of written steps."""
        if self.path is not None:
            self._write_about(self.path)

    def _write_about(self, folder: Path) -> None:
        steps = self.written * self.num_envs
        atomic_write(folder / ABOUT, json.dumps({**self.about, "steps": steps}, indent=1) + "\n")

    def _create_folder(self) -> Path:
        """A new run folder, with the next number that no other process has taken."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        partial.chmod(0o755)
        self._write_about(partial)
        number = len(read_abouts(self.folder))
        while True:
            try:
                # Renaming fails if the target is a folder that is not empty.
                return partial.rename(self.folder / f"{number:03d}")
            except OSError:
                number += 1


class Recorder:
    """Environments that write every step of `env` to a new run of the dataset in `folder`.

    `about` are further values for the run's `about.json`. Raises the errors of `RunWriter`. Call
    `reserve` before the first step.
    """

    def __init__(self, env: VecEnv, folder: Path, about: dict[str, Any]) -> None:
        self.env = env
        self.writer = RunWriter(
            folder, env.observation_space, env.action_space, env.num_envs, about
        )
        self.num_envs = env.num_envs
        self.device = env.device
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.pending: list[PendingStep] = []

    def reserve(self, steps: int) -> None:
        """Set the maximum number of steps of each environment; call it before the first step."""
        self.writer.steps = steps

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode everywhere. An int seeds environment i with `seed + i`."""
        self.obs = self.env.reset(seed)
        self.start: Tensor = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        return self.obs

    def step(self, action: Tensors) -> Transition:
        """Play one action each; a ValueError names the space that an action is not in."""
        step = self.env.step(action)
        self.pending.append(PendingStep(self.obs, self.start, None, action, step))
        self.obs, self.start = step.obs, step.memory_reset
        if len(self.pending) == CHUNK:
            self.flush()
        return step

    def state_dict(self) -> dict[str, Any] | None:
        """The present episodes, and the place in the dataset; None if those cannot be saved."""
        if (state := state_of(self.env)) is None:
            return None
        self.flush()
        latest = {"obs": self.obs, "start": self.start}
        return {"env": state, "writer": self.writer.state_dict(), **latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the episodes and in the run of a `state_dict`; raises the errors of `env`."""
        load_state(self.env, state["env"])
        self.obs = {key: leaf.to(self.device) for key, leaf in state["obs"].items()}
        self.start = state["start"].to(self.device)
        self.writer.load_state_dict(state["writer"])

    def flush(self) -> None:
        """Write the pending steps."""
        if self.pending:
            self.writer.write(StepBlock.of(self.pending, *self.writer.keys))
            self.pending = []

    def close(self) -> None:
        """Write the pending steps and close the environments."""
        self.flush()
        self.writer.write_about()
        self.env.close()
