"""`rlmem new core NAME`: the package obeys the laws, and its core is listed, explained, trained."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlmem.cli.main import main
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generated package, installed into `site`."""
    folder = tmp_path_factory.mktemp("new")
    printed = run(folder, "-m", "rlmem", "new", "core", "leaky_gate")
    assert "pip install -e leaky_gate && pytest leaky_gate" in printed
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", "site"]
    run(folder, "-m", "pip", "install", "-q", *options, "./leaky_gate")
    return folder


def run(folder: Path, *arguments: str, code: int = 0, cwd: str = ".") -> str:
    """Standard output of Python in a folder, with the packages in its `site`."""
    done = subprocess.run(
        [*([sys.executable] if "pip" in arguments else warm_python()), *arguments],
        cwd=folder / cwd,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{folder / 'site'}",
            "OMP_NUM_THREADS": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.slow
def test_its_tests_pass_at_once(place: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "error"]
    # pytest cannot rewrite what was imported before it.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    report = run(place, "-m", "pytest", *options, "leaky_gate")
    assert re.search(r"\d\d passed in", report), report
    assert not re.search(r"skipped|failed", report)


def test_its_files_are_clean(place: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        settings = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
        run(place, "-m", "ruff", *command, *settings, cwd="leaky_gate")


def test_the_list_and_the_help_explain_it(place: Path) -> None:
    listed = run(place, "-m", "rlmem", "list")
    assert re.search(
        r"^  leaky_gate +LeakyGate: a gated average of the inputs \(from the package "
        r"rlmem-leaky-gate\)$",
        listed,
        re.M,
    )
    text = run(place, "-m", "rlmem", "train", "--help", "core=leaky_gate")
    assert re.search(r"^  core.size=64 +units of the state$", text, re.M)


@pytest.mark.slow
def test_it_trains_with_checked_options(place: Path) -> None:
    sizes = ["num_envs=4", "algo.num_steps=16", "total_steps=128", "eval_episodes=2"]
    train = ["-m", "rlmem", "train", "core=leaky_gate", "log.tensorboard=false", *sizes]
    run(place, *train, "core.size=8", "run_dir=run", "algo.num_minibatches=2")
    assert "size: 8" in (place / "run" / "config.yaml").read_text()
    line = run(place, *train, "core.sice=8", code=2)
    assert line.startswith("rlmem: unknown key of core: 'sice'; did you mean size")
    line = run(place, *train, "core.size=big", code=2)
    assert line == "rlmem: core.size must be an integer, not 'big'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "write: rlmem new core NAME"),
        (["core"], "write: rlmem new core NAME"),
        (["cores", "mine"], "unknown kind of package 'cores'; did you mean core?"),
        (["core", "My-Core"], "'My-Core' is no name for a core: small letters, digits and _"),
        (["core", "class"], "'class' is no name for a core"),
        (["core", "gru"], "there is already a core 'gru'"),
        (["core", "taken"], "there is already a file or folder 'taken' here"),
    ],
)
def test_wrong_names_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    assert main(["new", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"rlmem: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
