"""A benchmark in a folder: a run folder for each cell, trained by several processes at once.

A cell's state is in its files, so an interrupted benchmark goes on with the same command.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rlmem.errors import UsageError
from rlmem.runs import folder
from rlmem.runs.grid import Cell
from rlmem.runs.workers import MANIFEST, POLL, Workers, is_done

Changed = Callable[[Cell, str], None]


class Bench:
    """The cells of a benchmark in folder `root`. Raises `UsageError` if a cell there has other
    options than the one of the same name here.
    """

    def __init__(self, root: Path, cells: Sequence[Cell], legs: int) -> None:
        self.root = folder.require_usable("dir", root)
        self.cells = list(cells)
        self.workers = Workers(self.root, [f"legs={legs}", "checkpoint_every=null"])
        for cell in self.cells:
            self._require_same(cell)

    @property
    def failed(self) -> dict[str, str]:
        """The last line of each failed run, by the cell's name."""
        return self.workers.failed

    def state(self, cell: Cell) -> str:
        """`done`, `failed`, `running`, `started` (and interrupted) or `waiting`."""
        if cell.name in self.failed:
            return "failed"
        if cell.name in self.workers.jobs:
            return "running"
        path = self.root / cell.name
        if is_done(path):
            return "done"
        return "started" if (path / "config.yaml").exists() else "waiting"

    def run(self, jobs: int, changed: Changed, tick: Callable[[], None]) -> None:
        """Train all cells that are not done, `jobs` at once.

        `changed(cell, state)` is called when a cell starts and ends, `tick()` at every look.
        """
        waiting = [cell for cell in self.cells if self.state(cell) != "done"]
        with self.workers.claimed():
            while waiting or self.workers.jobs:
                while waiting and len(self.workers.jobs) < jobs:
                    cell = waiting.pop(0)
                    self.workers.start(cell)
                    changed(cell, "running")
                time.sleep(POLL)
                for cell, state in self.workers.ended():
                    changed(cell, state)
                tick()

    def _require_same(self, cell: Cell) -> None:
        path = self.root / cell.name / MANIFEST
        if not path.exists():
            return
        before = json.loads(path.read_text(encoding="utf-8"))["options"]
        if sorted(before) != sorted(cell.overrides):
            ours, theirs = set(cell.overrides) - set(before), set(before) - set(cell.overrides)
            raise UsageError(
                f"{path.parent} has other options ({' '.join(sorted(theirs)) or 'none'} instead of "
                f"{' '.join(sorted(ours)) or 'none'}): give another dir, or delete that folder"
            )
