"""Manifests of checkpoints: size and hash of every file, the run, and copies of its small files.

`manifest.json` in the folder of a checkpoint is sealed (see `rlmem.runs.sealed`). It detects torn,
changed and missing files, and a checkpoint of another run. A run of an older version has none.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rlmem import __version__
from rlmem.files import read_text
from rlmem.runs import checkpoint_folders, sealed

FILE = "manifest.json"
INDEX = "index.json"
FORMAT = 1
# Files of a run that a checkpoint holds copies of, and their largest size.
COPIED = ("config.yaml", "agent.json", "tasks.json")
MAX_COPY = 4 * 2**20


class Damaged(Exception):
    """A checkpoint is torn, changed or of another run; the message is the reason."""


class Manifest(NamedTuple):
    """The content of a manifest.

    `files` has the size and hash of each file, `copies` the text of small files of the run, `logs`
    the number and hash of the rows of each log.
    """

    run: str
    step: int
    score: float | None
    files: dict[str, dict[str, Any]]
    copies: dict[str, str]
    logs: dict[str, dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write it into the folder of a checkpoint."""
        content = {"format": FORMAT, "rlmem": __version__, **self._asdict()}
        with sealed.HashedFile(folder / FILE) as file:
            file.write(sealed.seal(content).encode())


def read(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint; None without one, `Damaged` if it was changed."""
    if not os.path.lexists(folder / FILE):
        return None
    try:
        if (folder / FILE).is_symlink():
            raise ValueError("it is a link")
        content = sealed.read(folder / FILE, required=True)
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']}, and this rlmem {FORMAT}")
        return Manifest(**{key: content[key] for key in Manifest._fields})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{FILE}: {_reason(error)}") from error


def check(folder: Path, step: int, run: str | None) -> Manifest | None:
    """The manifest of a checkpoint whose files are as they were written; else `Damaged`.

    `run` is the identity of the run; None for an older run, whose checkpoints have no manifest.
    """
    if folder.is_symlink():
        raise Damaged("it is a link")
    found = read(folder)
    if found is None:
        if run is not None:
            raise Damaged(f"it has no {FILE}")
        return None
    if run is not None and found.run != run:
        raise Damaged("it is a checkpoint of another run")
    if found.step != step:
        raise Damaged(f"it is the checkpoint of step {found.step}")
    for name, wanted in found.files.items():
        try:
            _check_file(folder / name, wanted)
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from error
    return found


def run_id(run_dir: Path, folders: Iterable[Path]) -> str | None:
    """The identity of a run with these checkpoints; None for a run of an older version.

    It is in the index. If that is damaged or missing, it is the one of most checkpoints.
    """
    try:
        if found := index(run_dir).get("run"):
            return str(found)
    except Damaged:
        pass
    known = [each.run for each in map(readable, folders) if each is not None]
    return Counter(known).most_common(1)[0][0] if known else None


def index(run_dir: Path) -> dict[str, Any]:
    """The content of `index.json`: `run` (not of an older version) and `scores`.

    Empty without one; `Damaged` if it was changed.
    """
    path = run_dir / "checkpoints" / INDEX
    if not os.path.lexists(path):
        return {}
    try:
        content = sealed.read(path)
        scores = {int(step): float(score) for step, score in content["scores"].items()}
        return {**content, "scores": scores}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{INDEX}: {_reason(error)}") from error


def check_log(
    path: Path, header: Sequence[str], rows: Callable[[], Iterable[Sequence[str]]]
) -> None:
    """Print a line on stderr if the `rows()` of a log are not those at the newest checkpoint."""
    run = path.parent
    present = checkpoint_folders.steps(run)
    found = readable(checkpoint_folders.of_step(run, present[-1])) if present else None
    wanted = found.logs.get(path.name) if found is not None else None
    if found is None or wanted is None:
        return
    step = header.index("step")
    kept = [row for row in rows() if row[step].isdigit() and int(row[step]) <= found.step]
    digest = sealed.digest_table(header, kept).hexdigest()
    if {"rows": len(kept), sealed.SEAL: digest} != wanted:
        note_log(path, found.step, len(kept), wanted)


def note_log(path: Path, step: int, rows: int, wanted: Mapping[str, Any]) -> None:
    """Print that a log is not the one of a checkpoint."""
    note(
        f"{path} is not the one of step {step:,}: it has {rows:,} rows of {wanted['rows']:,}, or "
        "one was changed"
    )


def new_id() -> str:
    """A new identity of a run."""
    return secrets.token_hex(16)


def copies(run_dir: Path) -> dict[str, str]:
    """The text of the small files of a run, as far as they are there."""
    found = {}
    for name in COPIED:
        try:
            found[name] = read_text(run_dir / name, MAX_COPY)
        except (OSError, ValueError):
            continue
    return found


@cache
def note(text: str) -> None:
    """Print a line on stderr, once."""
    print(f"rlmem: {text}", file=sys.stderr)


def readable(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint; None also if it was changed."""
    try:
        return read(folder)
    except Damaged:
        return None


def _check_file(path: Path, wanted: Mapping[str, Any]) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(f"{path.name} is not a plain file")
    if found.st_size != wanted["bytes"]:
        raise Damaged(f"{path.name} has {found.st_size:,} bytes, and not {wanted['bytes']:,}")
    if sealed.describe(path) != wanted:
        raise Damaged(f"{path.name} was changed after it was written")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return (str(error).splitlines() or [type(error).__name__])[0]
