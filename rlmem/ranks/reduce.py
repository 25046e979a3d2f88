"""Means, maxima and moments over all ranks; in a single process, those of its own tensors.

The results are the same on all ranks, bit for bit. So are the decisions that follow from them.
Every rank must call the same functions in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from rlmem.ranks.group import collective, count, several

# Numbers of episodes among the metrics. The others are means over the same number of steps.
EPISODES, PER_EPISODE = "episodes", ("episode_return", "episode_length")


def _sum(x: Tensor) -> Tensor:
    from torch import distributed

    with collective():
        distributed.all_reduce(x)
    return x


def average_gradients(gradients: Sequence[Tensor]) -> None:
    """Replace gradients by their means over all ranks, in one operation."""
    if not several():
        return
    flat = _sum(torch.cat([gradient.reshape(-1) for gradient in gradients])) / count()
    parts = flat.split([gradient.numel() for gradient in gradients])
    views = [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(list(gradients), views)


def mean(x: Tensor) -> Tensor:
    """The mean of each entry over all ranks."""
    return _sum(x.clone()) / count() if several() else x


def mean_number(x: float) -> float:
    """The mean of a number over all ranks."""
    return float(mean(torch.tensor(x, dtype=torch.float64))) if several() else x


def highest(x: Tensor) -> Tensor:
    """The maximum of each entry over all ranks."""
    if not several():
        return x
    from torch import distributed

    found = x.clone()
    with collective():
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found


def highest_number(x: int) -> int:
    """The maximum of a number over all ranks."""
    return int(highest(torch.tensor(x))) if several() else x


def gather(x: Tensor) -> list[Tensor]:
    """The tensors of all ranks, in their order."""
    if not several():
        return [x]
    from torch import distributed

    found = [torch.empty_like(x) for _ in range(count())]
    with collective():
        distributed.all_gather(found, x.contiguous())
    return found


def means_and_deviations(parts: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean and (unbiased) standard deviation of the entries of each tensor, on all ranks.

    All tensors have the same number of entries, on all ranks.
    """
    if not several():
        return [(part.mean(), part.std()) for part in parts]
    averages, variances = _moments(torch.stack([part.flatten() for part in parts]))
    pairs = zip(averages, variances.sqrt(), strict=True)
    return [(mean.to(parts[0].dtype), deviation.to(parts[0].dtype)) for mean, deviation in pairs]


def variance(x: Tensor) -> Tensor:
    """The unbiased variance of the entries of all ranks, each with as many; 0 for a single one."""
    if count() * x.numel() == 1:
        return x.new_zeros(())
    return _moments(x.reshape(1, -1))[1][0].to(x.dtype) if several() else x.var()


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each row [K, n] on all ranks, from those of each; float64."""
    values = rows.double()
    own = torch.stack([values.mean(1), values.var(1, correction=0)])
    averages, variances = torch.stack(gather(own)).unbind(1)
    # The variance of all is the mean of the variances plus the variance of the means.
    total = count() * rows.shape[1]
    whole = variances.mean(0) + averages.var(0, correction=0)
    return averages.mean(0), whole * total / (total - 1)


def mean_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an iteration on all ranks together; the others than episodes are equal there
    or means over as many steps.
    """
    if not several():
        return dict(metrics)
    names = sorted(metrics.keys() - {EPISODES, *PER_EPISODE})
    episodes = metrics.get(EPISODES, 0.0)
    sums = [episodes, *(episodes * metrics.get(name, 0.0) for name in PER_EPISODE)]
    own = [metrics[name] for name in names]
    ended, *found = _sum(torch.tensor([*sums, *own], dtype=torch.float64)).tolist()
    merged = {name: value / count() for name, value in zip(names, found[2:], strict=True)}
    if EPISODES in metrics:
        merged[EPISODES] = ended
    if ended:
        merged |= {name: x / ended for name, x in zip(PER_EPISODE, found[:2], strict=True)}
    order = [*metrics, *(name for name in merged if name not in metrics)]
    return {name: merged[name] for name in order if name in merged}


@torch.no_grad()
def copy_first(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of rank 0."""
    if not several():
        return
    from torch import distributed

    with collective():
        for tensor in tensors:
            distributed.broadcast(tensor, 0)
