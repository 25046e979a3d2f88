"""Base classes of environments on tensors: N of them step at once, on any device.

No `step` loops over environments or waits for the device. An environment is three functions, which
a subclass defines: `initial_state` draws states for new episodes, `transition` advances states by
one action, and `observe` gives the observations of states. The base class depends on how episodes
end:

- `LockstepEnv`: all episodes have the same length, so all environments end together.
- `ScriptedEnv`: a `LockstepEnv` whose observations and right answers do not depend on actions. A
  subclass defines `initial_state` only.
- `StateEnv`: each environment ends its episodes by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlmem import tree
from rlmem.envs import counter_rng
from rlmem.envs.base import Spaces, Tensors, Transition
from rlmem.envs.counter_rng import RandomDraws, RandomSteps
from rlmem.envs.observation_check import observation_check
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.envs.tensor_state import WithState
from rlmem.errors import positive

S = TypeVar("S")


class TensorEnv(WithState):
    """Spaces, seeds and the checks of actions and observations, for all environments on tensors.

    An action of a wrong name, shape or dtype is always a ValueError that names the space. Values
    out of range are errors with `check_actions` only, since the check takes longer than the step.
    So are observations outside of their spaces and rewards that are not finite, with `check_obs`.
    Tensors returned by `reset` and `step` are never written to afterwards.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        device: torch.device | str = "cpu",
        check_actions: bool = False,
        check_obs: bool = False,
    ) -> None:
        self.num_envs = positive("num_envs", num_envs)
        self.device = torch.device(device)
        self.check_actions = check_actions
        self._action = ActionSpace("action", action_space)
        self._action_forms = self._action.forms(num_envs)
        space = FlatSpace("obs", observation_space)
        self._obs_check = observation_check(space, self._action.spaces, num_envs, check_obs)
        self.observation_space: Spaces = space.spaces
        self.action_space: Spaces = self._action.spaces
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.key: Tensor | None = None

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode in every environment. An int seeds environment i with `seed + i`.

        Without a seed the streams of random numbers continue; the first time, seeds are random.
        """
        if seed is not None or self.key is None:
            self._seed(seed)
        obs = self._restart()
        if self._obs_check:
            self._obs_check.reset(obs)
        return obs

    def _seed(self, seed: int | Sequence[int] | None) -> None:
        if seed is None:
            seed = np.random.SeedSequence().generate_state(self.num_envs, np.uint64).tolist()
        seeds = range(seed, seed + self.num_envs) if isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        self.key = counter_rng.keys([int(number) for number in seeds], self.device)
        self.episode = torch.zeros_like(self.key)
        # The random numbers of `transition`.
        self.random_steps = RandomSteps(self.key)

    def step(self, action: Tensors) -> Transition:
        """Take one action in each environment; a ValueError names the space of an invalid one."""
        if self.key is None:
            raise ValueError("step before reset")
        if self.check_actions:
            self._action.write(action, self.num_envs)
        elif not self._has_form(action):
            self._action.check_form(action, self.num_envs)  # raises
        step = self._step(action)
        if self._obs_check:
            self._obs_check.step(step)
        return step

    @abstractmethod
    def _restart(self) -> Tensors: ...

    @abstractmethod
    def _step(self, action: Tensors) -> Transition: ...

    def _has_form(self, action: Tensors) -> bool:
        """Whether the names, dtypes and shapes of an action are right."""
        return action.keys() == self._action_forms.keys() and all(
            action[name].dtype in dtypes and action[name].shape == shape
            for name, (dtypes, shape) in self._action_forms.items()
        )

    def _flags(self, value: bool) -> Bool[Tensor, "N"]:
        make = torch.ones if value else torch.zeros
        return make(self.num_envs, dtype=torch.bool, device=self.device)


class LockstepEnv(TensorEnv, Generic[S]):
    """Environments whose episodes all have `length` steps.

    `self.state` is the state of the episodes, and `self.t` the number of steps taken. The last step
    terminates the episodes, or truncates them if `truncates` is set.
    """

    length: int
    truncates = False
    carried = ("t",)
    t: int
    state: S

    @abstractmethod
    def initial_state(self, draws: RandomDraws) -> S:
        """Initial states of new episodes."""

    @abstractmethod
    def transition(self, state: S, t: int, action: Tensors) -> tuple[S, Float[Tensor, "N"]]:
        """Next state (may be `state`, changed in place) and reward of step `t`, counted from 0."""

    @abstractmethod
    def observe(self, state: S, t: int) -> Tensors:
        """Observations of states after `t` steps; tensors that are never written to later."""

    def _restart(self) -> Tensors:
        assert self.key is not None
        self.t = 0
        draws = RandomDraws(self.key, self.episode)
        self.episode = self.episode + 1
        self.state = self.initial_state(draws)
        return self.observe(self.state, 0)

    def _draw_again(self) -> S:
        assert self.key is not None
        return self.initial_state(RandomDraws(self.key, self.episode - 1))

    def _step(self, action: Tensors) -> Transition:
        self.state, reward = self.transition(self.state, self.t, action)
        self.t += 1
        obs = self.observe(self.state, self.t)
        never = self._flags(False)
        if self.t < self.length:
            # Two flags share a tensor: allocating one takes up to a tenth of a step.
            truncated = torch.zeros_like(never)
            return Transition(obs, reward, never, truncated, obs, truncated)
        ended = self._flags(True)
        flags = (never, ended) if self.truncates else (ended, never)
        return Transition(self._restart(), reward, *flags, obs, ended)


# A tensor [T, ...], or the sequence of its T entries, which is faster to index.
TimeSeries = Tensor | Sequence[Tensor]


class Script:
    """The observations and right answers of episodes, known when they begin.

    `answer[t]` belongs to step t, whose observation is `obs[...][t]`. Both are float32 or integers.
    Narrow integers save memory and time: as int64 a script would not fit the caches.
    """

    replayable = True

    def __init__(self, obs: Mapping[str, TimeSeries], answer: TimeSeries) -> None:
        """`obs` has leaves [length + 1, N, ...]; `answer` is [length, N]."""
        self.obs = {key: _entries(leaf) for key, leaf in obs.items()}
        self.answer = _entries(answer)


class ScriptedEnv(LockstepEnv[Script]):
    """Questions whose right answers do not depend on earlier actions.

    At the steps with `asked(t)`, a right answer earns `reward` and a wrong one `-reward`. The other
    steps earn nothing. A subclass defines `initial_state`, which draws the script.
    """

    reward: float
    fixed = True

    def asked(self, t: int) -> bool:
        """Whether the action of step t is rewarded."""
        return True

    def transition(
        self, state: Script, t: int, action: Tensors
    ) -> tuple[Script, Float[Tensor, "N"]]:
        """The reward of the answer; the script stays the same."""
        return state, self.score(state, t, action["action"])

    def score(self, state: Script, t: int, action: Tensor) -> Float[Tensor, "N"]:
        """The reward of step t."""
        if not self.asked(t):
            return torch.zeros(self.num_envs, device=self.device)
        right = action == state.answer[t]
        return torch.add(self._wrong, right, alpha=2 * self.reward)

    def observe(self, state: Script, t: int) -> Tensors:
        """Entry `t` of the script."""
        return {key: _widen(leaf[t]) for key, leaf in state.obs.items()}

    @cached_property
    def _wrong(self) -> Float[Tensor, ""]:
        return torch.full((), -self.reward, device=self.device)


def _widen(entry: Tensor) -> Tensor:
    return entry if entry.is_floating_point() else entry.long()


def _entries(leaf: TimeSeries) -> Sequence[Tensor]:
    return leaf.unbind() if isinstance(leaf, Tensor) else leaf


class StateEnv(TensorEnv, Generic[S]):
    """Environments that end their episodes one by one; `self.state` is a tree of tensors [N, ...].

    Initial states are drawn ahead, `spares` for each environment. An episode has at least
    `shortest` steps, so they last for at least `spares * shortest` steps. Then all are drawn again,
    unused ones included (with the same result). This way no step has to ask the device which
    environments need a new state. On a CPU, where asking is cheap, they are drawn only when an
    environment has used its last one, and only the rows of ended environments are written. The
    episodes are the same.
    """

    shortest = 1
    spares = 1
    axis = 0  # the dimension of the leaves that counts environments: 0 or -1
    carried = ("_next", "_left")
    countdowns = ("_left",)
    state: S

    @abstractmethod
    def initial_state(self, draws: RandomDraws) -> S:
        """Initial states of `draws.size` episodes."""

    @abstractmethod
    def transition(
        self, state: S, action: Tensors
    ) -> tuple[S, Float[Tensor, "N"], Bool[Tensor, "N"], Bool[Tensor, "N"]]:
        """Next state (may be `state`, changed in place), reward, terminated, truncated."""

    @abstractmethod
    def observe(self, state: S) -> Tensors:
        """Observations of states [N, ...]; new tensors that share no memory with the state."""

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """As `TensorEnv.reset`."""
        if seed is not None or self.key is None:
            # The row of the pool that holds each environment's next episode.
            self._next = torch.arange(self.num_envs, device=self.device)
        return super().reset(seed)

    @property
    def _may_ask(self) -> bool:
        """Whether reading a result is cheap. On other devices it would wait for the device."""
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
        state, reward, terminated, truncated = self.transition(self.state, action)
        self.state = state
        obs = final_obs = self.observe(state)
        done = terminated | truncated
        if self._renew(done):
            obs = self.observe(self.state)
        return Transition(obs, reward, terminated, truncated, final_obs, done)

    def _renew(self, done: Bool[Tensor, "N"]) -> bool:
        """Start the next episodes of ended environments; False if certainly none has ended."""
        if not self._may_ask:
            # An environment without spares cannot end before the next ones are drawn.
            fresh = self._fresh(self._next % (self.spares * self.num_envs))
            # The leaves of other states have their environments in the last dimension.
            pick = partial(torch.where if self.axis else tree.select, done)
            self.state = tree.map(pick, fresh, self.state)
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
        """Draw the next `spares` episodes of each environment: one of each, then the second, ..."""
        self.episode = self.episode + self._next // self.num_envs
        self._next = self._next % self.num_envs
        self._draw_pool()
        self._left = self.spares * self.shortest

    def _draw_pool(self) -> None:
        assert self.key is not None
        spare = torch.arange(self.spares, device=self.device)[:, None]
        key = self.key.expand(self.spares, -1)
        self._pool: Any = self.initial_state(
            RandomDraws(key.reshape(-1), (self.episode + spare).reshape(-1))
        )

    def _draw_again(self) -> S:
        self._draw_pool()
        return self._fresh(torch.arange(self.num_envs, device=self.device))

    def _fresh(self, spares: Int[Tensor, "K"]) -> S:
        """Copies of these initial states."""
        return tree.map(lambda leaf: leaf.index_select(self.axis, spares), self._pool)
