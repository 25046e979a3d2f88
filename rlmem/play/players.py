"""Who can play an environment of one: a trained agent, chance, or a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from rlmem.envs.base import Tensors, VecEnv
from rlmem.errors import UsageError
from rlmem.play.words import Words
from rlmem.policies import Policy

# From an observation [1, ...], and whether an episode starts with it, to an action [1, ...].
Player = Callable[[Tensors, bool], Tensors]


class Agent:
    """A trained policy with its memory."""

    def __init__(self, policy: Policy, deterministic: bool) -> None:
        self.policy, self.deterministic = policy, deterministic
        self.state = policy.initial_state(1)

    @torch.no_grad()
    def __call__(self, obs: Tensors, start: bool) -> Tensors:
        """The policy's action."""
        act = self.policy.act(obs, self.state, torch.tensor([start]), self.deterministic)
        self.state = act.state
        return act.action


class Random:
    """Any action, as likely as another."""

    def __init__(self, env: VecEnv, seed: int) -> None:
        self.spaces = env.action_space
        for space in self.spaces.values():
            space.seed(seed)

    def __call__(self, obs: Tensors, start: bool) -> Tensors:
        """The next sample of the action space."""
        return _batch({key: space.sample() for key, space in self.spaces.items()})


class Human:
    """A person who types the numbers of an action in one line, or its name.

    At a terminal a line that is no action is asked for again; elsewhere it is a `UsageError`, as is
    the end of the input.
    """

    def __init__(self, env: VecEnv, words: Words) -> None:
        self.spaces, self.words = env.action_space, words
        self.names = words.action_names()
        listed = [str(i) if name == str(i) else f"{i} {name}" for i, name in self.names.items()]
        self.allowed = ", ".join(listed) or " and ".join(map(str, self.spaces.values()))

    def __call__(self, obs: Tensors, start: bool) -> Tensors:
        """The action that is typed."""
        at_terminal = sys.stdin.isatty()
        while True:
            if at_terminal:
                seen = self.words.obs(obs)
                gap = "\n" if "\n" in seen else " "
                print(f"you see{gap}{seen}{gap}({self.allowed}): ", end="", flush=True)
            line = sys.stdin.readline()
            if not line:
                raise UsageError("the input ended before the episode did")
            try:
                return self.read(line.strip())
            except UsageError as error:
                if not at_terminal:
                    raise
                print(error)

    def read(self, line: str) -> Tensors:
        """The action that a line says; a `UsageError` if there is none."""
        named = [str(i) for i, name in self.names.items() if name == line]
        words = (named[0] if named else line).replace(",", " ").split()
        action: dict[str, Any] = {}
        for key, space in self.spaces.items():
            size = int(np.prod(space.shape or ()))
            action[key] = _entries(words[:size], space)
            words = words[size:]
        if words or any(value is None for value in action.values()):
            raise UsageError(f"{line!r} is no action (allowed: {self.allowed})")
        return _batch(action)


def _entries(words: list[str], space: gym.Space) -> Any:
    """The element of `space` that has these entries; None if there is none."""
    dtype = np.dtype(space.dtype or np.int64)
    try:
        value = np.array(words, dtype).reshape(space.shape or ())
    except ValueError:
        return None
    return value if space.contains(value) else None


def _batch(action: dict[str, Any]) -> Tensors:
    return {key: torch.as_tensor(np.asarray(value))[None] for key, value in action.items()}
