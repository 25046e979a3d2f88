"""Search for NaN and infinity in a failed update: its inputs, weights, memory and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rlmem import tree
from rlmem.data.dataset import RecordedRows
from rlmem.data.rollout import Rollout

LARGE = 1e6  # a reward this far from 1 is probably a fault


@runtime_checkable
class Experience(Protocol):
    """Rows of steps [B, T]: a `Rollout`, a `SequenceBatch`, or `RecordedRows`."""

    @property
    def obs(self) -> Mapping[str, Tensor]: ...

    @property
    def reward(self) -> Tensor: ...


def nonfinite_input(batch: Experience, row: str = "row") -> str | None:
    """The first input that is not finite, with its leaf and place; None if all are finite.

    Masked steps do not count. Rows and steps are numbered from 0; `row` is the word for a row.
    """
    for name, leaf, dims in _inputs(batch, row):
        if leaf.is_floating_point() and not (finite := torch.isfinite(leaf)).all():
            place = (~finite).nonzero()[0].tolist()
            where = ", ".join(f"{n} {i}" for n, i in zip(dims, place, strict=False))
            return f"{name} is {leaf[tuple(place)].item():g} ({where})"
    return None


def large_input(batch: Experience, row: str = "row") -> str | None:
    """The largest reward, with its place, if its square is out of proportion; else None."""
    size = batch.reward.abs().nan_to_num(0.0)
    if size.amax() <= LARGE:
        return None
    number, step = divmod(int(size.argmax()), size.shape[1])
    return f"a reward is {batch.reward[number, step].item():g} ({row} {number}, step {step})"


def nonfinite_part(algo: Any) -> str | None:
    """The first part of an algorithm that is not finite, with its place; None if there is none.

    These are the inputs of its last rollout, weights and statistics by their layer, the memory of
    its environments, and the gradients of the last update.
    """
    collector = getattr(algo, "collector", None)
    rollout = getattr(collector, "rollout", None)
    if rollout is not None and (found := nonfinite_input(rollout, "environment")):
        return found
    policy = algo.policy
    for name, x in (*policy.named_parameters(), *policy.named_buffers()):
        if not _is_finite(x):
            return f"the weight {name} is not finite"
    if collector is not None:
        for number, leaf in enumerate(tree.leaves(collector.state)):
            if not _is_finite(leaf):
                row = int((~torch.isfinite(leaf)).nonzero()[0, 0])
                return f"tensor {number} of the memory state of environment {row} is not finite"
    for name, x in policy.named_parameters():
        if x.grad is not None and not _is_finite(x.grad):
            return f"the gradient of {name} is not finite"
    return None


def nonfinite_weight(policy: nn.Module) -> str | None:
    """The name of the first weight or statistic that is not finite; None if there is none."""
    parts = {**dict(policy.named_parameters()), **dict(policy.named_buffers())}
    floats = {name: x.detach() for name, x in parts.items() if x.is_floating_point() and x.numel()}
    if not floats or torch.stack([x.isfinite().all() for x in floats.values()]).all():
        return None
    return next(name for name, x in floats.items() if not _is_finite(x))


def _is_finite(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex()) or bool(torch.isfinite(x).all())


def _inputs(batch: Any, word: str) -> Iterator[tuple[str, Tensor, tuple[str, ...]]]:
    """Names, tensors and batch dimensions of all inputs; causes before their effects."""
    row, step = (word,), (word, "step")
    for key, leaf in batch.obs.items():
        yield f"observation {key!r}", leaf, step
    mask = getattr(batch, "mask", None)
    yield "the reward", batch.reward if mask is None else torch.where(mask, batch.reward, 0), step
    if isinstance(batch, RecordedRows):
        for key, leaf in batch.action.items():
            yield f"the recorded action {key!r}", leaf, step
        yield "the return to go", batch.return_to_go, step
    if isinstance(batch, Rollout):
        for key, leaf in batch.last_obs.items():
            yield f"observation {key!r} after the last step", leaf, row
        # Final observations are not stored. If only their values are not finite, they are not.
        if batch.value.isfinite().all():
            final = torch.where(batch.truncated, batch.next_value, 0)
            yield "the value of an episode's final observation", final, step
