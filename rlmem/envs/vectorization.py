"""Gymnasium environments in this process or in one process each, with batched results."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate
from numpy.typing import NDArray

from rlmem.envs import refusals
from rlmem.envs.episode_history import Start, play_again
from rlmem.envs.refusals import Refused
from rlmem.envs.spaces import FlatSpace

EnvFn = Callable[[], gym.Env]
# The leaves of observations by name, each [N, ...] in the dtype of its own space.
Columns = dict[str, np.ndarray]


class BatchedStep(NamedTuple):
    """The results of one step; `final_obs` has the rows of the ended episodes (None: no episode).

    `obs` is the first observation of the next episode in the rows of `starts` (None: those in which
    an episode has ended).
    """

    obs: Columns
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final_obs: Columns | None
    starts: NDArray[np.bool_] | None = None


@runtime_checkable
class BatchedEnvs(Protocol):
    """Environments that step together, with batched results."""

    def reset(self, seeds: Sequence[int | None]) -> Columns: ...

    def step(self, actions: Any) -> BatchedStep: ...

    def close(self) -> None: ...


class SyncEnvs:
    """Environments one after the other in this process, faster than gymnasium's SyncVectorEnv.

    Raises `Refused` for results of a wrong shape or kind, and the environments' own errors.
    """

    def __init__(self, env_fns: Sequence[EnvFn], space: FlatSpace) -> None:
        # Its constructor checks that all spaces are equal.
        self._vector = SyncVectorEnv(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
        self.envs = self._vector.envs
        self._space = space
        self._starts: list[Start] = []

    def reset(self, seeds: Sequence[int | None]) -> Columns:
        """The first observations of new episodes."""
        rows: list[Any] = []
        before: list[Start | None] = [*self._starts] if self._starts else [None for _ in self.envs]
        self._starts = [Start.of(*each) for each in zip(self.envs, seeds, before, strict=True)]
        try:
            for env, seed in zip(self.envs, seeds, strict=True):
                rows.append(env.reset(seed=seed, options=None)[0])
        except Exception as error:
            error.add_note(f"in environment {len(rows)}")
            raise
        return self._space.columns(rows)

    def step(self, actions: Any) -> BatchedStep:
        """Take one action in each environment."""
        rows: list[Any] = []
        rewards: list[Any] = []
        terminations: list[Any] = []
        truncations: list[Any] = []
        finals: dict[int, Any] = {}
        each = iterate(self._vector.action_space, actions)
        try:
            for env, action in zip(self.envs, each, strict=True):
                obs, reward, terminated, truncated, _ = env.step(action)
                try:
                    goes_on = not (terminated or truncated)
                except ValueError:  # arrays of several flags, which are refused below
                    goes_on = True
                if not goes_on:
                    # The environment may reuse the array for its next observation.
                    row = len(rows)
                    finals[row] = copy.deepcopy(obs)
                    self._starts[row] = Start.of(env, None, self._starts[row])
                    obs, _ = env.reset()
                rows.append(obs)
                rewards.append(reward)
                terminations.append(terminated)
                truncations.append(truncated)
        except Exception as error:
            error.add_note(f"in environment {len(rows)}")
            raise
        return BatchedStep(
            reward=refusals.rewards(rewards),
            terminated=refusals.flags("terminated", terminations),
            truncated=refusals.flags("truncated", truncations),
            obs=self._space.columns(rows),
            final_obs=_finals(self._space, finals),
        )

    def starts(self) -> Sequence[Start]:
        """The start of each present episode."""
        return self._starts

    def play_again(
        self, starts: Sequence[Start], actions: Sequence[Sequence[Any]]
    ) -> tuple[Columns, list[list[Any]]]:
        """Repeat an episode in each environment; returns last observations and all rewards."""
        self._starts = list(starts)
        played = [play_again(*each) for each in zip(self.envs, starts, actions, strict=True)]
        return self._space.columns([obs for obs, _ in played]), [rewards for _, rewards in played]

    def close(self) -> None:
        """Close the environments."""
        self._vector.close()


class AsyncEnvs:
    """Environments in one process each, on gymnasium's AsyncVectorEnv.

    Their processes come from a fork server, because a fork of this process would copy torch's
    threads in an undefined state. The server imports this module once for all of them. Raises
    `Refused` for results of a wrong shape or kind, the environments' own errors, and RuntimeError
    if a process has died.
    """

    def __init__(self, env_fns: Sequence[EnvFn], space: FlatSpace) -> None:
        method = "spawn"
        if "forkserver" in multiprocessing.get_all_start_methods():
            method = "forkserver"
            multiprocessing.get_context(method).set_forkserver_preload(["__main__", __name__])
        self._space = space
        self._waiting = False  # for results of the processes
        try:
            self._vector = AsyncVectorEnv(
                [partial(_in_worker, env_fn, space.root, os.getpid()) for env_fn in env_fns],
                autoreset_mode=AutoresetMode.SAME_STEP,
                context=method,
            )
        except (EOFError, ConnectionError) as error:
            message = "the process of an environment died while it made the environment"
            raise RuntimeError(message) from error

    def reset(self, seeds: Sequence[int | None]) -> Columns:
        """The first observations of new episodes."""
        self._waiting = True
        try:
            obs, info = self._vector.reset(seed=list(seeds))
        except (EOFError, ConnectionError) as error:
            self._raise_death(error)
        self._waiting = False
        _raise_failure(info)
        return self._space.leaf_batches(obs)

    def step(self, actions: Any) -> BatchedStep:
        """Take one action in each environment."""
        self._waiting = True
        try:
            obs, reward, terminated, truncated, info = self._vector.step(actions)
        except (EOFError, ConnectionError) as error:
            self._raise_death(error)
        self._waiting = False
        _raise_failure(info)
        ended = np.flatnonzero(terminated | truncated).tolist()
        finals = {row: info["final_obs"][row] for row in ended}
        leaves = self._space.leaf_batches(obs)
        return BatchedStep(leaves, reward, terminated, truncated, _finals(self._space, finals))

    def starts(self) -> Sequence[Start]:
        """The start of each present episode."""
        return self._vector.get_attr("start")

    def play_again(
        self, starts: Sequence[Start], actions: Sequence[Sequence[Any]]
    ) -> tuple[Columns, list[list[Any]]]:
        """Repeat an episode in each environment; returns last observations and all rewards."""
        self._vector.set_attr("episode", list(zip(starts, actions, strict=True)))
        self._waiting = True
        try:
            played = self._vector.call("play_again")
        except (EOFError, ConnectionError) as error:
            self._raise_death(error)
        self._waiting = False
        for row, each in enumerate(played):
            if isinstance(each, Failure):
                each.throw(row)
        return self._space.columns([obs for obs, _ in played]), [rewards for _, rewards in played]

    def close(self) -> None:
        """Close the environments and end their processes, at once after an interrupted call."""
        if self._waiting:
            self._terminate()
        else:
            self._vector.close()

    def _terminate(self) -> None:
        for process in self._vector.processes:
            process.terminate()
            process.join()
        self._vector.closed = True

    def _raise_death(self, error: Exception) -> NoReturn:
        """Ends all processes, and raises RuntimeError with the exit code of the dead one."""
        processes = self._vector.processes
        for process in processes:
            process.join(0.5)
        dead = [row for row, process in enumerate(processes) if not process.is_alive()]
        self._terminate()
        row = dead[0] if dead else 0
        code = processes[row].exitcode
        raise RuntimeError(f"the process of environment {row} died (exit code {code})") from error


def _finals(space: FlatSpace, finals: dict[int, Any]) -> Columns | None:
    """The last observations of ended episodes, by the row of the environment."""
    if not finals:
        return None
    try:
        return space.columns(list(finals.values()))
    except Refused as error:
        raise Refused([*finals][error.row], str(error)) from None


class Failure:
    """The error of an environment in another process, on its way to this one."""

    def __init__(self, error: Exception) -> None:
        self.reason = str(error)
        self.trace = "".join(traceback.format_exception(error))
        self.error = None if isinstance(error, Refused) else _picklable(error)

    def throw(self, row: int) -> NoReturn:
        """Raise the error, which occurred in environment `row`."""
        if self.error is None:
            raise Refused(row, self.reason)
        self.error.add_note(f"in environment {row}, in another process:\n{self.trace}")
        raise self.error


def _picklable(error: Exception) -> Exception:
    """The error itself, or a RuntimeError if it cannot be sent to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _raise_failure(info: dict[str, Any]) -> None:
    for row, failure in enumerate(info.get("failure", ())):
        if failure is not None:
            failure.throw(row)


