"""requirements.lock: the versions of constraints.txt, everything with sums."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from lock import LOCK, fits, normal

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([\w.-]+)==([\w.+!-]+)", re.M)
LOCKED = dict(PIN.findall(LOCK.read_text()))


def test_versions_are_those_of_the_constraints() -> None:
    pinned = {normal(name): version for name, version in PIN.findall(_text("constraints.txt"))}
    both = pinned.keys() & LOCKED.keys()
    assert {name: LOCKED[name] for name in both} == {name: pinned[name] for name in both}


def test_every_package_for_developers_is_locked() -> None:
    extras = tomllib.loads(_text("pyproject.toml"))["project"]["optional-dependencies"]
    project = tomllib.loads(_text("pyproject.toml"))["project"]["dependencies"]
    groups = re.findall(r"[\w]+", next(line for line in extras["dev"] if "[" in line).split("[")[1])
    needed = [*project, *extras["dev"], *extras["torchrl"], *(x for g in groups for x in extras[g])]
    names = {normal(re.split(r"[\[<>=;~ ]", line)[0]) for line in needed} - {"rlmem"}
    assert not names - LOCKED.keys()


def test_every_version_has_sums() -> None:
    entries = re.split(r"^(?=\S+==)", LOCK.read_text(), flags=re.M)[1:]
    assert len(entries) == len(LOCKED)
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n", entry), entry


def test_files_of_other_platforms_and_versions_are_left_out() -> None:
    fitting = [
        "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "ruff-0.17.5-py3-none-macosx_11_0_arm64.whl",
        "safetensors-0.8.0-cp38-abi3-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
        "hydra_core-1.3.8-py3-none-any.whl",
        "hydra-core-1.3.8.tar.gz",
    ]
    others = [
        "torch-2.12.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torch-2.13.0-cp310-cp310-manylinux_2_28_x86_64.whl",
        "torch-2.13.0-cp312-cp312-win_amd64.whl",
        "hydra-core-1.3.80.tar.gz",
    ]
    versions = {"torch": "2.13.0", "ruff": "0.17.5", "safetensors": "0.8.0", "hydra-core": "1.3.8"}
    for files, expected in ((fitting, True), (others, False)):
        for file in files:
            assert any(fits(file, *each) for each in versions.items()) == expected, file


def _text(name: str) -> str:
    return (ROOT / name).read_text()
