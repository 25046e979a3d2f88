"""Errors of an environment: one line for the user, and a file with the traceback."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlmem.envs.base import Tensors, Transition, VecEnv, load_state, reshard, state_of
from rlmem.errors import UsageError
from rlmem.runs.stop import Stop

FILE = "error.txt"
MAX_LENGTH = 300


class EnvironmentFailure(UsageError):
    """An exception of an environment; `error` is the environment's own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the environment failed: {describe(error)}")
        self.error = error


class GuardedEnv:
    """`env`, whose errors become `EnvironmentFailure`, and whose steps a late stop interrupts."""

    replayable = True  # a captured step is too short to be interrupted

    def __init__(self, env: VecEnv, stop: Stop) -> None:
        self.env = env
        self.stop = stop
        self.failed = False  # inside a step
        self.num_envs = env.num_envs
        self.device = env.device
        self.observation_space = env.observation_space
        self.action_space = env.action_space

    def reset(self, seed: int | Sequence[int] | None = None) -> Tensors:
        """Start a new episode in every environment. An int seeds environment i with `seed + i`."""
        with environment_errors():
            return self.env.reset(seed)

    def step(self, action: Tensors) -> Transition:
        """Take one action in each environment."""
        self.stop.enter_env()
        self.failed = True
        try:
            step = self.env.step(action)
        except Exception as error:
            raise EnvironmentFailure(error) from error
        finally:
            self.stop.leave_env()
        self.failed = False
        return step

    def state_dict(self) -> dict[str, Any] | None:
        """The present episodes; None if they cannot be saved, or a step has failed."""
        return None if self.failed else state_of(self.env)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the episodes of a `state_dict`; raises the errors of `env`."""
        with environment_errors():
            load_state(self.env, state)

    def reshard(self, states: Sequence[dict[str, Any]], first: int) -> dict[str, Any]:
        """The state of these environments from those of all ranks; raises the errors of `env`."""
        return reshard(self.env, states, first)

    def close(self) -> None:
        """Close the environments; errors of that lose nothing and are ignored."""
        with suppress(Exception):  # a dead process, a window that is gone
            self.env.close()


@contextmanager
def closing(env: VecEnv) -> Iterator[VecEnv]:
    """Close `env` at the end; after an exception, errors of closing do not hide it."""
    try:
        yield env
    except BaseException:
        with suppress(Exception):
            env.close()
        raise
    env.close()


@contextmanager
def environment_errors() -> Iterator[None]:
    """Turn exceptions of an environment, except `UsageError`, into `EnvironmentFailure`."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise EnvironmentFailure(error) from error


def describe(error: Exception) -> str:
    """The type of an exception and the first line of its message, on one line."""
    if isinstance(error, UsageError):
        return str(error)
    name, text = type(error).__name__, str(error).strip()
    if isinstance(error, EOFError | ConnectionError):
        return f"a worker process died ({name})"
    first = text.splitlines()[0] if text else ""
    return f"{name}: {first[:MAX_LENGTH]}" if first else name


def report(failure: EnvironmentFailure, folder: Path | None, context: str = "") -> UsageError:
    """The line for the user; writes the traceback to `error.txt` in `folder`.

    Without a folder the file is a temporary one. `context` follows the environment's error.
    """
    lines = [time.strftime("%Y-%m-%d %H:%M:%S "), str(failure), "\n"]
    text = "".join([*lines, *traceback.format_exception(failure.error), "\n"])
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="rlmem-"))
    path = folder / FILE
    try:
        # No link is followed.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with os.fdopen(handle, "a", encoding="utf-8") as file:
            file.write(text)
        place = f"traceback: {path}"
    except OSError as error:
        place = f"cannot write {path}: {error.strerror}"
    return UsageError("; ".join(filter(None, [str(failure), context, place])))
