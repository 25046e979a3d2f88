"""A vector environment of Gymnasium that exists already, for `GymVecEnv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rlmem.envs import refusals
from rlmem.envs.refusals import Refused
from rlmem.envs.spaces import FlatSpace
from rlmem.envs.vectorization import BatchedStep, Columns
from rlmem.errors import UsageError

# Vector environments with one seed for each environment.
TAKE_SEEDS = (SyncVectorEnv, AsyncVectorEnv)


class GivenVectorEnv:
    """`env` with the results of a `BatchedEnvs`; the caller has made `env`, and closes it.

    The autoreset mode SAME_STEP starts the next episode in the step that ends one. So does DISABLED
    here, by resets with the option `reset_mask`. With NEXT_STEP an episode has one more step, from
    its last observation, in which the environment ignores the action; memory is reset after that
    one. Raises `UsageError` without an autoreset mode in `metadata`.
    """

    def __init__(self, env: VectorEnv, space: FlatSpace) -> None:
        self._env: Any = env
        self._space = space
        self._mode = env.metadata.get("autoreset_mode")
        if not isinstance(self._mode, AutoresetMode):
            raise UsageError(
                f"{type(env).__name__} must have its AutoresetMode in metadata['autoreset_mode'], "
                f"not {self._mode!r}"
            )
        # Others take one seed for the whole batch.
        self._takes_seeds = isinstance(env.unwrapped, TAKE_SEEDS)
        self._last: BatchedStep | None = None

    def reset(self, seeds: Sequence[int | None]) -> Columns:
        """The first observations of new episodes."""
        self._last = None
        seed = list(seeds) if self._takes_seeds else seeds[0]
        return self._columns(self._env.reset(seed=None if None in seeds else seed)[0])

    def step(self, actions: Any) -> BatchedStep:
        """Take one action in each environment."""
        obs, reward, terminated, truncated, info = self._env.step(actions)
        step = BatchedStep(
            self._columns(obs),
            refusals.rewards(self._rows("reward", reward)),
            refusals.flags("terminated", self._rows("terminated", terminated)),
            refusals.flags("truncated", self._rows("truncated", truncated)),
            None,
        )
        done = step.terminated | step.truncated
        if self._mode is AutoresetMode.NEXT_STEP:
            step = self._after_ignored_actions(step, done)
        elif done.any() and self._mode is AutoresetMode.DISABLED:
            finals = _rows_of(step.obs, done)
            obs, _ = self._env.reset(options={"reset_mask": done})
            step = step._replace(obs=self._columns(obs), final_obs=finals)
        elif done.any():
            step = step._replace(final_obs=self._finals(info.get("final_obs"), done))
        return step

    def _after_ignored_actions(self, step: BatchedStep, done: NDArray[np.bool_]) -> BatchedStep:
        """`step` in the mode NEXT_STEP: memory is reset one step after the end of an episode.

        In that step the episode ends again, so that no return crosses it.
        """
        before, self._last = self._last, step
        if before is None:
            return step._replace(starts=np.zeros_like(done))
        ignored = before.terminated | before.truncated
        last = {key: leaf.copy() for key, leaf in step.obs.items()}
        for key, leaf in last.items():
            leaf[ignored] = before.obs[key][ignored]
        return step._replace(
            terminated=step.terminated | before.terminated,
            truncated=step.truncated | before.truncated,
            final_obs=_rows_of(last, ignored | done),
            starts=ignored,
        )

    def close(self) -> None:
        """Does nothing: the caller closes the environments."""

    def _columns(self, batch: Any) -> Columns:
        try:
            leaves = self._space.leaf_batches(batch)
        except (KeyError, IndexError, TypeError) as error:
            raise Refused(0, f"observations are not in {self._space.source}: {error}") from None
        found: Columns = {}
        for leaf in self._space.leaves:
            rows = np.asarray(leaves[leaf.name])
            shape = (self._env.num_envs, *(leaf.source.shape or ()))
            if rows.shape != shape:
                raise Refused(0, f"{leaf.name} is {list(rows.shape)}, not {list(shape)}")
            found[leaf.name] = refusals.batch(leaf.name, leaf.source, list(rows))
        return found

    def _finals(self, finals: Any, done: NDArray[np.bool_]) -> Columns:
        """The last observations of ended episodes: samples in an object array, or a batch."""
        if finals is None:
            raise UsageError(
                f"{type(self._env).__name__} gives no infos['final_obs'] at the end of an episode"
            )
        if isinstance(finals, Mapping | tuple) or finals.dtype != object:
            return _rows_of(self._columns(finals), done)
        return self._space.columns([finals[row] for row in np.flatnonzero(done)])

    def _rows(self, name: str, values: Any) -> list[Any]:
        """One value for each environment."""
        rows = np.asarray(values)
        if rows.shape != (self._env.num_envs,):
            raise Refused(0, f"{name} is {list(rows.shape)}, not [{self._env.num_envs}]")
        return list(rows)


def _rows_of(leaves: Columns, rows: NDArray[np.bool_]) -> Columns:
    return {key: leaf[rows] for key, leaf in leaves.items()}
