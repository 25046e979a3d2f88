"""`rlmem new core NAME`: a package with a core of your own, which obeys the laws at once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

from rlmem import __version__
from rlmem.cli.third_party import CONFIGS
from rlmem.errors import UsageError, unknown

TEMPLATES = Path(__file__).parent / "templates"
# Template and place of each file.
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "init.py": "$package/__init__.py",
    "core.py": "$package/core.py",
    "core.yaml": "$package/configs/core/$name.yaml",
    "test.py": "tests/test_$name.py",
}


def new(arguments: Sequence[str]) -> str:
    """Write the package of `core NAME` into the new folder NAME; returns the next steps.

    Raises `UsageError` for a name that is taken or no name of Python, and if the folder exists.
    """
    if len(arguments) != 2:
        raise UsageError("write: rlmem new core NAME")
    kind, name = arguments
    if kind != "core":
        raise unknown("kind of package", kind, ["core"])
    _check(name)
    folder = Path(name)
    if folder.exists():
        raise UsageError(f"there is already a file or folder {name!r} here")
    words = {
        "name": name,
        "package": f"rlmem_{name}",
        "project": f"rlmem-{name.replace('_', '-')}",
        "Name": "".join(part.title() for part in name.split("_")),
        "version": __version__,
    }
    for template, place in FILES.items():
        path = folder / Template(place).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (TEMPLATES / kind / f"{template}.txt").read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    return (
        f"wrote {name}/; the core is {name}/{words['package']}/core.py\n"
        f"next: pip install -e {name} && pytest {name} && rlmem train core={name}"
    )


def _check(name: str) -> None:
    """A `UsageError` unless `name` can be that of a new core."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is no name for a core: small letters, digits and _ (my_core)")
    if (CONFIGS / "core" / f"{name}.yaml").exists():
        raise UsageError(f"there is already a core {name!r} (rlmem list)")
