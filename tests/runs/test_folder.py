"""Run folders: claimed once, locked while used, with the configurations of a resumed run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from rlmem.errors import UsageError
from rlmem.runs import folder
from tests.cli.common import ROOT
from tests.warm_python import warm_python


def config(run_dir: Path, **values: object) -> DictConfig:
    return OmegaConf.create({"run_dir": str(run_dir), "resume": None, "gamma": 0.9, **values})


def test_a_taken_folder_gets_a_suffix_only_if_allowed(tmp_path: Path) -> None:
    first, second = config(tmp_path / "a/b"), config(tmp_path / "a/b")
    assert folder.claim(first) == tmp_path / "a/b"
    with pytest.raises(UsageError, match="a/b already holds a run: use another run_dir, or resume"):
        folder.claim(second)
    assert folder.claim(config(tmp_path / "a/b"), unique=True) == tmp_path / "a/b-2"
    third = config(tmp_path / "a/b")
    assert folder.claim(third, unique=True) == tmp_path / "a/b-3"
    assert third.run_dir == str(tmp_path / "a/b-3")
    assert OmegaConf.load(tmp_path / "a/b-3/config.yaml") == third


def test_a_given_folder_may_exist_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "slurm.out").touch()
    assert folder.claim(config(tmp_path)) == tmp_path
    assert OmegaConf.load(tmp_path / "config.yaml").gamma == 0.9


def test_many_processes_claim_different_folders(tmp_path: Path) -> None:
    code = (
        "import sys; from omegaconf import OmegaConf; from rlmem.runs import folder\n"
        "for i in range(20):\n"
        "    print(folder.claim(OmegaConf.create({'run_dir': f'run{i}', 'me': sys.argv[1]}), True))"
    )
    processes = [
        subprocess.Popen(
            [*warm_python(), "-c", code, str(me)],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in range(4)
    ]
    claimed = {
        me: process.communicate(timeout=100)[0].split() for me, process in enumerate(processes)
    }
    assert sorted(name for names in claimed.values() for name in names) == sorted(
        f"run{i}{suffix}" for i in range(20) for suffix in ("", "-2", "-3", "-4")
    )
    for me, names in claimed.items():
        for name in names:
            assert OmegaConf.load(tmp_path / name / "config.yaml").me == str(me)


def test_a_locked_run_is_refused_until_the_other_process_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from rlmem.runs import folder\n"
        "with folder.lock('.'):\n    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UsageError, match="another process trains"), folder.lock(tmp_path):
            pass
        process.kill()
    with folder.lock(tmp_path):
        pass


def test_changed_configurations_are_kept(tmp_path: Path) -> None:
    folder.claim(config(tmp_path))
    folder.update_config(config(tmp_path, resume=str(tmp_path)), 100)
    assert not list(tmp_path.glob("config-*"))  # only its place has changed
    folder.update_config(config(tmp_path, gamma=0.8), 200)
    # A second start at the same step: what trained the first 200 steps stays known.
    folder.update_config(config(tmp_path, gamma=0.7), 200)
    folder.update_config(config(tmp_path, gamma=0.6), 12345)
    found = {path.name: OmegaConf.load(path).gamma for path in tmp_path.glob("*.yaml")}
    assert found == {
        "config-000000200.yaml": 0.9,
        "config-000012345.yaml": 0.7,
        "config.yaml": 0.6,
    }


def test_unusable_folders(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert folder.require_usable("out", tmp_path / "a/b") == tmp_path / "a/b"
    for path in (file, file / "x/y"):
        with pytest.raises(UsageError, match=rf"^out={path}: {file} is a file, not a folder$"):
            folder.require_usable("out", path)
        with pytest.raises(UsageError, match=f"cannot make the folder {path}"):
            folder.claim(config(path))
    with pytest.raises(UsageError, match=r"out=.*File name too long"):
        folder.require_usable("out", tmp_path / ("a" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
