"""The wheel: its files, and an installation outside the checkout.

It takes a minute and needs a package index, so it runs only with RLMEM_TEST_WHEEL=1 (`.ci/run`) or
RLMEM_TEST_WHEEL=full (`.ci/nightly`), which also installs all packages that the wheel asks for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    "RLMEM_TEST_WHEEL" not in os.environ, reason="needs RLMEM_TEST_WHEEL=1"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all files that git does not ignore, without earlier builds."""
    copy = tmp_path_factory.mktemp("source")
    for name in _files("--others", "--exclude-standard", "--cached"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the copy."""
    dist = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", str(dist), str(source), cwd=dist)
    (built,) = dist.glob("rlmem-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a clean environment with the wheel installed."""
    venv = tmp_path_factory.mktemp("venv")
    _run(sys.executable, "-m", "venv", str(venv), cwd=venv)
    pip = [str(venv / "bin" / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt")]
    if os.environ["RLMEM_TEST_WHEEL"] == "full":
        _run(*pip, f"{wheel}[train]", cwd=venv)
        return venv / "bin"
    _run(*pip, "--no-deps", str(wheel), cwd=venv)
    # The packages of this environment; its own rlmem is not on this path, but behind a `.pth`.
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def test_the_wheel_contains_only_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"rlmem"}
    kinds = (".py", ".yaml", ".typed", ".txt", ".css", ".js")
    wanted = {n for n in _files("--cached", "rlmem") if n.endswith(kinds)}
    assert wanted - names == set()
    compiled = [name for name in names if name.endswith(".so")]
    if shutil.which("cc"):
        assert len(compiled) == 1
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_the_program_runs_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    where = _run(
        str(environment / "python"), "-c", "import rlmem; print(rlmem.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(environment.parent)
    rlmem = str(environment / "rlmem")
    assert re.search(r"^  ffm +\S", _run(rlmem, "list", cwd=tmp_path), re.M)
    trained = _run(
        rlmem, "train", "run_dir=a", "total_steps=8192", "eval_episodes=20", cwd=tmp_path
    )
    line = r"return -?\d\.\d+ .* over 20 episodes after .*; next: rlmem play run=a\n"
    assert re.fullmatch(line, trained)
    assert {path.name.split(".")[0] for path in (tmp_path / "a").iterdir()} == {
        "agent",
        "system",
        "config",
        "metrics",
        "events",
        "checkpoints",
        "eval",
    }
    _run(rlmem, "eval", "run=a", "episodes=5", cwd=tmp_path)


@pytest.mark.skipif(os.environ.get("RLMEM_TEST_WHEEL") != "full", reason="takes a minute")
def test_the_source_installs_without_a_compiler(source: Path, tmp_path: Path) -> None:
    build = ("-m", "build", "--sdist", "--outdir", str(tmp_path), str(source))
    _run(sys.executable, *build, cwd=tmp_path)
    (sdist,) = tmp_path.glob("rlmem-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "setup.py"} <= names
    assert not [name for name in names if name.startswith("tests/")]
    venv = tmp_path / "venv"
    _run(sys.executable, "-m", "venv", str(venv), cwd=tmp_path)
    pip = [str(venv / "bin" / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt")]
    _run(*pip, "--no-deps", str(sdist), cwd=tmp_path, CC="false", CXX="false")
    (site,) = (venv / "lib").glob("python*/site-packages")
    assert not list(site.glob("rlmem/**/*.so"))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    trained = _run(
        str(venv / "bin" / "rlmem"), "train", "core=s5", "run_dir=a", "total_steps=8192",
        "eval_episodes=5", cwd=tmp_path,
    )  # fmt: skip
    assert re.match(r"return -?\d\.\d+ ", trained)


def _files(*arguments: str) -> list[str]:
    listed = _run("git", "-C", str(ROOT), "ls-files", *arguments, cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def _run(*command: str, cwd: Path, **variables: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    done = subprocess.run(
        command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
