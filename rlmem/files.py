"""Files that are written whole or not at all, and read with a limit."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The largest text file that is read whole.
MAX_TEXT = 64 * 2**20
PARTIAL = ".partial"


def expanded(path: str | Path) -> Path:
    """`path` with `~` and `~user` as home folders; those of unknown users stay text."""
    return Path(os.path.expanduser(path))


@contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to `path`; it replaces `path` at the end of the block.

    After an exception or a crash `path` is unchanged; afterwards its new content is on the disk,
    unless `flush` is False (then a crash of the whole machine may leave an empty file).
    Two processes may write the same file at once. If `path` is a link, the link is replaced.
    """
    partial = _partial(path)
    try:
        yield partial
        if flush:
            sync(partial)
        partial.replace(path)
        if flush:
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write(path: Path, text: str, flush: bool = True) -> None:
    """Write `text` to `path`; a reader sees either the old content or all of the new one."""
    with replacing(path, flush) as partial:
        partial.write_text(text, encoding="utf-8")


def create_exclusively(path: Path, text: str) -> None:
    """Make the file `path` with all of `text`; FileExistsError if there is one (also a link)."""
    partial = _partial(path)
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """The text of a plain file; OSError for a pipe, device or large file, ValueError if not UTF-8.

    Opening a pipe would wait for its writer, and a device may have no end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        reason = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(reason, "not a plain file", str(path))
    with os.fdopen(handle, "rb") as file:
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
        return file.read().decode("utf-8")


def sync(path: Path) -> None:
    """Wait until the file or folder is written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot flush a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def set_aside(path: Path) -> Path:
    """Give a damaged file (or folder) another name, such as `metrics.damaged.csv`."""
    aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
    return path.rename(aside)


def remove_partials(folder: Path, older_than: float) -> None:
    """Delete the temporary files of killed processes, last changed before that time."""
    for path in folder.glob(f".*{PARTIAL}*"):
        with suppress(OSError):
            if not path.is_dir() and path.lstat().st_mtime < older_than:
                path.unlink()


def _partial(path: Path) -> Path:
    # Nobody can have put a link at a name that is drawn now.
    return path.with_name(f".{path.stem}.{secrets.token_hex(8)}{PARTIAL}{path.suffix}")
