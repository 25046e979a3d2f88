"""Checkpoints: saving and loading, crashes, damaged files and error messages."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from rlmem.errors import UsageError
from rlmem.runs import checkpoint, sealed


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
