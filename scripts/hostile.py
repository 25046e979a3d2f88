"""Hostile run folders: each function of `FOLDERS` changes a run into one.

A payload that runs makes the folder `ran` in the current folder.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Payload:
    """A pickle that makes the folder `ran` when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def unseal(run: Path) -> None:
    """Remove all manifests and seals, as an attacker can who writes new ones."""
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    (run / "checkpoints/index.json").write_text('{"scores": {}}')
    agent = json.loads((run / "agent.json").read_text())
    agent.pop("sha256", None)
    (run / "agent.json").write_text(json.dumps(agent))


def _edit(run: Path, old: str, new: str) -> None:
    unseal(run)
    text = (run / "config.yaml").read_text()
    assert old in text, old
    (run / "config.yaml").write_text(text.replace(old, new, 1))


def _option(name: str, value: int) -> Callable[[Path, str], None]:
    def change(run: Path, newest: str) -> None:
        text = (run / "config.yaml").read_text()
        line = next(line for line in text.splitlines() if line.startswith(f"{name}: "))
        _edit(run, f"\n{line}\n", f"\n{name}: {value}\n")
        agent = json.loads((run / "agent.json").read_text())
        agent["policy"][name] = value
        (run / "agent.json").write_text(json.dumps(agent))

    return change


def _pickled_replay(run: Path, newest: str) -> None:
    replay = run / "replay"
    kind = "<class 'tensordict.tensorclass.NonTensorData'>"
    (replay / "extra").mkdir()
    (replay / "extra/meta.json").write_text(json.dumps({"_type": kind, "_metadata": None}))
    (replay / "extra/other.pickle").write_bytes(pickle.dumps(Payload()))
    meta = json.loads((replay / "meta.json").read_text())
    (replay / "meta.json").write_text(json.dumps({**meta, "extra": {"type": "NonTensorData"}}))


def _pickled_trainer(run: Path, newest: str) -> None:
    unseal(run)
    with zipfile.ZipFile(run / newest / "trainer.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(), 2))
        archive.writestr("archive/version", "3\n")


def _bomb(run: Path, newest: str) -> None:
    unseal(run)
    with zipfile.ZipFile(run / newest / "trainer.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(None, 2))
        with archive.open("archive/data/0", "w", force_zip64=True) as file:
            for _ in range(2300):
                file.write(bytes(2**20))


def _many_tensors(run: Path, newest: str) -> None:
    unseal(run)
    entry = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % n for n in range(1_400_000)) + b"}"
    file = run / newest / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)


def _aliases(run: Path, newest: str) -> None:
    unseal(run)
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    with (run / "config.yaml").open("a") as file:
        file.write("\n".join(lines))


def _claim(run: Path, newest: str) -> None:
    meta = json.loads((run / "replay/meta.json").read_text())
    meta["reward"]["shape"] = [10**12]
    (run / "replay/meta.json").write_text(json.dumps(meta))


def _links(run: Path, newest: str) -> None:
    for name in (
        "eval.json",
        "eval.json.partial",
        "metrics.csv.partial",
        "error.txt",
        "agent.json",
        "system.json",
    ):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(Path("..") / "whole" / "eval.json")
    (run / "checkpoints/index.partial").symlink_to(Path("../../whole/eval.json"))


def _linked_folders(run: Path, newest: str) -> None:
    shutil.move(run / "checkpoints", run.parent / "whole" / "aside")
    (run / "checkpoints").symlink_to(Path("..") / "whole" / "aside")


def _module(run: Path, newest: str) -> None:
    (run.parent / "evil.py").write_text("import os\nos.mkdir('ran')\n")
    _edit(run, "  encoder: default", "  encoder: evil:Encoder")


FOLDERS: dict[str, Callable[[Path, str], None]] = {
    "a pickle in the replay": _pickled_replay,
    "a pickle in trainer.pt": _pickled_trainer,
    "trainer.pt that unpacks to 2.3 GiB": _bomb,
    "1.4 million tensors": _many_tensors,
    "YAML aliases": _aliases,
    "an interpolation": lambda run, newest: _edit(run, "seed: 0", "seed: ${oc.env:HOME}"),
    "1e12 rewards in meta.json": _claim,
    "hidden_size: 60000": _option("hidden_size", 60_000),
    "layers: 100000": _option("layers", 100_000),
    "a module to import": _module,
    "record: ../outside": lambda run, newest: _edit(run, "record: null", "record: ../outside"),
    "links at files that are written": _links,
    "checkpoints is a link": _linked_folders,
}
