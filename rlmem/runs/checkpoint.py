"""Checkpoints: folders `checkpoints/step-000012345/` of a run, with weights in safetensors.

A checkpoint is written under a temporary name and then renamed: a crash leaves the earlier ones and
no incomplete one. Loading a checkpoint cannot run code from it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlmem.algos import Algorithm
from rlmem.errors import UsageError
from rlmem.files import atomic_write

WEIGHTS = "model.safetensors"
TRAINER = "trainer.pt"
REPLACED = ".replaced"
PLAIN_TYPES = (int, float, bool, str, type(None))


class Checkpoint(NamedTuple):
    """A loaded checkpoint: weights by name, and the trainer's state."""

    path: Path
    step: int
    weights: dict[str, Tensor]
    trainer: dict[str, Any]

    def load_weights(self, model: nn.Module) -> None:
        """Copy the weights into `model`; a `UsageError` names the first one that does not fit."""
        wanted = model.state_dict()
        for name, tensor in wanted.items():
            if name not in self.weights:
                raise UsageError(
                    f"{self.path} does not fit this model: the checkpoint has no {name!r}"
                )
            given, expected = list(self.weights[name].shape), list(tensor.shape)
            if given != expected:
                raise UsageError(
                    f"{self.path} does not fit this model: "
                    f"its {name!r} has shape {given}, the model's has {expected}"
                )
        for name in self.weights:
            if name not in wanted:
                raise UsageError(f"{self.path} does not fit this model: the model has no {name!r}")
        model.load_state_dict(self.weights)

    def load_trainer(self, algo: Algorithm) -> None:
        """Restore the state of the algorithm; a `UsageError` if it is of another one."""
        try:
            algo.load_state_dict(self.trainer["algo"])
        except UsageError:
            raise
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            missing = f"it has no {reason}" if isinstance(error, KeyError) else reason
            raise UsageError(
                f"{self.path} does not fit this algorithm and its options, or this version of "
                f"rlmem: {missing}"
            ) from error

    def seeds_used(self, num_envs: int) -> int:
        """The number of seeds that the environments of the run have had.

        Checkpoints of older versions do not hold it: these runs had one for each environment.
        """
        used: int = self.trainer.get("seeds_used", num_envs)
        return used


def require_run(run_dir: str | Path) -> Path:
    """`run_dir` as a Path if it is a run folder; else a `UsageError`."""
    path = Path(run_dir)
    if not path.is_dir():
        raise UsageError(f"{path} is not a run folder: it does not exist")
    if not (path / "config.yaml").is_file():
        raise UsageError(f"{path} is not a run folder: it has no config.yaml")
    return path


