"""An environment with random masks of its actions, which refuses illegal ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from rlmem.envs.base import Tensors, Transition

Masks = dict[str, np.ndarray]
Action = Mapping[str, np.ndarray]


class Form(NamedTuple):
    """A form of masks: spaces of actions and of masks, and whether an action is legal."""

    actions: dict[str, spaces.Space]
    masks: dict[str, tuple[int, ...]]
    is_legal: Callable[[Masks, Action], bool]


def entries(masks: Masks, action: Action) -> bool:
    """MultiDiscrete([2, 3]): the places of both values in a mask of five."""
    a, b = action["action"]
    return bool(masks[""][a] and masks[""][2 + b])


FORMS = {
    "discrete": Form(
        {"action": spaces.Discrete(5)}, {"": (5,)}, lambda m, a: bool(m[""][a["action"]])
    ),
    "start": Form(
        {"action": spaces.Discrete(3, start=-2)},
        {"": (3,)},
        lambda m, a: bool(m[""][a["action"] + 2]),
    ),
    "each": Form({"action": spaces.MultiDiscrete([2, 3])}, {"": (5,)}, entries),
    "tuple": Form(
        {"action": spaces.MultiDiscrete([2, 3])},
        {"0": (2,), "1": (3,)},
        lambda m, a: bool(m["0"][a["action"][0]] and m["1"][a["action"][1]]),
    ),
    "joint": Form(
        {"action": spaces.MultiDiscrete([2, 3])},
        {"": (2, 3)},
        lambda m, a: bool(m[""][tuple(a["action"])]),
    ),
    "bits": Form(
        {"action": spaces.MultiBinary(2)},
        {"": (4,)},
        lambda m, a: bool(m[""][a["action"][0]] and m[""][2 + a["action"][1]]),
    ),
    "nested": Form(
        {
            "action.free": spaces.Discrete(2),
            "action.kind": spaces.Discrete(3),
            "action.move": spaces.MultiDiscrete([2, 2]),
        },
        {"kind": (3,), "move": (2, 2)},
        lambda m, a: bool(m["kind"][a["action.kind"]] and m["move"][tuple(a["action.move"])]),
    ),
    "hybrid": Form(
        {"action.kind": spaces.Discrete(3), "action.push": spaces.Box(-1, 1, (2,))},
        {"": (3,)},
        lambda m, a: bool(m[""][a["action.kind"]]),
    ),
}


class MaskedEnv:
    """Episodes of four steps with random observations, rewards and masks.

    Every environment i with i % 3 == 0 has a single legal action. The final observations of
    terminated episodes have none. Environments with an odd number truncate their episodes.
    """

    def __init__(self, form: str, num_envs: int = 6) -> None:
        self.form = FORMS[form]
        self.num_envs, self.device = num_envs, torch.device("cpu")
        self.observation_space: dict[str, spaces.Space] = {"obs.x": spaces.Box(-1, 1, (2,))}
        for path, shape in self.form.masks.items():
            name = f"obs.action_mask.{path}".rstrip(".")
            self.observation_space[name] = spaces.Box(0, 1, shape, np.uint8)
        self.action_space = self.form.actions
        self.rng = np.random.default_rng(0)
        for space in self.action_space.values():
            space.seed(0)
        self.odd = torch.arange(num_envs) % 2 == 1
        self.checked = 0

    def reset(self, seed: object = None) -> Tensors:
        self.time = 0
        self.masks = self.draw()
        return self.obs(self.masks)

    def step(self, action: Tensors) -> Transition:
        for row, masks in enumerate(self.masks):
            one = {key: leaf[row].numpy() for key, leaf in action.items()}
            assert self.form.is_legal(masks, one), (masks, one)
            self.checked += 1
        self.time += 1
        self.masks = self.draw()
        over = torch.full((self.num_envs,), self.time % 4 == 0)
        terminated, truncated = over & ~self.odd, over & self.odd
        last = [
            {path: mask * (not ended) for path, mask in masks.items()}
            for masks, ended in zip(self.draw(), terminated.tolist(), strict=True)
        ]
        final = self.obs(last) if over.any() else None
        obs = self.obs(self.masks)
        reward = torch.rand(self.num_envs)
        return Transition(obs, reward, terminated, truncated, final or obs, over)

    def close(self) -> None:
        pass

    def legal_actions(self) -> Tensors:
        """A random legal action of each environment."""
        rows = [self._legal_action(masks) for masks in self.masks]
        return {
            key: torch.as_tensor(np.stack([row[key] for row in rows])) for key in self.action_space
        }

    def _legal_action(self, masks: Masks) -> dict[str, Any]:
        while True:
            action = {key: np.asarray(space.sample()) for key, space in self.action_space.items()}
            if self.form.is_legal(masks, action):
                return action

    def draw(self) -> list[Masks]:
        """Masks with at least one legal action each."""
        return [self._draw_row(row % 3 == 0) for row in range(self.num_envs)]

    def _draw_row(self, single: bool) -> Masks:
        while True:
            masks: Masks = {}
            for path, shape in self.form.masks.items():
                masks[path] = (self.rng.random(shape) < (0.0 if single else 0.4)).astype(np.uint8)
                self._ensure(masks[path], path)
            if any(mask.any() for mask in masks.values()):
                return masks

    def _ensure(self, mask: np.ndarray, path: str) -> None:
        """Makes one value of each entry legal (of combinations: one)."""
        parts = {"each": [2, 3], "bits": [2, 2]}.get(self._name(), [mask.size])
        first = 0
        for size in parts:
            mask.reshape(-1)[first + self.rng.integers(size)] = 1
            first += size

    def _name(self) -> str:
        return next(name for name, form in FORMS.items() if form is self.form)

    def obs(self, masks: list[Masks]) -> Tensors:
        found: Tensors = {"obs.x": torch.rand(self.num_envs, 2) * 2 - 1}
        for path in self.form.masks:
            name = f"obs.action_mask.{path}".rstrip(".")
            found[name] = torch.from_numpy(np.stack([row[path] for row in masks]))
        return found
