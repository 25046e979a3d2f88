"""Grids of measurements that may be stopped: one small JSON file per finished cell.

The files are in docs/results/PAGE/. A cell with a file is not measured again, so the same command
goes on after a stop, on any machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pages import RESULTS

Result = dict[str, Any]


def parse(contestant: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `core:option=value,option=value`."""
    name, _, text = contestant.partition(":")
    parts = OmegaConf.from_dotlist(split(text))
    return name, OmegaConf.to_container(parts)  # type: ignore[return-value]


def split(text: str) -> list[str]:
    """The parts between commas, but not between those inside of brackets."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [part for part in found if part]


def file_of(page: str, *parts: object) -> Path:
    """The file of a cell."""
    name = "-".join(str(part) for part in parts)
    return (
        RESULTS
        / page
        / ("".join(c if c.isalnum() or c in "-_=.," else "_" for c in name) + ".json")
    )


def measure_missing(cells: Iterable[tuple[Path, Callable[[], Result]]], minutes: float) -> None:
    """Measure the cells without a file, in their order, until `minutes` are over."""
    begun = time.monotonic()
    for path, measure in cells:
        if path.exists():
            continue
        if time.monotonic() - begun > 60 * minutes:
            print("time is over; the same command goes on", flush=True)
            return
        start = time.process_time()
        result = measure() | {"cpu_seconds": round(time.process_time() - start, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may share the folder; a half-written file would stay.
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(result) + "\n")
        draft.replace(path)
        print(path.stem, json.dumps(result), flush=True)


def read(page: str) -> list[Result]:
    """All finished cells of a page."""
    return [json.loads(path.read_text()) for path in sorted((RESULTS / page).glob("*.json"))]
