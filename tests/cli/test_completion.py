"""`rlmem completion` and `rlmem complete`: names, keys, values and folders at the Tab key."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlmem.cli.completion import SHELLS, complete
from rlmem.cli.main import COMMANDS, main
from tests.cli.common import ROOT


def completed(line: str) -> list[str]:
    """Completions of the end of a line without the program's name."""
    return complete(line.split(" "), COMMANDS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tr", ["train"]),
        ("--v", ["--version"]),
        ("train core=gr", ["core=gru"]),
        ("train -m core=gru,ff", ["core=gru,ffm"]),
        ("bench cores=[gru,ff", ["cores=[gru,ffm"]),
        ("diagnose core=transf", ["core=transformer_xl"]),
        ("train core=lmu core.h", ["core.hippo="]),
        ("train core=typo algo=sac algo.replay.cap", ["algo.replay.capacity="]),
        ("train total_steps=5 total", []),  # is given
        ("train algo.norm_adv=", ["algo.norm_adv=false", "algo.norm_adv=true"]),
        ("train device=", ["device=auto", "device=cpu", "device=cuda"]),
        ("train ++device=cu", ["++device=cuda"]),
        ("show env=tmaze-p", ["env=tmaze-passive"]),
        ("eval epi", ["episodes="]),
        ("train --cfg", ["--cfg"]),
        ("list co", ["cores"]),
        ("new c", ["core"]),
        ("completion z", ["zsh"]),
        ("export run=no/such/folder", []),
        ("nonsense a", []),
        ("train seed=", []),
    ],
)
def test_words(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


def test_all_cores_environments_and_algorithms_are_completed() -> None:
    for group in ("core", "env", "algo"):
        names = {path.stem for path in (ROOT / "rlmem/configs" / group).glob("*.yaml")}
        assert {word.partition("=")[2] for word in completed(f"train {group}=")} >= names


def test_every_option_of_the_default_training_is_completed() -> None:
    keys = completed("train ")
    assert {"core=", "algo.gae_lambda=", "core.memory_size=", "log.progress="} <= set(keys)
    assert all(key.endswith("=") for key in keys)


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "rest.rlmem").touch()
    (tmp_path / ".hidden").touch()
    assert completed("eval run=r") == ["run=rest.rlmem", "run=runs/"]
    assert completed("eval run=") == ["run=rest.rlmem", "run=runs/"]
    assert completed("eval run=runs/") == ["run=runs/first/"]
    assert completed("compare ru") == ["runs/"]
    assert completed("train resume=au") == ["resume=auto"]


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_call_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert " complete " in capsys.readouterr().out


def test_a_wrong_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "basch"]) == 2
    assert "unknown shell 'basch'; did you mean bash" in capsys.readouterr().err
    assert main(["completion"]) == 2


BASH = """
source /dev/stdin <<< "$SCRIPT"
COMP_LINE=$1 COMP_POINT=${#1}
_rlmem
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rlmem train core=gr", ["gru"]),
        ("rlmem train core=gru,ff", ["gru,ffm"]),
        ("rlmem ev", ["eval"]),
        ("rlmem list ", ["algos", "cores", "encoders", "envs", "tuned"]),
    ],
)
def test_bash_replaces_the_part_after_the_last_border(
    line: str, expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    program = tmp_path / "rlmem"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m rlmem "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", line],
        env={"SCRIPT": capsys.readouterr().out, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected
