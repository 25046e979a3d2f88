"""Scripts of episodes: observations and right answers that are known when an episode begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

# A tensor [T, ...], or the sequence of its T entries, which is faster to index.
TimeSeries = Tensor | Sequence[Tensor]


class Script:
    """The observations and right answers of episodes, known when they begin.

    `answer[t]` belongs to step t, whose observation is `obs[...][t]`. Both are float32 or integers.
    Narrow integers save memory and time: as int64 a script would not fit the caches.
    """

    replayable = True

    def __init__(self, obs: Mapping[str, TimeSeries], answer: TimeSeries) -> None:
        """`obs` has leaves [length + 1, N, ...]; `answer` is [length, N]."""
        self.obs = {key: _entries(leaf) for key, leaf in obs.items()}
        self.answer = _entries(answer)


def _entries(leaf: TimeSeries) -> Sequence[Tensor]:
    return leaf.unbind() if isinstance(leaf, Tensor) else leaf
