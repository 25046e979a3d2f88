"""The history that an agent reads, as part of its step: previous action, reward and episode.

In training, the wrappers `PreviousAction` and `Trials` add these leaves to the observations. Here
they come from the state that the step hands on, and from the inputs `reward` and `new_episode`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from rlmem import tree
from rlmem.envs.base import Tensors


class Field(NamedTuple):
    """A tensor of the exported step: its name, dtype and shape without the batch."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class History:
    """The history leaves of an agent (`Agent.spec`, `Agent.env`); none if `spec.history` is None.

    `inputs` are given at each step, `carried` are tensors that the step returns for the next one.
    """

    def __init__(self, spec: Any, env: Any) -> None:
        self.trials = dict(spec.history or {})
        self.inputs: list[Field] = []
        self.carried: list[Field] = []
        self.first: Tensors = {}
        if spec.history is None:
            return
        # The wrapper itself tells the leaves before the first observation.
        env.next = spec.observation_space.sample()
        leaves = env.wrapped.reset()
        self.first = {key: leaf for key, leaf in leaves.items() if key not in env.obs.spaces}
        self.carried = [
            Field(key, self.first[f"previous_{key}"].dtype, tuple(space.shape or ()))
            for key, space in env.action_space.items()
        ]
        if self.trials:
            self.inputs.append(Field("reward", torch.float32, ()))
        if self.trials.get("episodes", 1) > 1:
            self.inputs.append(Field("new_episode", torch.bool, ()))
            self.carried.append(Field("episode", torch.int64, ()))

    def leaves(
        self, inputs: Tensors, carried: Tensors, start: Bool[Tensor, "N"]
    ) -> tuple[Tensors, Tensors]:
        """The leaves to add to the observations, and the carried tensors but for the action."""
        if not self.first:
            return {}, {}
        after: Tensors = {}
        leaves: dict[str, Any] = {f"previous_{key}": x for key, x in carried.items()}
        if self.trials:
            leaves["previous_reward"] = inputs["reward"]
            leaves["previous_done"] = leaves["episode"] = torch.zeros_like(inputs["reward"])
        if "episode" in carried:
            episode = torch.where(start, 0, carried["episode"] + inputs["new_episode"])
            after["episode"] = episode
            last = max(self.trials["horizon"] - 1, 1)
            leaves["episode"] = (episode / last).clamp(max=1)
            leaves["previous_done"] = inputs["new_episode"]
        leaves["start"] = start
        read = {key: leaves[key].to(first.dtype) for key, first in self.first.items()}
        return {key: tree.select(start, self.first[key], leaf) for key, leaf in read.items()}, after
