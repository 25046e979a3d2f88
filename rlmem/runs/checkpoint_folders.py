"""Folders of checkpoints in a run: names, replacement and removal."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from rlmem.errors import UsageError
from rlmem.files import sync

REPLACED = ".replaced"
DAMAGED = ".damaged"
REMOVED = ".removed"


def steps(run_dir: str | Path) -> list[int]:
    """The steps of all checkpoints, in order; other names and empty folders are passed over."""
    found = set()
    for path in (Path(run_dir) / "checkpoints").glob("step-*"):
        name = re.fullmatch(rf"step-(\d{{9,18}})({re.escape(REPLACED)})?", path.name)
        if name and path.is_dir() and not path.is_symlink() and any(path.iterdir()):
            found.add(int(name[1]))
    return sorted(found)


def own_folder(run: Path) -> Path:
    """The folder of the checkpoints, made if there is none; nothing is written through a link."""
    folder = run / "checkpoints"
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link: nothing is written through it")
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync(run)
    return folder


def replace(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; a crash in between keeps the old one under another name."""
    sync(partial)
    old = target.with_name(target.name + REPLACED)
    if target.exists():
        discard(old)
        target.rename(old)
    os.replace(partial, target)
    sync(target.parent)
    discard(old)


def discard(path: Path) -> None:
    """Delete a folder of a checkpoint, or a link or file in its place, if it exists.

    It gets another name first: a crash leaves no half of a checkpoint.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    removed = path.with_name(path.name + REMOVED)
    shutil.rmtree(removed, ignore_errors=True)
    if path.is_dir():
        path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def remove(run_dir: str | Path, step: int) -> None:
    """Delete the checkpoint of a step."""
    for suffix in ("", REPLACED):
        discard(Path(run_dir) / "checkpoints" / (folder_name(step) + suffix))


def of_step(run_dir: str | Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    path = Path(run_dir) / "checkpoints" / folder_name(step)
    old = path.with_name(path.name + REPLACED)
    return old if old.exists() and not path.exists() else path


def set_aside(path: Path) -> None:
    """Give a damaged checkpoint a name that is passed over."""
    aside = path.with_name(path.name + DAMAGED)
    discard(aside)
    path.rename(aside)


def folder_name(step: int) -> str:
    """The name of the folder of a step."""
    return f"step-{step:09d}"
