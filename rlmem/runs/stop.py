"""Stops a run by a signal: Ctrl-C, SIGTERM and SIGUSR1 (sent by clusters), SIGHUP (a terminal).

The first signal lets the current iteration finish. An iteration that takes longer than `PATIENCE`
is left where weights, optimizer and replay are consistent: in a step of the environment, or after
a step of an optimizer. A second signal stops at once. Several ranks finish the iteration together,
whatever its time, and a signal to one of them stops all.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from rlmem.ranks import group, reduce

# Seconds that an iteration may take after a signal; clusters kill 30 seconds after theirs.
PATIENCE = 10.0
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run; `exit_code` is that of a shell, 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, also with the message that a command has added."""
        return Interrupted, (self.exit_code - 128,), {"args": self.args}


class LeftIteration(BaseException):
    """An iteration was left in the middle; no handler of an environment may catch this."""


class Stop:
    """The state of a requested stop. `requested` is the number of the first signal, or None."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._finishing = False  # the first signal lets an iteration finish
        self._overdue = False
        self._in_env = False

    @contextmanager
    def handlers(self) -> Iterator[None]:
        """Handle the signals; without `finishing_iterations`, the first one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            # nohup ignores SIGHUP.
            if number == signal.SIGINT or handler is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def finishing_iterations(self) -> Iterator[None]:
        """Let the first signal only set `requested`; a late iteration gets `LeftIteration`."""
        hook = register_optimizer_step_post_hook(lambda *_: self.check())
        alarm = signal.getsignal(signal.SIGALRM)
        self._finishing = True
        try:
            yield
        finally:
            self._finishing = False
            hook.remove()
            if self.requested is not None:
                self.left()
                signal.signal(signal.SIGALRM, alarm)

    def agree(self) -> int | None:
        """The number of the signal to any rank that stops all of them; None without one."""
        if group.several():
            self.requested = reduce.highest_number(self.requested or 0) or None
        return self.requested

    def check(self) -> None:
        """Raise `LeftIteration` if the iteration should have finished by now."""
        if self._overdue:
            raise LeftIteration

    def enter_env(self) -> None:
        """Begin a call of an environment, which a late stop interrupts; check before it."""
        self.check()
        self._in_env = True

    def leave_env(self) -> None:
        """End a call of an environment."""
        self._in_env = False

    def left(self) -> None:
        """Stop waiting for the iteration: from now on only a second signal interrupts."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._in_env = self._overdue = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested is not None, self.requested or number
        if again or not self._finishing:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted(number)
        if group.several():
            return
        signal.signal(signal.SIGALRM, self._on_alarm)
        # It repeats, because an environment may swallow the exception.
        signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1.0)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        self._overdue = True
        if self._in_env:
            raise LeftIteration
