"""Shared code of the supervised memory tests: a core between an embedding and a linear map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem import cores


class TokenBatch(NamedTuple):
    """A batch of token sequences with targets.

    `tokens` is [B, T], or [B, T, n] for n tokens per step; `start` [B, T] marks episode starts;
    `answer` [B, T] is the target of each step, or -1 for none.
    """

    tokens: Tensor
    start: Tensor
    answer: Tensor


class Reader(nn.Module):
    """An embedding, a core of the same width, and a linear map to the answers."""

    def __init__(
        self, core: str, options: dict[Any, Any], tokens: int, answers: int, width: int
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.core = cores.make(core, input_size=width, **options)
        self.head = nn.Linear(width, answers)

    def forward(self, x: TokenBatch) -> Tensor:
        """Logits [B, T, answers]."""
        embedded = self.embed(x.tokens)
        if embedded.dim() == 4:
            embedded = embedded.sum(2)
        y, _ = self.core.scan(embedded, self.core.initial_state(len(embedded)), x.start)
        logits: Tensor = self.head(y)
        return logits


def fit(model: Reader, draw: Callable[[], TokenBatch], steps: int, learning_rate: float) -> float:
    """Train with Adam and a one-cycle learning rate; returns the loss of the last batch."""
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
