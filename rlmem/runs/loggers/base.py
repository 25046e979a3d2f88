"""The contract of loggers, and the guard that keeps their errors away from the training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rlmem.envs.seeding import kept_random_state
from rlmem.errors import reading
from rlmem.files import atomic_write
from rlmem.runs.callbacks import Callback, Training
from rlmem.runs.records import flat

# The ids of a run in other systems, so that it goes on there when it is resumed.
IDS = "loggers.json"
# Parts of a configuration that are no hyper-parameters.
PLACES = ("run_dir", "resume", "record", "log")
MAX_LENGTH = 300


class Run(NamedTuple):
    """The run that a logger follows from `step` on; `config` is its nested configuration."""

    run_dir: Path
    step: int
    config: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The hyper-parameters: the configuration without places and loggers."""
        return {key: value for key, value in self.config.items() if key not in PLACES}

    @property
    def flat_settings(self) -> dict[str, Any]:
        """The hyper-parameters with dotted keys."""
        return dict(flat(self.settings))

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.run_dir.absolute().name

    def saved_id(self, system: str) -> str | None:
        """The id of the run in another system, if it has been there."""
        found: str | None = self._ids().get(system)
        return found

    def save_id(self, system: str, id: str) -> None:
        """Keep the id of the run in another system."""
        text = json.dumps(self._ids() | {system: id}, indent=2)
        atomic_write(self.run_dir / IDS, text + "\n")

    def _ids(self) -> dict[str, str]:
        path = self.run_dir / IDS
        with reading(path):
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


class Logger(Callback):
    """A callback with files or connections of its own. Its numbers are those of `training.row`."""

    def close(self, failed: bool) -> None:
        """Write everything and close; `failed` after an error or a signal."""


class Guarded(Callback):
    """A logger whose errors do not end the training: one line on stderr, then it goes on without.

    The global random generators stay as they were, since other packages draw from them. A context
    manager, which closes the logger. `option` is its name on the command line.
    """

    def __init__(self, option: str, make: Callable[[], Logger]) -> None:
        self.option = option
        self._logger: Logger | None = None
        with self._guarded():
            self._logger = make()

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._logger is not None:
            with self._guarded():
                self._logger.close(failed=kind is not None)

    def on_iteration(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Pass it on."""
        if self._logger is not None:
            with self._guarded():
                self._logger.on_iteration(training, metrics)

    def on_evaluation(self, training: Training, result: Mapping[str, Any]) -> None:
        """Pass it on."""
        if self._logger is not None:
            with self._guarded():
                self._logger.on_evaluation(training, result)

    def on_checkpoint(self, training: Training, path: Path) -> None:
        """Pass it on."""
        if self._logger is not None:
            with self._guarded():
                self._logger.on_checkpoint(training, path)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with kept_random_state():
            try:
                yield
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        first = (str(error).strip().splitlines() or ["no message"])[0][:MAX_LENGTH]
        reason = f"{type(error).__name__}: {first}"
        print(f"{self.option} failed, and is off now: {reason}", file=sys.stderr)
        failing, self._logger = self._logger, None
        if failing is not None:
            with suppress(Exception):
                failing.close(failed=True)
