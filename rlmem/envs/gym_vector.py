"""Adapter from batched environments to `gymnasium.vector.VectorEnv`, numpy in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from rlmem.envs.adapters import ActionCheck, Nesting, made
from rlmem.envs.base import Tensors, VecEnv
from rlmem.errors import UsageError

Step = tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class GymnasiumVectorEnv(VectorEnv):
    """`env` (or the environment of that name, made with `num_envs` and `options`) for Gymnasium.

    The spaces are nested like the original ones (`obs.0` in a Tuple, `obs.position` in a Dict),
    with the leaves of the table in `rlmem.envs.spaces`: discrete values start at 0, floats are
    float32. The caller owns all returned arrays and may write to them.

    The option `id` of the environments `gym` and `masked` can also be given as `env_id`, because
    `gymnasium.make_vec` has an argument `id` of its own.

    An ended environment starts its next episode in the same step (`AutoresetMode.SAME_STEP`). The
    last observation is `infos["final_obs"][i]` if `infos["_final_obs"][i]` is True. `final_info` is
    present as in Gymnasium's own vector environments, but empty.

    An invalid action is a ValueError that names the space. Values are checked with `check_actions`
    only, which takes about 0.01 ms.
    """

    def __init__(
        self,
        env: VecEnv | str,
        num_envs: int | None = None,
        check_actions: bool = True,
        **options: Any,
    ) -> None:
        self.env = made(env, num_envs, options)
        self.num_envs = self.env.num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self._check = ActionCheck(self.env) if check_actions else None
        self._action = Nesting(self.env.action_space)
        self.single_action_space: Space = self._action.space
        self.action_space: Space = batch_space(self._action.space, self.num_envs)
        self._obs = Nesting(self.env.observation_space)
        self.single_observation_space: Space = self._obs.space
        self.observation_space: Space = batch_space(self._obs.space, self.num_envs)
        self._dtypes = {key: space.dtype for key, space in self.env.observation_space.items()}

    def reset(
        self,
        *,
        seed: int | np.integer | Sequence[int | None] | NDArray[np.integer] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start a new episode in every environment, seeded with `seed + i`, or `seed[i]`.

        `options={"reset_mask": ...}` must be all True (UsageError): a single environment starts an
        episode only when its last one ends. There are no other options.
        """
        if not np.all((options or {}).get("reset_mask", True)):
            raise UsageError("reset_mask must be True everywhere: an episode starts where one ends")
        seeds = _seeds(seed)
        if isinstance(seeds, int):
            super().reset(seed=seeds)
        return self._obs.nest(self._arrays(self.env.reset(seeds))), {}

    def step(self, actions: Any) -> Step:
        """Take one action in each environment; a ValueError names the space of an invalid one."""
        action = self._tensors(actions)
        if self._check:
            self._check(action)
        step = self.env.step(action)
        terminated, truncated = _array(step.terminated, bool), _array(step.truncated, bool)
        done = terminated | truncated
        infos = self._final(step.final_obs, done) if done.any() else {}
        obs = self._obs.nest(self._arrays(step.obs))
        return obs, _array(step.reward, np.float64), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        self.env.close()

    def _final(self, obs: Tensors, done: NDArray[np.bool_]) -> dict[str, Any]:
        """The infos of gymnasium's own vector environments for the rows that are `done`."""
        rows = np.flatnonzero(done)
        columns = {
            key: _samples(self.env.observation_space[key], leaf[rows])
            for key, leaf in self._arrays(obs).items()
        }
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row, sample in zip(rows.tolist(), self._obs.rows(columns), strict=True):
            final_obs[row] = sample
        return {
            "final_obs": final_obs,
            "_final_obs": done,
            "final_info": {},
            "_final_info": done.copy(),
        }

    def _tensors(self, actions: Any) -> Tensors:
        try:
            arrays = self._action.flatten(actions)
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"actions are not in {self.action_space}: {error}") from error
        # Copied, since environments may keep actions, and the caller may write to the array.
        return {
            key: torch.from_numpy(np.array(leaf)).to(self.env.device)
            for key, leaf in arrays.items()
        }

    def _arrays(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        return {key: _array(leaf, self._dtypes[key]) for key, leaf in tensors.items()}


def _samples(space: Space, rows: NDArray[Any]) -> NDArray[Any] | list[NDArray[Any]]:
    """The rows of a leaf as samples of its space: those of a Box of shape () are 0-d arrays."""
    if isinstance(space, Box) and rows.ndim == 1:
        return [rows[i : i + 1].reshape(()) for i in range(len(rows))]
    return rows


def _seeds(seed: Any) -> int | list[int] | None:
    if seed is None or isinstance(seed, int | np.integer):
        return None if seed is None else int(seed)
    if not all(isinstance(each, int | np.integer) for each in seed):
        raise UsageError(f"seeds must be integers, not {seed}")
    return [int(each) for each in seed]


def _array(tensor: Tensor, dtype: Any) -> NDArray[Any]:
    """A copy, since tensors of environments must never be written to."""
    return tensor.cpu().numpy().astype(dtype)
