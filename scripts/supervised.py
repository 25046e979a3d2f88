"""What the supervised tests of memories share: a core between an embedding and a linear map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem import cores


class Rows(NamedTuple):
    """What is read, [B, T] or [B, T, n] tokens that are seen at once; where episodes start; what is
    to be answered, [B, T], or -1 where nothing is.
    """

    tokens: Tensor
    start: Tensor
    answer: Tensor


class Reader(nn.Module):
    """A core alone, of one width."""

    def __init__(
        self, core: str, options: dict[Any, Any], tokens: int, answers: int, width: int
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.core = cores.make(core, input_size=width, **options)
        self.head = nn.Linear(width, answers)

    def forward(self, x: Rows) -> Tensor:
        """Logits [B, T, answers]."""
        seen = self.embed(x.tokens)
        if seen.dim() == 4:
            seen = seen.sum(2)
        y, _ = self.core.scan(seen, self.core.initial_state(len(seen)), x.start)
        logits: Tensor = self.head(y)
        return logits


def fit(model: Reader, draw: Callable[[], Rows], steps: int, learning_rate: float) -> float:
    """Adam over `steps` batches, the rate in one cycle; returns the loss of the last batch."""
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1
    )
    loss = torch.zeros(())
    for _ in range(steps):
        x = draw()
        logits = model(x).flatten(0, 1)
        loss = F.cross_entropy(logits, x.answer.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()
