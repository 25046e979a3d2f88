"""Run folders: claimed by one run only, locked while it trains, with all its configurations."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlmem.errors import UsageError
from rlmem.files import atomic_write, create_exclusively, remove_partials
from rlmem.runs import run_files

CONFIG = run_files.CONFIG
# Seconds after which a temporary file is certainly that of a killed process.
OLD = 3600.0


def claim(cfg: DictConfig, unique: bool = False) -> Path:
    """Make the run folder `cfg.run_dir` with the configuration; no other process gets it too.

    A taken folder is a `UsageError`. With `unique` the name gets a suffix instead (-2, -3, ...),
    also in `cfg.run_dir`. A folder without a run may exist before, but not with `unique`.
    """
    wanted = Path(cfg.run_dir)
    for number in count(1):
        cfg.run_dir = str(wanted if number == 1 else _numbered(wanted, number))
        if _claim(Path(cfg.run_dir), _sealed(cfg), unique):
            return Path(cfg.run_dir)
        if not unique:
            raise UsageError(taken(cfg.run_dir))
    raise AssertionError


def taken(run_dir: str | Path) -> str:
    """The message for a folder that holds a run."""
    return f"{run_dir} already holds a run: use another run_dir, or resume={run_dir}"


def make_unique(path: Path) -> Path:
    """Make a new folder; its name gets a suffix (-2, -3, ...) if there is one already."""
    for number in count(1):
        target = path if number == 1 else _numbered(path, number)
        with _making(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.mkdir()
            except FileExistsError:
                continue
            return target
    raise AssertionError


@contextmanager
def lock(run_dir: str | Path) -> Iterator[None]:
    """Hold the lock of a run folder; a `UsageError` if another process trains the run.

    The system releases the lock when the process ends, however it ends.
    """
    handle = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process trains {run_dir}: wait until it ends") from None
        except OSError:  # a file system without locks
            pass
        for place in (Path(run_dir), Path(run_dir) / "checkpoints"):
            remove_partials(place, time.time() - OLD)
        yield
    finally:
        os.close(handle)


def update_config(cfg: DictConfig, step: int) -> None:
    """Write the configuration of a run that resumes at `step`.

    If it has changed, the one before is kept as `config-000012345.yaml`.
    """
    path = Path(cfg.run_dir) / CONFIG
    before = run_files.config_text(path.parent)
    kept = path.with_name(f"config-{step:09d}.yaml")
    # At the same step the first one counts: later ones have trained nothing that is left.
    if not kept.exists() and _content(OmegaConf.create(before)) != _content(cfg):
        atomic_write(kept, before)
    atomic_write(path, _sealed(cfg))


def _sealed(cfg: DictConfig) -> str:
    return run_files.seal_config(OmegaConf.to_yaml(cfg, resolve=True))


def require_usable(name: str, path: str | Path) -> Path:
    """`path` if it is a folder that can be written to, or can be made; else a `UsageError`."""
    path = Path(path)
    try:
        there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    except OSError as error:  # a name that is too long, or of a bad symbolic link
        raise UsageError(f"{name}={path}: {error.strerror}") from error
    if not there.is_dir():
        raise UsageError(f"{name}={path}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{name}={path}: the folder {there} cannot be written to")
    return path


def _claim(path: Path, config: str, unique: bool) -> bool:
    """Whether this process has made the run folder; false if it is taken."""
    with _making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir()
        except FileExistsError:
            if unique:
                return False
            path.mkdir(exist_ok=True)  # raises if it is a file
        try:
            # Exclusive and whole: of several processes only one gets here without an error.
            create_exclusively(path / CONFIG, config)
        except FileExistsError:
            return False
    return True


@contextmanager
def _making(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}"
        raise UsageError(f"cannot make the folder {path} ({reason})") from error


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number}")


def _content(cfg: object) -> dict[object, object]:
    """The configuration without its place."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {key: value for key, value in plain.items() if key not in run_files.PLACES}
