"""Checkpoints: folders `checkpoints/step-000012345/` of a run, with weights in safetensors.

A checkpoint is written under a temporary name, flushed to the disk and renamed: a crash leaves the
earlier ones and no incomplete one. Its manifest has the hashes of its files. A damaged checkpoint
is named, and the one before it is used. Loading a checkpoint cannot run code from it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from rlmem.algos import Algorithm
from rlmem.errors import UsageError
from rlmem.files import atomic_write
from rlmem.runs import archives, manifest, sealed
from rlmem.runs import checkpoint_folders as folders
from rlmem.runs.manifest import Damaged, Manifest

WEIGHTS = "model.safetensors"
TRAINER = "trainer.pt"
steps = folders.steps
PLAIN_TYPES = (int, float, bool, str, type(None))


class Checkpoint(NamedTuple):
    """A loaded checkpoint: weights by name, and the trainer's state."""

    path: Path
    step: int
    weights: dict[str, Tensor]
    trainer: dict[str, Any]
    manifest: Manifest | None = None

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
        reason = "it is a file" if path.is_file() else "it does not exist"
        raise UsageError(f"{path} is not a run folder: {reason}")
    if not (path / "config.yaml").is_file() and not steps(path):
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
    logs: Mapping[str, Any] | None = None,
) -> Path:
    """Write the checkpoint of `step`; returns its folder.

    `trainer` holds tensors and plain values; the state of the random generators is added as
    `"rng"`. `logs` describes the rows of the run's logs. Deletes older checkpoints except the
    newest `keep` - 1 and the one with the best `score`. Raises `UsageError` for complex or
    non-finite weights, and `TypeError` for a value in `trainer` that could not be loaded safely.
    """
    weights = finite_weights(model)
    state = {**trainer, "rng": rng_state()}
    _check_loadable(state, "trainer")
    run = Path(run_dir)
    folder = folders.own_folder(run)
    identity = _identity(run)
    target = folder / folders.folder_name(step)
    partial = folder / f"{target.name}.partial"
    folders.discard(partial)
    partial.mkdir()
    files = {}
    for name, write in (
        (WEIGHTS, lambda file: file.write(safetensors.save(weights))),
        (TRAINER, lambda file: torch.save(state, file)),
    ):
        with sealed.HashedFile(partial / name) as file:
            write(file)
        files[name] = file.description
    content = Manifest(identity, step, score, files, manifest.copies(run), dict(logs or {}))
    content.write(partial)
    folders.replace(partial, target)
    scores = _scores(run)
    scores.pop(step, None)
    if score is not None:
        scores[step] = score
    best_step = _by_score(scores)[:1]
    present = steps(run)
    kept = {*present[-max(keep, 1) :], *best_step}
    _write_index(run, identity, {s: score for s, score in scores.items() if s in kept})
    for each in present:
        if each not in kept:
            folders.remove(run, each)
    return target


def load(run_dir: str | Path, which: str | int = "last", trainer: bool = True) -> Checkpoint:
    """Load the `"last"` or `"best"` checkpoint of a run, or that of a step, onto the CPU.

    If the last or best one is damaged, a line on stderr names it, and the one before it is loaded.
    Without `trainer` only the weights are loaded. Raises `UsageError` if none can be loaded.
    """
    find(run_dir, which)
    run = Path(run_dir)
    present = steps(run)
    identity = manifest.run_id(run, [folders.of_step(run, step) for step in present])
    damaged: list[str] = []
    for step in _candidates(run, which):
        path = folders.of_step(run, step)
        try:
            found = _read(path, step, identity, trainer)
        except Damaged as error:
            damaged.append(f"{path}: {error}")
            continue
        for each in damaged:
            manifest.note(f"cannot read the checkpoint {each}; using that of step {step:,}")
        return found
    raise UsageError(
        f"cannot read the checkpoint {'; '.join(damaged)} (checkpoint=STEP selects another one: "
        f"{', '.join(map(str, present))})"
    )


