"""Search for NaN and infinity in the inputs of a failed update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rlmem.data.dataset import RecordedRows
from rlmem.data.rollout import Rollout


@runtime_checkable
class Experience(Protocol):
    """Rows of steps [B, T]: a `Rollout`, a `SequenceBatch`, or `RecordedRows`."""

    @property
    def obs(self) -> Mapping[str, Tensor]: ...

    @property
    def reward(self) -> Tensor: ...


def nonfinite_input(batch: Experience) -> str | None:
    """The first input that is not finite, with its leaf and place; None if all are finite.

    Masked steps do not count. Rows and steps are numbered from 0.
    """
    for name, leaf, dims in _inputs(batch):
        if leaf.is_floating_point() and not (finite := torch.isfinite(leaf)).all():
            place = (~finite).nonzero()[0].tolist()
            where = ", ".join(f"{n} {i}" for n, i in zip(dims, place, strict=False))
            return f"{name} is {leaf[tuple(place)].item():g} ({where})"
    return None


def _inputs(batch: Any) -> Iterator[tuple[str, Tensor, tuple[str, ...]]]:
    """Names, tensors and batch dimensions of all inputs; causes before their effects."""
    row, step = ("row",), ("row", "step")
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
