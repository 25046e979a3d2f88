"""Memory-mapped files: plain leaves only, of the claimed sizes, and never code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from rlmem.data import mapped_files
from rlmem.data.dataset import Dataset
from rlmem.data.storage import RingStorage
from rlmem.errors import UsageError
from tests.data.test_recorder import play

EXAMPLE = {
    "obs0": torch.zeros(3),
    "obs1": torch.tensor(0),
    "reward": torch.zeros(()),
    "flags": torch.tensor(0, dtype=torch.uint8),
    "action0": torch.zeros(2, 2, dtype=torch.bool),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    leaves = mapped_files.create(EXAMPLE, 12, tmp_path / "files")
    for number, leaf in enumerate(leaves.values()):
        leaf.copy_(torch.arange(leaf.numel()).view(leaf.shape) % (3 + number) == 0)
    return tmp_path / "files"


def change_meta(folder: Path, name: str, **values: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    meta[name] = {**meta.get(name, {}), **values}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_leaves_are_those_of_tensordict(folder: Path) -> None:
    found, theirs = mapped_files.open_existing(folder), TensorDict.load_memmap(folder)
    assert list(found) == list(EXAMPLE)
    for name, leaf in found.items():
        assert torch.equal(leaf, theirs[name])
        assert (leaf.dtype, leaf.shape[1:]) == (EXAMPLE[name].dtype, EXAMPLE[name].shape)
    theirs.memmap(folder.parent / "theirs", copy_existing=True)
    for name, leaf in mapped_files.open_existing(folder.parent / "theirs").items():
        assert torch.equal(leaf, found[name])


def test_only_writable_leaves_change_the_files(folder: Path) -> None:
    mapped_files.open_existing(folder, writable=False)["obs0"].fill_(5)
    assert not (mapped_files.open_existing(folder)["obs0"] == 5).any()
    mapped_files.open_existing(folder)["obs0"].fill_(5)
    assert (mapped_files.open_existing(folder, writable=False)["obs0"] == 5).all()


class Payload:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def add_payload(folder: Path, place: Path) -> None:
    """Adds an entry whose pickle tensordict loads."""
    kind = "<class 'tensordict.tensorclass.NonTensorData'>"
    (folder / "extra").mkdir()
    (folder / "extra" / "meta.json").write_text(json.dumps({"_type": kind, "_metadata": None}))
    (folder / "extra" / "other.pickle").write_bytes(pickle.dumps(Payload(place)))
    change_meta(folder, "extra", type="NonTensorData")


def test_no_code_of_a_folder_runs(folder: Path) -> None:
    place = folder.parent / "ran"
    add_payload(folder, place)
    with pytest.raises(UsageError, match="names 'extra', which is no leaf"):
        mapped_files.open_existing(folder)
    for name in ("obs0", "states"):  # also under names of our own
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(folder / "extra", folder / name)
    change_meta(folder, "obs0", type="NonTensorData", is_nested=True)
    with pytest.raises(UsageError):
        mapped_files.open_existing(folder)
    assert not place.exists()
    with suppress(Exception), pytest.warns(DeprecationWarning, match="pickled"):
        TensorDict.load_memmap(folder)
    assert place.exists(), "the payload itself works"


def test_no_code_of_a_dataset_or_replay_runs(tmp_path: Path) -> None:
    play(tmp_path / "data", 8)
    add_payload(tmp_path / "data/000/storage", tmp_path / "ran")
    with pytest.raises(UsageError, match="names 'extra', which is no leaf"):
        Dataset(tmp_path / "data")
    with pytest.raises(UsageError, match="names 'extra', which is no leaf"):
        RingStorage(3, 16, tmp_path / "data/000/storage").open(None, lambda *_: {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [10**12, 3]}, r"has 144 bytes, and its description claims 12,000,000,000,000$"),
        ({"shape": [12, 4]}, "has 144 bytes, and its description claims 192"),
        ({"shape": [-12, -3]}, "impossible shape"),
        ({"shape": "12"}, "impossible shape"),
        ({"shape": [12, True]}, "impossible shape"),
        ({"shape": [10**400]}, "impossible shape"),
        ({"dtype": "torch.complex64"}, "unknown dtype"),
        ({"dtype": ["torch.float32"]}, "unknown dtype"),
        ({"is_nested": True}, "not a plain tensor"),
        ({"other": 1}, "not a plain tensor"),
    ],
)
def test_claims_are_held_against_the_files(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    change_meta(folder, "obs0", **change)
    with pytest.raises(UsageError, match=message):
        mapped_files.open_existing(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"obs0": 3}', '{"../x": {}}', "{}"]
)
def test_a_damaged_description_is_refused_in_one_line(folder: Path, text: str) -> None:
    (folder / "meta.json").write_text(text)
    with pytest.raises(UsageError) as error:
        mapped_files.open_existing(folder)
    assert "\n" not in str(error.value)


def test_links_pipes_and_missing_files_are_refused(folder: Path) -> None:
    file, aside = folder / "reward.memmap", folder.parent / "aside"
    file.rename(aside)
    with pytest.raises(UsageError, match=r"reward.memmap: No such file"):
        mapped_files.open_existing(folder)
    file.symlink_to(aside)
    with pytest.raises(UsageError, match="is not a plain file"):
        mapped_files.open_existing(folder)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UsageError, match="is not a plain file"):
        mapped_files.open_existing(folder)


def test_disk_space_is_reserved_before_a_write(tmp_path: Path) -> None:
    storage = RingStorage(2, 4096, tmp_path / "replay")
    storage.open({"obs0": torch.zeros(1024), "flags": torch.tensor(0).byte()}, _create)
    file = tmp_path / "replay/obs0.memmap"
    assert file.stat().st_size == 2 * 4096 * 4096
    used = file.stat().st_blocks * 512
    storage._reserve(1)
    grown = file.stat().st_blocks * 512
    # Some entries of each ring, and not the whole file.
    assert used + 2 * 64 * 4096 <= grown < file.stat().st_size / 4
    storage.head[:] = 4000
    storage._reserve(1)
    assert storage.reserved == 4001
    assert file.stat().st_blocks * 512 >= 2 * 4001 * 4096


def _create(
    example: dict[str, torch.Tensor], size: int, directory: Path | None
) -> dict[str, torch.Tensor]:
    assert directory is not None
    return mapped_files.create(example, size, directory)


def test_damaged_datasets_are_refused_in_one_line(tmp_path: Path) -> None:
    play(tmp_path / "data", 8)
    whole = shutil.copytree(tmp_path / "data", tmp_path / "whole")

    def refused(change: Any, message: str) -> None:
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(whole, tmp_path / "data")
        change(tmp_path / "data/000")
        with pytest.raises(UsageError, match=message) as error:
            Dataset(tmp_path / "data")
        assert "\n" not in str(error.value)

    def about(**values: Any) -> Any:
        def change(run: Path) -> None:
            text = json.loads((run / "about.json").read_text())
            (run / "about.json").write_text(json.dumps({**text, **values}))

        return change

    def written(value: int) -> Any:
        return lambda run: mapped_files.map_file(run / "storage/written", [3], torch.int64).fill_(
            value
        )

    refused(about(num_envs=10**12), r"written is damaged: it has 24 bytes")
    refused(about(slots=10**12), "has not .* entries")
    refused(about(slots="16"), "slots is '16'")
    refused(about(observation_space=3), "is no recorded run")
    refused(about(action_space={}), "action0 is missing or too much")
    refused(written(2**62), "numbers of its steps are impossible")
    refused(written(-1), "numbers of its steps are impossible")
    refused(lambda run: (run / "storage/written").unlink(), "cannot read .*written")
    refused(lambda run: os.truncate(run / "storage/flags.memmap", 5), "has 5 bytes")
    refused(lambda run: (run / "storage/flags.memmap").write_bytes(bytes(48)), "impossible")