class Worker(gym.Wrapper):
    """An environment in a process of its own: exact results, and failures in `info`.

    Drops the infos of the environment, which would go through a pipe. AsyncVectorEnv itself would
    print the traceback of an error and end the process.
    """

    def __init__(self, env: gym.Env, root: str) -> None:
        """`root` is the name of the observations."""
        super().__init__(env)
        self._space = FlatSpace(root, env.observation_space)
        self.start: Start | None = None
        self.episode: tuple[Start, Sequence[Any]] | None = None  # for `play_again`

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            obs, reward, terminated, truncated, _ = self.env.step(action)
            return (
                self._exact(obs),
                float(refusals.rewards([reward])[0]),
                bool(refusals.flags("terminated", [terminated])[0]),
                bool(refusals.flags("truncated", [truncated])[0]),
                {},
            )
        except Exception as error:
            failed = {"failure": Failure(error)}
            return self.observation_space.sample(), 0.0, False, False, failed

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        try:
            self.start = Start.of(self.env, options.get("seed"), self.start)
            obs, _ = self.env.reset(**options)
            return self._exact(obs), {}
        except Exception as error:
            return self.observation_space.sample(), {"failure": Failure(error)}

    def play_again(self) -> tuple[Any, list[Any]] | Failure:
        """Repeat the episode `episode`; returns its last observation and its rewards."""
        assert self.episode is not None
        try:
            self.start = self.episode[0]
            obs, rewards = play_again(self.env, *self.episode)
            return self._exact(obs), rewards
        except Exception as error:
            return Failure(error)

    def _exact(self, obs: Any) -> Any:
        """A copy of an observation in the shapes and dtypes of its space.

        AsyncVectorEnv would cut floats to the integers of a Discrete space.
        """
        columns = self._space.columns([obs])
        return self._space.nest(column[0] for column in columns.values())


def _in_worker(env_fn: EnvFn, root: str, main_process: int) -> gym.Env:
    if os.getpid() != main_process:
        # The main process handles Ctrl-C and closes the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Worker(env_fn(), root)


VECTORIZATIONS: dict[str, Callable[[Sequence[EnvFn], FlatSpace], BatchedEnvs]] = {
    "sync": SyncEnvs,
    "async": AsyncEnvs,
}
