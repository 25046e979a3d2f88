"""Writes requirements.lock: every package of the `dev` environment with version and SHA-256 sums.

    python scripts/lock.py            # resolve with constraints.txt, and write the file
    pip install --require-hashes -r requirements.lock && pip install --no-deps -e .

The sums are those of the package index, for Python 3.11 to 3.13 on Linux and macOS, beside that of
the file pip picks here (a CPU build of torch is not on the index). `.ci/nightly` downloads every
file against its sum, and looks the versions up in the database of known faults.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
INDEX = "https://pypi.org/simple"
HEAD = "# Written by scripts/lock.py from pyproject.toml and constraints.txt.\n"
PYTHON = r"-(py3|py2\.py3|cp31[123]|cp3\d+-abi3)[-.]"
PLATFORM = r"-any\.whl$|manylinux.*(x86_64|aarch64)\.whl$|macosx.*(arm64|universal2)\.whl$"


def normal(name: str) -> str:
    """The name of a package as the index spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve() -> dict[str, tuple[str, str]]:
    """Version and SHA-256 of the file that pip installs here, by package."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    command += ["--ignore-installed", "-c", "constraints.txt", "-e", ".[dev]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for each in json.loads(done.stdout)["install"]:
        archive = each["download_info"].get("archive_info")
        if archive is not None:
            about = each["metadata"]
            found[normal(about["name"])] = about["version"], archive["hashes"]["sha256"]
    return found


def published(name: str, version: str) -> set[str]:
    """SHA-256 of a version's files on the index, for the Pythons and platforms of this project."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    request = urllib.request.Request(f"{INDEX}/{name}/", headers=accept)
    with urllib.request.urlopen(request, timeout=60) as answer:
        files: list[dict[str, Any]] = json.load(answer)["files"]
    return {file["hashes"]["sha256"] for file in files if fits(file["filename"], name, version)}


def fits(file: str, name: str, version: str) -> bool:
    """Whether a file is this version, as a source archive or a wheel that may be installed."""
    if file.endswith(".whl"):
        head = file.split("-")
        same = (normal(head[0]), head[1]) == (name, version)
        return same and bool(re.search(PYTHON, file)) and bool(re.search(PLATFORM, file))
    stem, _, ending = file.partition(f"-{version}")
    return normal(stem) == name and ending in {".tar.gz", ".zip"}


def main() -> None:
    """Resolve, collect the sums, and write the file."""
    lines = [HEAD]
    for name, (version, here) in sorted(resolve().items()):
        sums = sorted({here, *published(name, version.partition("+")[0])})
        hashes = "".join(f" \\\n    --hash=sha256:{each}" for each in sums)
        # A local build (2.13.0+cpu) counts as the version without its label.
        lines.append(f"{name}=={version.partition('+')[0]}{hashes}\n")
    LOCK.write_text("".join(lines))
    print(f"{LOCK.name}: {len(lines) - 1} packages")


if __name__ == "__main__":
    main()
