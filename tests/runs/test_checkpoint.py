"""Checkpoints: saving and loading, crashes, damaged files and error messages."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from rlmem.errors import UsageError
from rlmem.runs import archives, checkpoint, sealed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    return tmp_path


def _trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        _update(model, optimizer)
    return model, optimizer


def _update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()


def test_resumed_training_equals_uninterrupted_training(run: Path) -> None:
    model, optimizer = _trained(3)
    checkpoint.save(run, 3, model, {"optimizer": optimizer.state_dict(), "counter": 7})
    for _ in range(4):
        _update(model, optimizer)

    fresh, fresh_optimizer = _trained(0)
    saved = checkpoint.load(run)
    saved.load_weights(fresh)
    fresh_optimizer.load_state_dict(saved.trainer["optimizer"])
    checkpoint.set_rng_state(saved.trainer["rng"])
    for _ in range(4):
        _update(fresh, fresh_optimizer)

    assert (saved.step, saved.trainer["counter"]) == (3, 7)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def test_all_global_random_generators_are_restored(run: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        gauss = np.random.standard_normal()  # noqa: NPY002 (keeps the second of a pair in its state)
        uniform = np.random.random()  # noqa: NPY002
        return random.gauss(0, 1), gauss, uniform, torch.rand(()).item()

    draw()
    checkpoint.save(run, 1, nn.Linear(1, 1), {})
    expected = draw()
    draw()
    checkpoint.set_rng_state(checkpoint.load(run).trainer["rng"])
    assert draw() == expected


def test_weights_are_safetensors_and_tied_weights_are_duplicated(run: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    path = checkpoint.save(run, 5, model, {})
    with safe_open(path / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(model.state_dict())
        assert torch.equal(file.get_tensor("b.weight"), model["a"].weight)


def test_the_newest_and_the_best_checkpoints_are_kept(run: Path) -> None:
    model = nn.Linear(1, 1)
    for step, score in ((1, 0.1), (2, 0.9), (3, 0.5), (4, 0.9), (5, 0.2)):
        checkpoint.save(run, step, model, {"at": step}, keep=2, score=score)
    assert checkpoint.steps(run) == [2, 4, 5]
    assert checkpoint.best(run) == 2
    assert checkpoint.load(run, "best").trainer["at"] == 2
    assert checkpoint.load(run, "last").trainer["at"] == 5
    assert checkpoint.load(run, 4).trainer["at"] == checkpoint.load(run, "4").trainer["at"] == 4
    assert checkpoint.last(run) == run / "checkpoints" / "step-000000005"
    index = sealed.read(run / "checkpoints" / "index.json", required=True)
    assert index["scores"] == {"2": 0.9, "4": 0.9, "5": 0.2}


def test_discard_after_deletes_later_checkpoints(run: Path) -> None:
    model = nn.Linear(1, 1)
    for step in (1, 2, 3):
        checkpoint.save(run, step, model, {}, keep=9, score=float(step))
    checkpoint.discard_after(run, 2)
    assert checkpoint.steps(run) == [1, 2]
    assert checkpoint.best(run) == 2


def test_saving_a_step_again_replaces_its_checkpoint(run: Path) -> None:
    model = nn.Linear(1, 1)
    checkpoint.save(run, 1, model, {"at": "first"}, score=1.0)
    checkpoint.save(run, 1, model, {"at": "second"})
    assert checkpoint.load(run).trainer["at"] == "second"
    assert checkpoint.best(run) is None
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["index.json", "step-000000001"]


@pytest.mark.parametrize("crash", ["safetensors.save", "torch.save", "folders.os.replace"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_crash_while_saving_leaves_a_complete_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch, crash: str, step: int
) -> None:
    model = nn.Linear(1, 1)
    checkpoint.save(run, 1, model, {"at": "first"})

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"rlmem.runs.checkpoint.{crash}", fail)
        with pytest.raises(OSError, match="no space"):
            checkpoint.save(run, step, model, {"at": "second"})
    assert checkpoint.steps(run) == [1]
    assert checkpoint.load(run).trainer["at"] == "first"
    checkpoint.save(run, step, model, {"at": "third"})
    assert checkpoint.load(run).trainer["at"] == "third"
    assert not list((run / "checkpoints").glob("step-*.*"))


def test_missing_runs_and_checkpoints_are_reported(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere is not a run folder: it does not exist"):
        checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty is not a run folder: it has no config.yaml"):
        checkpoint.load(tmp_path / "empty")
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        checkpoint.load(run)
    assert checkpoint.last(run) is None
    checkpoint.save(run, 7, nn.Linear(1, 1), {})
    with pytest.raises(UsageError, match=r"no checkpoint '8' \(known: last, best, 7\)"):
        checkpoint.load(run, "8")
    with pytest.raises(UsageError, match=r"no checkpoint of .* has a score: use checkpoint=last"):
        checkpoint.load(run, "best")


@pytest.mark.parametrize("file", ["model.safetensors", "trainer.pt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "gone"])
def test_a_damaged_file_is_reported_in_one_line(run: Path, file: str, damage: str) -> None:
    path = checkpoint.save(run, 3, nn.Linear(50, 50), {}) / file
    whole = path.read_bytes()
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"\x00\xff" * 500}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(UsageError, match=r"cannot read the checkpoint .*step-000000003") as error:
        checkpoint.load(run)
    assert len(str(error.value).splitlines()) == 1


def test_a_checkpoint_cannot_run_code(run: Path) -> None:
    path = checkpoint.save(run, 3, nn.Linear(1, 1), {})

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(run / "broken-in"),)

    torch.save({"rng": Evil()}, path / "trainer.pt")
    with pytest.raises(UsageError, match="cannot read the checkpoint"):
        checkpoint.load(run)
    assert not (run / "broken-in").exists()


def test_weights_that_do_not_fit_are_reported(run: Path) -> None:
    checkpoint.save(run, 1, nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), {})
    saved = checkpoint.load(run)
    with pytest.raises(
        UsageError, match=r"its '0.weight' has shape \[3, 2\], the model's has \[3, 4\]"
    ):
        saved.load_weights(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)))
    with pytest.raises(
        UsageError, match=r"does not fit this model: the checkpoint has no '2.weight'"
    ):
        saved.load_weights(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1)))
    with pytest.raises(UsageError, match=r"does not fit this model: the model has no '1.bias'"):
        saved.load_weights(nn.Sequential(nn.Linear(2, 3)))


def test_non_finite_weights_are_not_saved(run: Path) -> None:
    model = nn.Linear(2, 2)
    checkpoint.save(run, 1, model, {})
    nn.init.constant_(model.bias, float("nan"))
    with pytest.raises(UsageError, match="cannot save 'bias': it has NaN or infinite values"):
        checkpoint.save(run, 2, model, {})
    assert checkpoint.steps(run) == [1]


def test_complex_weights_are_rejected(run: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot save 'weight': it is torch.complex64"):
        checkpoint.save(run, 1, nn.Linear(2, 2, dtype=torch.complex64), {})


@pytest.mark.parametrize("value", [np.float64(1), Path("x"), {"a": [(1, {2})]}, checkpoint.load])
def test_values_that_could_not_be_loaded_are_not_saved(run: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"trainer\['extra'\].* is a \w+: a checkpoint holds"):
        checkpoint.save(run, 1, nn.Linear(1, 1), {"extra": value})
    assert checkpoint.steps(run) == []


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
