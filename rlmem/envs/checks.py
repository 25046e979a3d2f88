"""Faults of a Gymnasium environment: a list of lines for its author.

Random actions are played for some seconds. Every fault is reported once, where it was first seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from rlmem.envs.random_play import RandomLegal
from rlmem.envs.spaces import ActionSpace, FlatSpace, Leaf
from rlmem.envs.vectorization import EnvFn
from rlmem.errors import UsageError

RESET = "def reset(self, *, seed=None, options=None) must return obs, info"
STEP = "def step(self, action) must return obs, reward, terminated, truncated, info"
SEEDING = "draw all random numbers from self.np_random, after super().reset(seed=seed)"
# Steps after which random play should have ended an episode, and steps that are compared.
ENDLESS, COMPARED = 2_000, 60
# The first episode may last for so many times the seconds of random play.
PATIENCE = 10


class Broken(Exception):
    """The environment cannot be played any further."""


@dataclass
class Findings:
    """The results of random play; `faults` are lines of text, by the subject of each."""

    faults: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    rewards: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    mask: str | None = None

    def fault(self, subject: str, text: str) -> None:
        """Note a fault, unless there is one of that subject."""
        self.faults.setdefault(subject, text)


def check(make: EnvFn, seconds: float = 2.0) -> Findings:
    """Play copies of an environment, for some seconds and 2 * COMPARED steps."""
    found = Findings()
    try:
        _check_play(make, found, seconds)
        if not {"reset", "step"} & found.faults.keys():
            _check_seeds(make, found)
    except Broken:
        pass
    return found


class Copy:
    """A copy of the environment whose results are checked; raises `Broken` if it fails."""

    def __init__(self, make: EnvFn, found: Findings) -> None:
        self.found = found
        try:
            self.env = make()
            self.obs_space = FlatSpace("obs", _space(self.env, "observation_space"))
            actions = ActionSpace("action", _space(self.env, "action_space"))
        except Exception as error:
            found.fault("make", _text(error))
            raise Broken from error
        self.action_space = actions.source
        self.legal: RandomLegal | None = None
        try:
            self.legal = RandomLegal(self.obs_space, actions)
        except UsageError as error:
            found.fault("mask", str(error))
        self.time = 0

    def reset(self, seed: int | None) -> Any:
        """The first observation of an episode."""
        self.time = 0
        try:
            result = self.env.reset(seed=seed, options=None)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                self._fail("reset", error)
            self.found.fault("reset", f"{error}: {RESET}")
            result = self._call("reset", self.env.reset)
        except Exception as error:
            self._fail("reset", error)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            self.found.fault("reset", f"reset returned {_kind(result)}: {RESET}")
            result = result, {}
        obs, info = result
        self._check_obs(obs)
        self._see(obs, info)
        return obs

    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        """Observation, reward and flags of one step."""
        self.time += 1
        result = self._call("step", self.env.step, action)
        if not isinstance(result, tuple) or len(result) != 5:
            old = " (the old API of Gym)" if isinstance(result, tuple) and len(result) == 4 else ""
            self.found.fault("step", f"step returned {_kind(result)}{old}: {STEP}")
            raise Broken
        obs, reward, terminated, truncated, info = result
        if not isinstance(info, Mapping):
            self.found.fault("info", f"info is {_kind(info)}, not a dict")
        self._check_obs(obs)
        flags = {"terminated": terminated, "truncated": truncated}
        for name, flag in flags.items():
            if not isinstance(flag, bool | np.bool_):
                self.found.fault(name, f"{name} is {_kind(flag)}, not True or False")
        ended = bool(np.all(terminated)), bool(np.all(truncated))
        if not any(ended):
            self._see(obs, info)
        return obs, self._reward(reward), *ended

    def random_action(self, sample: Any) -> Any:
        """`sample`, with random legal actions in its masked parts."""
        return sample if self.legal is None else self.legal.of(sample)

    def _see(self, obs: Any, info: Any) -> None:
        """Read the mask of an observation to act on."""
        if self.legal is None:
            return
        try:
            self.legal.read(obs, info if isinstance(info, Mapping) else {})
        except UsageError as error:
            self.found.fault("mask", f"{error} in step {self.time}")
        self.found.mask = self.legal.place

    def close(self) -> None:
        """Close the environment."""
        self._call("close", self.env.close)

    def _reward(self, reward: Any) -> float:
        number = isinstance(reward, int | float | np.integer | np.floating)
        if not number or isinstance(reward, bool):
            self.found.fault("reward", f"the reward is {_kind(reward)}, not a float")
        try:
            value = float(np.asarray(reward, dtype=float).reshape(-1)[0])
        except (TypeError, ValueError, IndexError):
            raise Broken from None
        if not np.isfinite(value):
            self.found.fault("reward", f"the reward is {value} in step {self.time}")
        return value

    def _check_obs(self, obs: Any) -> None:
        try:
            columns = self.obs_space.columns([obs])
        except UsageError as error:
            self.found.fault("obs", f"{error} (step {self.time})")
            raise Broken from None
        for leaf in self.obs_space.leaves:
            self._check_leaf(leaf, _part(obs, leaf.path), columns[leaf.name])

    def _check_leaf(self, leaf: Leaf, value: Any, batch: np.ndarray) -> None:
        space, given = leaf.source, np.asarray(value).dtype
        wanted = np.dtype(space.dtype)
        if isinstance(space, Box) and given != wanted:
            self.found.fault(
                f"{leaf.name} dtype",
                f"{leaf.name} is {given}, and its space {wanted} (converted in every step)",
            )
        try:
            leaf.rows(batch, checked=True)
        except UsageError as error:
            self.found.fault(leaf.name, f"{error} (step {self.time})")
            return
        if isinstance(space, Box) and wanted.kind == "f":
            outside = (batch[0] < space.low) | (batch[0] > space.high)
            if outside.any():
                index = tuple(np.argwhere(outside)[0].tolist())
                place = f"{leaf.name}{list(index) if index else ''}"
                bounds = f"{space.low[index]:g} to {space.high[index]:g}"
                self.found.fault(
                    leaf.name,
                    f"{place} is {batch[0][index]:g} in step {self.time}, outside of its space "
                    f"({bounds})",
                )

    def _call(self, name: str, method: Any, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except Exception as error:
            self._fail(name, error)

    def _fail(self, name: str, error: Exception) -> None:
        self.found.fault(name, f"{name} failed in step {self.time}: {_text(error)}")
        raise Broken from error


def _check_play(make: EnvFn, found: Findings, seconds: float) -> None:
    """Play random actions for some seconds; notes rewards, lengths and returns of episodes."""
    copy = Copy(make, found)
    copy.action_space.seed(0)
    copy.reset(0)
    total, longest, begun = 0.0, 0, time.monotonic()
    while (passed := time.monotonic() - begun) < seconds or (
        # A slow environment has more time for its first episode.
        not found.lengths and found.steps < ENDLESS and passed < PATIENCE * seconds
    ):
        action = copy.random_action(copy.action_space.sample())
        _, reward, terminated, truncated = copy.step(action)
        found.steps += 1
        total += reward
        found.rewards.append(reward)
        longest = max(longest, copy.time)
        if terminated or truncated:
            found.lengths.append(copy.time)
            found.returns.append(total)
            total = 0.0
            copy.reset(None)
    found.seconds = time.monotonic() - begun
    if longest >= ENDLESS and not found.lengths:
        found.fault(
            "end",
            f"no episode has ended in {found.steps:,} random steps: env.max_episode_steps=N ends "
            "episodes",
        )
    copy.close()


def _check_seeds(make: EnvFn, found: Findings) -> None:
    """Compare episodes with the same seed: of one copy, of two copies, and of two at a time."""
    one, other = Copy(make, found), Copy(make, found)
    first = _record([one], 1)[0]
    if difference := _difference(first, _record([one], 1)[0]):
        found.fault("seed", f"the same seed gives another episode ({difference}): {SEEDING}")
    elif difference := _difference(first, _record([other], 1)[0]):
        found.fault("copies", f"a second copy with the same seed differs ({difference})")
    elif difference := _difference(first, _record([one, other], 1)[0]):
        found.fault(
            "copies",
            f"copies that play in turn disturb each other ({difference}): do they share data of "
            "their class or module?",
        )
    one.close()
    other.close()


def _record(copies: list[Copy], seed: int) -> list[list[Any]]:
    """The results of the same random actions in each copy, one step of each at a time.

    The copies after the first one have other seeds.
    """
    space = copies[0].action_space
    space.seed(seed)
    for each in copies:
        if each.legal is not None:
            each.legal.seed(seed)
    # Copied, because an environment may reuse its arrays.
    results = [[deepcopy(each.reset(seed + i))] for i, each in enumerate(copies)]
    for _ in range(COMPARED):
        action = space.sample()
        for each, result in zip(copies, results, strict=True):
            step = deepcopy(each.step(each.random_action(action)))
            ended = step[2] or step[3]
            result.append((*step, deepcopy(each.reset(None)) if ended else None))
    return results


def _difference(one: list[Any], other: list[Any]) -> str | None:
    """The first difference of two recordings; None if they are equal."""
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        if not _equal(a, b):
            return "at the reset" if step == 0 else f"in step {step}"
    return None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a is b or np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def _space(env: Any, name: str) -> gym.Space:
    space = getattr(env, name, None)
    if not isinstance(space, gym.Space):
        raise UsageError(f"{name} is {_kind(space)}, not a space of Gymnasium")
    return space


def _part(obs: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        obs = obs[key]
    return obs


def _kind(value: Any) -> str:
    """A short description of a wrong value."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text}" if len(text) <= 30 else f"a {type(value).__name__}"


def _text(error: Exception) -> str:
    """The type of an exception and its message, on one line."""
    message = " ".join(str(error).split())
    return message if isinstance(error, UsageError) else f"{type(error).__name__}: {message}"