def save(
    run_dir: str | Path,
    step: int,
    model: nn.Module,
    trainer: Mapping[str, Any],
    *,
    keep: int = 1,
    score: float | None = None,
) -> Path:
    """Write the checkpoint of `step`; returns its folder.

    `trainer` holds tensors and plain values; the state of the random generators is added as
    `"rng"`. Deletes older checkpoints except the newest `keep` - 1 and the one with the best
    `score`. Raises `UsageError` for complex or non-finite weights, and `TypeError` for a value in
    `trainer` that could not be loaded safely.
    """
    weights = finite_weights(model)
    state = {**trainer, "rng": rng_state()}
    _check_loadable(state, "trainer")
    folder = Path(run_dir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _folder_name(step)
    partial = folder / f"{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file(weights, partial / WEIGHTS)
    torch.save(state, partial / TRAINER)
    for file in (partial / WEIGHTS, partial / TRAINER):
        _sync(file)
    _replace(partial, target)
    scores = _scores(run_dir)
    scores.pop(step, None)
    if score is not None:
        scores[step] = score
    _write_scores(run_dir, scores)
    _prune(run_dir, keep)
    return target


def load(run_dir: str | Path, which: str | int = "last") -> Checkpoint:
    """Load the `"last"` or `"best"` checkpoint of a run, or that of a step, onto the CPU."""
    path = find(run_dir, which)
    try:
        weights = load_file(path / WEIGHTS)
        trainer = torch.load(path / TRAINER, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"cannot read the checkpoint {path}: {reason} (checkpoint=STEP selects another one: "
            f"{', '.join(map(str, steps(run_dir)))})"
        ) from error
    return Checkpoint(path, _step(path), weights, trainer)


def find(run_dir: str | Path, which: str | int = "last") -> Path:
    """The folder of the `"last"` or `"best"` checkpoint of a run, or that of a step."""
    run = require_run(run_dir)
    present = steps(run)
    if not present:
        raise UsageError(f"{run} has no checkpoint yet")
    if which == "last":
        return _folder(run, present[-1])
    if which == "best":
        step = best(run)
        if step is None:
            raise UsageError(f"no checkpoint of {run} has a score: use checkpoint=last")
        return _folder(run, step)
    if str(which).isdigit() and int(which) in present:
        return _folder(run, int(which))
    raise UsageError(
        f"{run} has no checkpoint {which!r} (known: last, best, {', '.join(map(str, present))})"
    )


def last(run_dir: str | Path) -> Path | None:
    """The folder of the newest checkpoint, or None."""
    present = steps(run_dir)
    return _folder(run_dir, present[-1]) if present else None


def best(run_dir: str | Path) -> int | None:
    """The step of the checkpoint with the best score (the earliest on a tie), or None."""
    scores = _scores(run_dir)
    return max(sorted(scores), key=scores.__getitem__, default=None)


def steps(run_dir: str | Path) -> list[int]:
    """The steps of all checkpoints, in order."""
    folder = Path(run_dir) / "checkpoints"
    return sorted({_step(path) for path in folder.glob("step-*") if path.suffix in ("", REPLACED)})


def discard_after(run_dir: str | Path, step: int) -> None:
    """Delete the checkpoints after `step`, before training resumes from there."""
    for later in [s for s in steps(run_dir) if s > step]:
        _remove(run_dir, later)
    _write_scores(run_dir, {s: score for s, score in _scores(run_dir).items() if s <= step})


def rng_state() -> dict[str, Any]:
    """The states of all global random generators, as tensors and plain values."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (third-party code uses it)
    key = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": numpy_state | {"state": {**numpy_state["state"], "key": key}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore an `rng_state`; for GPUs only if their number has not changed."""
    random.setstate(state["python"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    numpy_state = {**state["numpy"], "state": {**state["numpy"]["state"], "key": key}}
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def finite_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the weights on the CPU; a `UsageError` for complex or non-finite ones."""
    # Copied, because safetensors rejects tensors that share memory (tied weights).
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    for name, tensor in weights.items():
        if tensor.is_complex():
            raise UsageError(
                f"cannot save {name!r}: it is {tensor.dtype}, but checkpoints hold real weights "
                "(use two real parameters and join them with torch.complex)"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UsageError(f"cannot save {name!r}: it has NaN or infinite values")
    return weights


def _check_loadable(value: Any, where: str) -> None:
    if isinstance(value, Tensor):
        return
    if type(value) is dict:
        for key, part in value.items():
            _check_loadable(part, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            _check_loadable(part, f"{where}[{index}]")
    elif type(value) not in PLAIN_TYPES:
        raise TypeError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, numbers, strings, "
            "lists, tuples and dicts"
        )


def _replace(partial: Path, target: Path) -> None:
    """Rename `partial` to `target`; a crash in between keeps the old one under another name."""
    old = target.with_name(target.name + REPLACED)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    os.replace(partial, target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _remove(run_dir: str | Path, step: int) -> None:
    for suffix in ("", REPLACED):
        path = Path(run_dir) / "checkpoints" / (_folder_name(step) + suffix)
        shutil.rmtree(path, ignore_errors=True)


def _folder(run_dir: str | Path, step: int) -> Path:
    path = Path(run_dir) / "checkpoints" / _folder_name(step)
    old = path.with_name(path.name + REPLACED)
    return old if old.exists() and not path.exists() else path


def _prune(run_dir: str | Path, keep: int) -> None:
    present = steps(run_dir)
    kept = {*present[-max(keep, 1) :], best(run_dir)}
    for step in present:
        if step not in kept:
            _remove(run_dir, step)
    scores = _scores(run_dir)
    _write_scores(run_dir, {step: score for step, score in scores.items() if step in kept})


def _scores(run_dir: str | Path) -> dict[int, float]:
    """Scores of the existing checkpoints, by step."""
    index = Path(run_dir) / "checkpoints" / "index.json"
    if not index.exists():
        return {}
    present = steps(run_dir)
    try:
        scores = json.loads(index.read_text())["scores"]
        return {int(step): float(s) for step, s in scores.items() if int(step) in present}
    except (ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"{index} is damaged; delete it to continue without scores") from error


def _write_scores(run_dir: str | Path, scores: Mapping[int, float]) -> None:
    index = Path(run_dir) / "checkpoints" / "index.json"
    atomic_write(index, json.dumps({"scores": scores}, indent=2) + "\n")


def _sync(path: Path) -> None:
    """Wait until the file or folder is written to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _folder_name(step: int) -> str:
    return f"step-{step:09d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-").partition(".")[0])
