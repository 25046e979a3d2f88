"""Batches of Gymnasium environments, on gymnasium's own vector environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray
from torch import Tensor

from rlmem.envs import refusals
from rlmem.envs.base import CannotContinue, Spaces, Tensors, Transition, VecEnv, register
from rlmem.envs.episode_history import History, RepeatsEpisodes, Start
from rlmem.envs.gym_ids import registered
from rlmem.envs.info_mask import add_masks, first_info, mask_space, may_offer_mask, with_mask
from rlmem.envs.info_privileged import add_privileged, beside, privileged_space
from rlmem.envs.mask_check import mask_check
from rlmem.envs.previous_action import PreviousAction
from rlmem.envs.privileged import PRIVILEGED
from rlmem.envs.refusals import Refused
from rlmem.envs.spaces import ActionSpace, FlatSpace
from rlmem.envs.vector_envs import GivenVectorEnv
from rlmem.envs.vectorization import (
    VECTORIZATIONS,
    BatchedEnvs,
    BatchedStep,
    Columns,
    EnvFn,
)
from rlmem.errors import UsageError, positive, unknown
from rlmem.ranks import group, shards
from rlmem.spaces.action_mask import NAME


class GymVecEnv:
    """The environments made by `env_fns`, or those of a vector environment, as a `VecEnv`.

    `vectorization` is `sync` (one after the other in this process) or `async` (one process each,
    faster if a step takes much longer than a message between processes, about 0.1 ms). A
    `VectorEnv` of Gymnasium (see `GivenVectorEnv`) is closed by the caller. Raises `UsageError` for
    spaces that have no tensor form.

    An observation of another shape or kind than its space, and a reward or flag that is not one
    number, are a `UsageError` that names leaf, environment, step (counted since the last `reset`)
    and value. With `check_obs` so are values outside of a discrete space or of the bounds of a Box
    of integers, NaN and infinite values, in observations and rewards, and masks without an action.

    With `info_mask`, an environment's `info["action_mask"]` becomes a leaf of the observations (see
    `rlmem.envs.info_mask`), and with `info_privileged`, its `info["privileged"]` (see
    `rlmem.envs.info_privileged`). One more copy of the environment is reset to find them.
    """

    single_observation_space: gym.Space
    single_action_space: gym.Space
    _obs: FlatSpace
    _action: ActionSpace

    def __init__(
        self,
        env_fns: Sequence[EnvFn] | VectorEnv,
        vectorization: str = "sync",
        device: torch.device | str = "cpu",
        check_obs: bool = True,
        info_mask: bool = True,
        info_privileged: bool = True,
    ) -> None:
        if vectorization not in VECTORIZATIONS:
            raise unknown("vectorization", vectorization, VECTORIZATIONS)
        if isinstance(env_fns, VectorEnv):
            self.num_envs = env_fns.num_envs
            self._read_spaces(env_fns, "single_")
        else:
            self.num_envs = positive("the number of environments", len(env_fns))
            # Checks the spaces first: gymnasium's error for an unknown space is hard to understand.
            probe = env_fns[0]()
            try:
                self._read_spaces(probe)
                env_fns = self._read_infos(probe, env_fns, info_mask, info_privileged)
            finally:
                probe.close()
        self.device = torch.device(device)
        self.check_obs = check_obs
        self.observation_space: Spaces = self._obs.spaces
        self.action_space: Spaces = self._action.spaces
        self._mask_check = mask_check(self.observation_space, self.action_space)
        self.envs: BatchedEnvs = (
            GivenVectorEnv(env_fns, self._obs)
            if isinstance(env_fns, VectorEnv)
            else VECTORIZATIONS[vectorization](env_fns, self._obs)
        )
        self._steps: int | None = None  # since the last reset; None before the first one
        self._history = History(self.num_envs)
        self._latest: Tensors = {}  # the newest observations

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode in every environment. An int seeds environment i with `seed + i`."""
        seeds: list[int | None] = [None] * self.num_envs
        if seed is not None:
            given = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
            seeds = [int(number) for number in given]
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        try:
            obs = self._tensors(self.envs.reset(seeds), 0)
        except Refused as error:
            raise error.at(error.row, 0) from None
        self._steps = 0
        self._history, self._latest = History(self.num_envs), obs
        return obs

    def step(self, action: Tensors) -> Transition:
        """Take one action in each environment; a ValueError names the space of an invalid one."""
        if self._steps is None:
            raise ValueError("step before reset")
        actions = self._action.write(action, self.num_envs)
        self._steps += 1
        try:
            batch = self.envs.step(actions)
            step = self._transition(batch)
        except Refused as error:
            raise error.at(error.row, self._steps) from None
        self._history.add(actions, batch.reward, batch.terminated | batch.truncated)
        self._latest = step.obs
        return step

    def state_dict(self) -> dict[str, Any] | None:
        """The starts, actions and rewards of the present episodes, and the newest observations.

        None before the first `reset`, and if the episodes cannot be repeated: those of a
        `VectorEnv`, too long ones, and those of an environment without a seed.
        """
        if self._steps is None or not isinstance(self.envs, RepeatsEpisodes):
            return None
        starts = self.envs.starts()
        if not self._history.is_complete or not all(start.is_known for start in starts):
            return None
        actions = [
            list(self._action.leaf_batches(each).values()) for each, _ in self._history.steps
        ]
        return {
            "steps": self._steps,
            "starts": [start.text() for start in starts],
            "begun": (self._history.begun - self._history.first).tolist(),
            "actions": [torch.from_numpy(np.stack(leaf)) for leaf in zip(*actions, strict=True)],
            "rewards": [torch.from_numpy(reward).clone() for _, reward in self._history.steps],
            "obs": {key: leaf.clone() for key, leaf in self._latest.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the episodes of a `state_dict` again; `CannotContinue` if that does not succeed."""
        if len(state["starts"]) != self.num_envs or not isinstance(self.envs, RepeatsEpisodes):
            raise CannotContinue("the environments are others")
        self._history = history = History(self.num_envs)
        history.begun[:] = state["begun"]
        leaves = zip(*[leaf.numpy() for leaf in state["actions"]], strict=True)
        batches = [self._action.nest(iter(each)) for each in leaves]
        history.steps.extend(zip(batches, [r.numpy() for r in state["rewards"]], strict=True))
        history.end = len(history.steps)
        space = batch_space(self.single_action_space, self.num_envs)
        rows = [list(iterate(space, batch)) for batch in batches]
        actions = [[row[env] for row in rows[n:]] for env, n in enumerate(state["begun"])]
        starts = [Start.from_text(text) for text in state["starts"]]
        columns, rewards = self.envs.play_again(starts, actions)
        self._steps, self._latest = state["steps"], self._tensors(columns)
        for env in range(self.num_envs):
            same = [float(reward) for reward in rewards[env]] == history.rewards(env)
            for key, leaf in state["obs"].items():
                same &= torch.equal(self._latest[key][env].cpu(), leaf[env].cpu())
            if not same:
                raise CannotContinue(f"environment {env} did not repeat its episode")

    def reshard(self, states: Sequence[dict[str, Any]], first: int) -> dict[str, Any]:
        """The state of these environments, from number `first` on in the states of all ranks."""
        n, steps = self.num_envs, max(len(state["rewards"]) for state in states)
        # Ranks keep steps from their oldest present episode on: fill up with steps before it.
        missing = [steps - len(state["rewards"]) for state in states]
        example: list[Tensor] = next((state["actions"] for state in states if state["actions"]), [])
        begun, rewards, actions = [], [], []
        for state, some in zip(states, missing, strict=True):
            own = len(state["starts"])
            begun += [number + some for number in state["begun"]]
            before = torch.zeros(some, own, dtype=torch.float64)
            rewards.append(torch.cat([before, *(row[None] for row in state["rewards"])]))
            fill = [leaf.new_zeros(some, own, *leaf.shape[2:]) for leaf in example]
            stored = state["actions"] or [leaf[:0] for leaf in fill]
            actions.append([torch.cat(pair) for pair in zip(fill, stored, strict=True)])
        return {
            "steps": states[0]["steps"],
            "starts": [text for state in states for text in state["starts"]][first : first + n],
            "begun": begun[first : first + n],
            "actions": [shards.rows(leaf, first, n, 1) for leaf in zip(*actions, strict=True)],
            "rewards": list(shards.rows(rewards, first, n, 1)),
            "obs": shards.tree_rows([state["obs"] for state in states], first, n),
        }

    def close(self) -> None:
        """Close the environments and their processes."""
        self.envs.close()

    def _read_spaces(self, env: Any, prefix: str = "") -> None:
        self.single_observation_space = _space(env, prefix + "observation_space")
        self.single_action_space = _space(env, prefix + "action_space")
        self._obs = FlatSpace("obs", self.single_observation_space)
        self._action = ActionSpace("action", self.single_action_space)

    def _read_infos(
        self, probe: gym.Env, env_fns: Sequence[EnvFn], mask: bool, privileged: bool
    ) -> Sequence[EnvFn]:
        """The environments with their infos' mask and hidden state, if these are to be read."""
        mask = mask and may_offer_mask(probe)
        privileged = privileged and not any(
            PRIVILEGED in key.split(".") for key in self._obs.spaces
        )
        info = first_info(probe) if mask or privileged else {}
        if mask and info.get(NAME) is not None:
            legal = mask_space(info[NAME])
            env_fns = add_masks(env_fns, legal)
            self.single_observation_space = with_mask(self.single_observation_space, legal)
            self._obs = FlatSpace("obs", self.single_observation_space)
        if privileged and info.get(PRIVILEGED) is not None:
            hidden = privileged_space(info[PRIVILEGED])
            env_fns = add_privileged(env_fns, hidden)
            # Its leaves are beside those of the observation that an agent gets.
            self._obs = FlatSpace("", beside(self.single_observation_space, hidden))
        return env_fns

    def _transition(self, step: BatchedStep) -> Transition:
        reward = refusals.as_float32("reward", step.reward, self.check_obs)
        done = step.terminated | step.truncated
        over = None if step.starts is None else torch.from_numpy(done & ~step.starts)
        obs = self._tensors(step.obs, self._steps, over)
        final_obs = obs if step.final_obs is None else self._scatter(obs, step.final_obs, done)
        return Transition(
            obs,
            self._tensor(reward),
            self._tensor(step.terminated),
            self._tensor(step.truncated),
            final_obs,
            self._tensor(done if step.starts is None else step.starts),
        )

    def _scatter(self, obs: Tensors, finals: Columns, done: NDArray[np.bool_]) -> Tensors:
        """`obs`, with the last observation of the ended episode in the rows that are `done`."""
        rows = np.flatnonzero(done)
        try:
            last = self._tensors(finals)
        except Refused as error:
            raise Refused(int(rows[error.row]), str(error)) from None
        index = torch.from_numpy(rows).to(self.device)
        return {key: leaf.index_copy(0, index, last[key]) for key, leaf in obs.items()}

    def _tensors(
        self, columns: Columns, step: int | None = None, over: Tensor | None = None
    ) -> Tensors:
        """Observations as tensors; `step` is their time step if the agent acts on them.

        In the environments that are `over`, actions are ignored.
        """
        tensors = self._obs.tensors(columns, self.check_obs)
        if self._mask_check and self.check_obs and step is not None:
            self._mask_check(tensors, step, over)
        if self.device.type == "cpu":
            return tensors
        return {key: leaf.to(self.device) for key, leaf in tensors.items()}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)


def _space(env: Any, name: str) -> gym.Space:
    space = getattr(env, name, None)
    if not isinstance(space, gym.Space):
        raise UsageError(f"{env}: {name} must be a space of gymnasium, not {space!r}")
    return space


def vectorize(
    env_fn: EnvFn | Sequence[EnvFn],
    num_envs: int,
    vectorization: str,
    device: torch.device | str,
    previous_action: bool,
    check_obs: bool,
    info_mask: bool = False,
    info_privileged: bool = False,
) -> VecEnv:
    """`num_envs` copies of an environment, optionally with the previous action observed.

    Several functions take turns, through the environments of all ranks.
    """
    turns = [env_fn] if callable(env_fn) else env_fn
    rows = group.rows(positive("num_envs", num_envs))
    env_fns = [turns[i % len(turns)] for i in range(rows.start, rows.stop)]
    env = GymVecEnv(env_fns, vectorization, device, check_obs, info_mask, info_privileged)
    return PreviousAction(env) if previous_action else env


@register("gym")
def make_gym(
    num_envs: int,
    id: str | EnvFn | Sequence[EnvFn] = "CartPole-v1",
    max_episode_steps: int | None = None,
    vectorization: str = "sync",
    previous_action: bool = False,
    check_obs: bool = True,
    info_mask: bool = True,
    info_privileged: bool = True,
    kwargs: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> VecEnv:
    """Any Gymnasium environment; see `registered` for `id`. `kwargs` are its own options.

    In Python, `id` may also be a class or function, or several, which take turns. Raises
    `UsageError` if there is none with that `id`, or if it cannot be made with these options.
    """
    ids = [id] if isinstance(id, str) or callable(id) else id
    env_fns = [registered(each, max_episode_steps, kwargs or {}) for each in ids]
    options = (vectorization, device, previous_action, check_obs, info_mask, info_privileged)
    return vectorize(env_fns, num_envs, *options)
