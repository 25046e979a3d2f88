"""Damaged, torn and foreign checkpoints: named, and the one before is used."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from rlmem.errors import UsageError
from rlmem.runs import archives, checkpoint, sealed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    return tmp_path


@pytest.mark.parametrize("text", ["", "{", "[]", '{"scores": {"1": "x"}}', None])
def test_scores_are_those_of_the_manifests_without_an_index(
    run: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    for step, score in ((1, 3.0), (2, 5.0), (3, 1.0)):
        checkpoint.save(run, step, nn.Linear(1, 1), {}, score=score, keep=3)
    index = run / "checkpoints" / "index.json"
    before = sealed.read(index)
    if text is None:
        index.unlink()
    else:
        index.write_text(text)
    assert (checkpoint.load(run, "best").step, checkpoint.load(run, "last").step) == (2, 3)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("; ")[2] for line in lines] == (
        [] if text is None else ["using the scores in the manifests"]
    )
    checkpoint.save(run, 4, nn.Linear(1, 1), {}, score=2.0, keep=3)
    after = sealed.read(index)
    assert after["run"] == before["run"]
    assert after["scores"] == {"2": 5.0, "3": 1.0, "4": 2.0}


DAMAGE = {
    "flip": lambda file: file.write_bytes(_flipped(file.read_bytes())),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-2]),
    "more": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "older": lambda file: file.write_bytes(
        (file.parents[1] / "step-000000001" / file.name).read_bytes()
    ),
    "link": lambda file: file.symlink_to(file.rename(file.with_suffix(".moved")).name),
    "folder": lambda file: (file.unlink(), file.mkdir()),
}


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(
    run: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save(run, step, nn.Linear(9, 9), {"at": step}, score=float(step), keep=2)
    DAMAGE[damage](run / "checkpoints" / "step-000000002" / name)
    for which in ("last", "best"):
        found = checkpoint.load(run, which)
        assert (found.step, found.trainer["at"]) == (1, 1)
    # The same line is printed once.
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot read the checkpoint" in line
    assert "step-000000002: " in line
    assert line.endswith("; using that of step 1")
    with pytest.raises(UsageError, match=r"step-000000002: .*checkpoint=STEP selects another"):
        checkpoint.load(run, 2)
    checkpoint.discard_after(run, 1)
    assert checkpoint.steps(run) == [1]
    assert (run / "checkpoints/step-000000002.damaged").is_dir()


def test_a_checkpoint_of_another_run_or_step_is_refused(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "config.yaml").touch()
    for place in (run, other):
        for step in (1, 2):
            checkpoint.save(place, step, nn.Linear(1, 1), {}, keep=9)
    folder = run / "checkpoints"
    shutil.copytree(other / "checkpoints/step-000000002", folder / "step-000000003")
    shutil.copytree(folder / "step-000000001", folder / "step-000000004")
    assert checkpoint.load(run).step == 2
    err = capsys.readouterr().err
    assert "step-000000003: it is a checkpoint of another run" in err
    assert "step-000000004: it is the checkpoint of step 1" in err


def test_other_names_are_passed_over(run: Path) -> None:
    path = checkpoint.save(run, 1, nn.Linear(1, 1), {})
    for name in ("step-000000002 (copy)", "step-backup", "step-000000003.partial", "step-2"):
        shutil.copytree(path, path.with_name(name))
    (path.with_name("step-000000009")).mkdir()
    (path.with_name("step-000000010")).touch()
    assert checkpoint.steps(run) == [1]
    assert checkpoint.load(run).step == 1
    assert checkpoint.save(run, 9, nn.Linear(1, 1), {}).is_dir()
    assert checkpoint.save(run, 10, nn.Linear(1, 1), {}).is_dir()
    assert checkpoint.load(run).step == 10


def test_a_run_of_an_older_version_gets_manifests(run: Path) -> None:
    for step in (1, 2):
        path = checkpoint.save(run, step, nn.Linear(1, 1), {}, score=float(step), keep=5)
        (path / "manifest.json").unlink()
    (run / "checkpoints/index.json").write_text('{"scores": {"1": 1.0, "2": 2.0}}')
    assert checkpoint.load(run, "best").step == 2
    checkpoint.save(run, 3, nn.Linear(1, 1), {}, keep=5)
    (run / "checkpoints/step-000000003/trainer.pt").unlink()
    assert checkpoint.load(run).step == 2
    assert checkpoint.load(run, "best").step == 2
    (run / "checkpoints/step-000000002/trainer.pt").write_bytes(b"1")
    assert checkpoint.load(run).step == 1


def test_nothing_is_written_through_a_link(run: Path, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (run / "checkpoints").symlink_to(outside)
    with pytest.raises(UsageError, match="checkpoints is a link"):
        checkpoint.save(run, 1, nn.Linear(1, 1), {})
    (run / "checkpoints").unlink()
    (run / "checkpoints").mkdir()
    (outside / "file").write_text("mine")
    for name in ("step-000000001", "step-000000001.partial", "step-000000001.removed"):
        (run / "checkpoints" / name).symlink_to(outside)
    for name in ("index.json", ".index.partial.json", "index.partial"):
        (run / "checkpoints" / name).symlink_to(outside / "file")
    checkpoint.save(run, 1, nn.Linear(1, 1), {})
    assert checkpoint.load(run).step == 1
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"


def test_archives_that_claim_too_much_are_refused_early(run: Path) -> None:
    path = checkpoint.save(run, 1, nn.Linear(1, 1), {})
    with zipfile.ZipFile(path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", pickle.dumps(None))
        bomb.writestr("archive/data/0", bytes(64 * 2**20))
    assert (path / "bomb.pt").stat().st_size < 2**17
    with pytest.raises(ValueError, match=r"bomb.pt is compressed, and torch compresses nothing"):
        archives.check_torch(path / "bomb.pt")
    entry = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % n for n in range(30_000)) + b"}"
    for length, message in ((len(header), "has 30,000 tensors"), (2**60, "claims a header of 1,1")):
        data = length.to_bytes(8, "little") + header
        (path / "many.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            archives.check_safetensors(path / "many.safetensors")
    for check in (archives.check_safetensors, archives.check_torch):
        for kind in (b"", b"PK", bytes(1000)):
            (path / "x").write_bytes(kind)
            if check is archives.check_torch or len(kind) < 8:
                with pytest.raises(ValueError, match="x "):
                    check(path / "x")
