"""Sources of actions for `rlmem play`: a trained policy, random actions, or a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlmem.cli.play.describe import Describer
from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.legal_actions import LegalActions
from rlmem.envs.meta.players import Player
from rlmem.errors import UsageError
from rlmem.policies import Policy

# Called with an observation [1, ...] and whether it starts an episode; returns an action [1, ...].
ActionSource = Callable[[Tensors, bool], Tensors]


class PolicyActions:
    """Actions of a trained policy or a reference player, which carry their state along."""

    def __init__(self, policy: Policy | Player, deterministic: bool) -> None:
        self.policy, self.deterministic = policy, deterministic
        self.state = policy.initial_state(1)

    @torch.no_grad()
    def __call__(self, obs: Tensors, start: bool) -> Tensors:
        """The player's action."""
        act = self.policy.act(obs, self.state, torch.tensor([start]), self.deterministic)
        self.state = act.state
        return act.action


class RandomActions:
    """Uniform samples of the action space, of legal actions if observations have a mask."""

    def __init__(self, env: VecEnv, seed: int) -> None:
        self.spaces = env.action_space
        self.legal = LegalActions.find(env.observation_space, env.action_space)
        for space in self.spaces.values():
            space.seed(seed)

    def __call__(self, obs: Tensors, start: bool) -> Tensors:
        """The next sample of the action space."""
        action = _batch({key: space.sample() for key, space in self.spaces.items()})
        return action if self.legal is None else action | self.legal.draw(obs)


class HumanActions:
    """Actions typed by a person, one per line: its numbers, or its name.

    At a terminal an invalid line is asked for again; without one it raises a `UsageError`, as does
    the end of the input.
    """

    def __init__(self, env: VecEnv, describer: Describer) -> None:
        self.spaces, self.describer = env.action_space, describer
        self.names = describer.action_names()
        listed = [str(i) if name == str(i) else f"{i} {name}" for i, name in self.names.items()]
        self.allowed = ", ".join(listed) or " and ".join(map(str, self.spaces.values()))
        self.legal = LegalActions.find(env.observation_space, env.action_space)

    def __call__(self, obs: Tensors, start: bool) -> Tensors:
        """The typed action."""
        at_terminal = sys.stdin.isatty()
        while True:
            if at_terminal:
                text = self.describer.obs(obs)
                gap = "\n" if "\n" in text else " "
                print(f"you see{gap}{text}{gap}({self.allowed}): ", end="", flush=True)
            line = sys.stdin.readline()
            if not line:
                raise UsageError("the input ended before the episode did")
            try:
                return self._checked(self.parse(line.strip()), obs)
            except UsageError as error:
                if not at_terminal:
                    raise
                print(error)

    def _checked(self, action: Tensors, obs: Tensors) -> Tensors:
        """The action itself; a `UsageError` if the mask forbids it."""
        if self.legal is not None and not self.legal.allows(obs, action).item():
            raise UsageError(f"{self.describer.action(action)} is not legal now")
        return action

    def parse(self, line: str) -> Tensors:
        """The action of a typed line; a `UsageError` if the line is not an action."""
        named = [str(i) for i, name in self.names.items() if name == line]
        entries = (named[0] if named else line).replace(",", " ").split()
        action: dict[str, Any] = {}
        for key, space in self.spaces.items():
            size = int(np.prod(space.shape or ()))
            action[key] = _element(entries[:size], space)
            entries = entries[size:]
        if entries or any(value is None for value in action.values()):
            raise UsageError(f"{line!r} is not an action (allowed: {self.allowed})")
        return _batch(action)


def _element(entries: list[str], space: gym.Space) -> Any:
    """The element of `space` with these entries; None if there is none."""
    dtype = np.dtype(space.dtype or np.int64)
    try:
        value = np.array(entries, dtype).reshape(space.shape or ())
    except ValueError:
        return None
    return value if space.contains(value) else None


def _batch(action: dict[str, Any]) -> Tensors:
    return {key: torch.as_tensor(np.asarray(value))[None] for key, value in action.items()}
