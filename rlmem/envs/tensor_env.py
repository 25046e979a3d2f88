"""Environments whose state is a handful of tensors: N play at once on any device.

No `step` loops over environments or waits for the device. Two ways to write one, by how its
episodes end:

- `LockstepEnv`: all episodes have one length, so all environments end at once. A subclass says how
  an episode begins (`begin`) and what step t does (`play`); `ScriptedEnv` is the case in which all
  that will be seen and asked can be written down when the episode begins.
- `StateEnv`: episodes end when they end. A subclass draws initial states (`draw`), advances them
  (`advance`) and says what is seen of them (`observe`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem import tree
from rlmem.envs import streams
from rlmem.envs.base import Spaces, Tensors, Transition
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.envs.streams import Draws, Steps
from rlmem.errors import positive

S = TypeVar("S")


class TensorEnv(ABC):
    """What all of them share: spaces, seeds, and the look at actions.

    Actions of a wrong name, shape or kind are always a ValueError that names the space; values out
    of range are with `check_actions` only, since to look at them costs more than to play them.
    Tensors that are handed out are never written to afterwards.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        device: torch.device | str = "cpu",
        check_actions: bool = False,
    ) -> None:
        self.num_envs = positive("num_envs", num_envs)
        self.device = torch.device(device)
        self.check_actions = check_actions
        self._action = ActionSpace("action", action_space)
        self.observation_space: Spaces = FlatSpace("obs", observation_space).spaces
        self.action_space: Spaces = self._action.spaces
        self.key: Tensor | None = None

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode everywhere. An int seeds environment i with `seed + i`.

        Without a seed the streams of random numbers go on; the first time they begin anywhere.
        """
        if seed is None and self.key is not None:
            return self._restart()
        if seed is None:
            seed = np.random.SeedSequence().generate_state(self.num_envs, np.uint64).tolist()
        seeds = range(seed, seed + self.num_envs) if isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        self.key = streams.keys([int(number) for number in seeds], self.device)
        self.episode = torch.zeros_like(self.key)
        self.steps = Steps(self.key)
        return self._restart()

    def step(self, action: Tensors) -> Transition:
        """Play one action each; a ValueError names the space that an action is not in."""
        if self.key is None:
            raise ValueError("step before reset")
        if self.check_actions:
            self._action.write(action, self.num_envs)
        else:
            self._action.check_form(action, self.num_envs)
        return self._step(action)

    def close(self) -> None:  # noqa: B027
        """Nothing is held that would have to be freed."""

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """What environment `row` sees, for a person to read."""
        return " ".join(str(leaf[row].tolist()) for leaf in obs.values())

    def describe_action(self, action: Tensors, row: int) -> str:
        """What environment `row` does, for a person to read."""
        return " ".join(str(leaf[row].tolist()) for leaf in action.values())

    def reveal(self, row: int) -> str:
        """What environment `row` hides from the agent just now, for a person to read."""
        return ""

    @abstractmethod
    def _restart(self) -> Tensors: ...

    @abstractmethod
    def _step(self, action: Tensors) -> Transition: ...

    def _flags(self, value: bool) -> Bool[Tensor, "N"]:
        make = torch.ones if value else torch.zeros
        return make(self.num_envs, dtype=torch.bool, device=self.device)


class LockstepEnv(TensorEnv):
    """All episodes have `length` steps; `self.t` counts those that have been played.

    The last one terminates them, or truncates them where `truncates` is set.
    """

    length: int
    truncates = False
    t: int

    @abstractmethod
    def begin(self, draws: Draws) -> Tensors:
        """Draw what an episode hides; returns its first observation."""

    @abstractmethod
    def play(self, t: int, action: Tensors) -> tuple[Tensors, Float[Tensor, "N"]]:
        """Step t (from 0): the observation after it, and its reward."""

    def _restart(self) -> Tensors:
        assert self.key is not None
        self.t = 0
        draws = Draws(self.key, self.episode)
        self.episode = self.episode + 1
        return self.begin(draws)

    def _step(self, action: Tensors) -> Transition:
        obs, reward = self.play(self.t, action)
        self.t += 1
        never = self._flags(False)
        if self.t < self.length:
            return Transition(obs, reward, never, self._flags(False), obs)
        ended = self._flags(True)
        flags = (never, ended) if self.truncates else (ended, never)
        return Transition(self._restart(), reward, *flags, obs)


# A tensor, or what its rows are: a tuple of them is quicker to index.
Rows = Tensor | Sequence[Tensor]


class Script(NamedTuple):
    """An episode that is known when it begins: what is seen, and which answers are right.

    `answer[t]` belongs to step t, before which `obs[t]` is seen; both are float32 or integers, of
    which narrow ones save memory and time: as int64 they would fill more than the caches.
    """

    obs: Mapping[str, Rows]  # leaves [length + 1, N, ...]
    answer: Rows  # [length, N]


class ScriptedEnv(LockstepEnv):
    """Questions whose right answers do not depend on what was answered before.

    An answer earns `reward` where it is right and `-reward` where it is wrong in those steps for
    which `asked(t)` holds, and nothing in the others.
    """

    reward: float
    script: Script

    @abstractmethod
    def write(self, draws: Draws) -> Script:
        """Draw an episode for each environment."""

    def asked(self, t: int) -> bool:
        """Whether step t counts."""
        return True

    def score(self, t: int, action: Tensor) -> Float[Tensor, "N"]:
        """The reward of step t."""
        if not self.asked(t):
            return torch.zeros(self.num_envs, device=self.device)
        right = action == self.script.answer[t]
        return torch.add(self._wrong, right, alpha=2 * self.reward)

    def begin(self, draws: Draws) -> Tensors:
        """The first observation of a new script."""
        script = self.write(draws)
        obs = {key: _rows(leaf) for key, leaf in script.obs.items()}
        self.script = Script(obs, _rows(script.answer))
        self._wrong = torch.full((), -self.reward, device=self.device)
        return self._seen(0)

    def play(self, t: int, action: Tensors) -> tuple[Tensors, Float[Tensor, "N"]]:
        """The next observation of the script, and the reward of the answer."""
        return self._seen(t + 1), self.score(t, action["action"])

    def _seen(self, t: int) -> Tensors:
        return {key: _widen(leaf[t]) for key, leaf in self.script.obs.items()}


def _widen(row: Tensor) -> Tensor:
    return row if row.is_floating_point() else row.long()


def _rows(leaf: Rows) -> Sequence[Tensor]:
    return leaf.unbind() if isinstance(leaf, Tensor) else leaf


class StateEnv(TensorEnv, Generic[S]):
    """Episodes that end one by one; `self.state` is a tree of tensors [N, ...].

    Initial states are drawn ahead: `spares` of them for each environment, which last for at least
    `spares * shortest` steps, as no episode has fewer than `shortest` steps. Then all are drawn
    anew, the unused ones too (they come out as they were): so no step has to ask the device which
    of the environments need one. On a CPU, where to ask costs next to nothing, they are drawn when
    an environment has used up its own, and only the ended ones are touched; the episodes are the
    same.
    """

    shortest = 1
    spares = 1
    axis = 0  # which dimension of the leaves is that of the environments: the first, or -1
    state: S

    @abstractmethod
    def draw(self, draws: Draws) -> S:
        """Initial states of `draws.size` episodes."""

    @abstractmethod
    def advance(
        self, state: S, action: Tensors
    ) -> tuple[S, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """The next state (it may be the old one, changed), reward, terminated, truncated."""

    @abstractmethod
    def observe(self, state: S) -> Tensors:
        """What is seen of states [N, ...]; new tensors, which share no memory with the state."""

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode everywhere. An int seeds environment i with `seed + i`."""
        if seed is not None or self.key is None:
            # Of which row of the pool each environment's next episode is: none has been played.
            self._next = torch.arange(self.num_envs, device=self.device)
        return super().reset(seed)

    @property
    def _may_ask(self) -> bool:
        """Whether to look at a result costs little; elsewhere it would wait for the device."""
        return self.device.type == "cpu"

    def _restart(self) -> Tensors:
        self._refill()
        self.state = self._fresh(self._next)
        self._next += self.num_envs
        self._left = 0
        return self.observe(self.state)

    def _step(self, action: Tensors) -> Transition:
        if self._left == 0:
            self._restock()
        self._left -= 1
        state, reward, terminated, truncated = self.advance(self.state, action)
        self.state = state
        obs = final_obs = self.observe(state)
        if self._renew(terminated | truncated):
            obs = self.observe(self.state)
        return Transition(obs, reward, terminated, truncated, final_obs)

    def _renew(self, done: Bool[Tensor, "N"]) -> bool:
        """Give the ended environments their next episodes; False if there was none for sure."""
        if not self._may_ask:
            select = tree.select if self.axis == 0 else _select_last
            # Who has used up all its spares does not end before the next ones are drawn.
            fresh = self._fresh(self._next % (self.spares * self.num_envs))
            self.state = select(done, fresh, self.state)
            self._next = torch.add(self._next, done, alpha=self.num_envs)
            return True
        found = done.nonzero()
        if len(found) == 0:
            return False
        rows = found.squeeze(1)
        chosen = self._next.index_select(0, rows)
        fresh = self._fresh(chosen)
        tree.map(lambda leaf, new: leaf.index_copy_(self.axis, rows, new), self.state, fresh)
        self._next.index_copy_(0, rows, chosen.add_(self.num_envs))
        return True

    def _restock(self) -> None:
        if self._may_ask and self.spares > 1:
            used = int(self._next.max()) // self.num_envs
            self._left = (self.spares - used) * self.shortest
        if self._left == 0:
            self._refill()

    def _refill(self) -> None:
        """Draw each environment's next `spares` episodes: first one of each, then another."""
        assert self.key is not None
        self.episode = self.episode + self._next // self.num_envs
        self._next = self._next % self.num_envs
        spare = torch.arange(self.spares, device=self.device)[:, None]
        key = self.key.expand(self.spares, -1)
        self._pool: Any = self.draw(Draws(key.reshape(-1), (self.episode + spare).reshape(-1)))
        self._left = self.spares * self.shortest

    def _fresh(self, spares: Int[Tensor, "K"]) -> S:
        """Copies of these initial states."""
        return tree.map(lambda leaf: leaf.index_select(self.axis, spares), self._pool)


def _select_last(mask: Bool[Tensor, "N"], yes: Any, no: Any) -> Any:
    """As `tree.select`, for environments in the last dimension."""
    return tree.map(lambda a, b: torch.where(mask, a, b), yes, no)