def find(run_dir: str | Path, which: str | int = "last") -> Path:
    """The folder of the `"last"` or `"best"` checkpoint of a run, or that of a step."""
    run = require_run(run_dir)
    present = steps(run)
    if not present:
        raise UsageError(f"{run} has no checkpoint yet")
    if which == "last":
        return folders.of_step(run, present[-1])
    if which == "best":
        step = best(run)
        if step is None:
            raise UsageError(f"no checkpoint of {run} has a score: use checkpoint=last")
        return folders.of_step(run, step)
    if str(which).isdigit() and int(which) in present:
        return folders.of_step(run, int(which))
    raise UsageError(
        f"{run} has no checkpoint {which!r} (known: last, best, {', '.join(map(str, present))})"
    )


def last(run_dir: str | Path) -> Path | None:
    """The folder of the newest checkpoint, or None."""
    present = steps(run_dir)
    return folders.of_step(run_dir, present[-1]) if present else None


def best(run_dir: str | Path) -> int | None:
    """The step of the checkpoint with the best score (the earliest on a tie), or None."""
    return next(iter(_by_score(_scores(run_dir))), None)


def discard_after(run_dir: str | Path, step: int) -> None:
    """Delete the checkpoints after `step`, before training resumes from there.

    Damaged ones are kept under another name, which is passed over.
    """
    run = Path(run_dir)
    identity = manifest.run_id(run, [folders.of_step(run, s) for s in steps(run)])
    for later in [s for s in steps(run) if s > step]:
        path = folders.of_step(run, later)
        try:
            manifest.check(path, later, identity)
        except Damaged:
            folders.set_aside(path)
        folders.remove(run, later)
    if steps(run):
        scores = {s: score for s, score in _scores(run).items() if s <= step}
        _write_index(run, _identity(run), scores)


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


def _read(path: Path, step: int, identity: str | None, trainer: bool) -> Checkpoint:
    """The checkpoint in a folder; `Damaged` if a file is torn, changed or cannot be read."""
    found = manifest.check(path, step, identity)
    try:
        archives.check_safetensors(path / WEIGHTS)
        weights = safetensors.load_file(path / WEIGHTS)
        state = {}
        if trainer:
            archives.check_torch(path / TRAINER)
            state = torch.load(path / TRAINER, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"{TRAINER} holds no dict")
    except Exception as error:  # each format raises its own types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Damaged(reason) from error
    return Checkpoint(path, step, weights, state, found)


def _candidates(run: Path, which: str | int) -> list[int]:
    """The steps to load, in order."""
    if which == "last":
        return steps(run)[::-1]
    return _by_score(_scores(run)) if which == "best" else [int(which)]


def _by_score(scores: Mapping[int, float]) -> list[int]:
    """The steps with a score, best first, the earliest on a tie."""
    return sorted(scores, key=lambda step: (-scores[step], step))


def _identity(run: Path) -> str:
    """The identity of a run; a run of an older version gets one, with manifests."""
    present = steps(run)
    found = manifest.run_id(run, [folders.of_step(run, step) for step in present])
    if found is not None:
        return found
    new, scores = manifest.new_id(), _scores(run)
    for step in present:
        path = folders.of_step(run, step)
        files = {f.name: sealed.describe(f) for f in path.iterdir() if f.name in (WEIGHTS, TRAINER)}
        Manifest(new, step, scores.get(step), files, {}, {}).write(path)
    _write_index(run, new, scores)
    return new


def _scores(run_dir: str | Path) -> dict[int, float]:
    """Scores of the existing checkpoints, by step; without an index, those in the manifests."""
    run = Path(run_dir)
    present = steps(run)
    try:
        found = manifest.index(run).get("scores")
    except Damaged as error:
        manifest.note(f"{run / 'checkpoints'}: {error}; using the scores in the manifests")
        found = None
    if found is None:
        known = {step: manifest.readable(folders.of_step(run, step)) for step in present}
        found = {step: each.score for step, each in known.items() if each is not None}
    return {step: score for step, score in found.items() if step in present and score is not None}


def _write_index(run: Path, identity: str, scores: Mapping[int, float]) -> None:
    content = {"run": identity, "scores": {str(step): score for step, score in scores.items()}}
    # Not flushed: without an index, the manifests tell the same.
    atomic_write(run / "checkpoints" / manifest.INDEX, sealed.seal(content), flush=False)
