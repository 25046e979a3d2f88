"""The model of a question: a core between an embedding and a linear map, its training and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem import cores
from rlmem.diagnose.question import Batch

LEARNING_RATE = 3e-3
# Tests scan long rows in pieces of this length, which carry the state.
PIECE = 2048


class Reader(nn.Module):
    """An embedding of the inputs, a core of the same width, and a linear map to the answers.

    The inputs are tokens, or features if `continuous`. Embeddings of several tokens are added.
    """

    def __init__(
        self,
        core: str,
        inputs: int,
        answers: int,
        width: int,
        options: Mapping[str, Any] | None = None,
        continuous: bool = False,
    ) -> None:
        super().__init__()
        self.embed: nn.Module = (
            nn.Linear(inputs, width) if continuous else nn.Embedding(inputs, width)
        )
        self.core = cores.make(core, input_size=width, **(options or {}))
        self.head = nn.Linear(self.core.output_size, answers)

    def forward(self, x: Batch) -> Float[Tensor, "B T answers"]:
        """Logits of the answers."""
        logits, _ = self.read(x, self.core.initial_state(len(x.answer)))
        return logits

    def read(self, x: Batch, state: Any) -> tuple[Float[Tensor, "B T answers"], Any]:
        """Logits of a piece of rows, and the state after it."""
        embedded = self.embed(x.inputs)
        if embedded.dim() == 4:
            embedded = embedded.sum(2)
        y, state = self.core.scan(embedded, state, x.start)
        return self.head(y), state


def fit(
    model: Reader,
    draw: Callable[[], Batch],
    steps: int,
    learning_rate: float = LEARNING_RATE,
    label_smoothing: float = 0.0,
    beta2: float = 0.999,
) -> float:
    """Train with Adam and a one-cycle learning rate; returns the loss of the last batch.

    With `label_smoothing`, that share of the wanted probability is spread over all answers, so that
    the loss also asks for equal logits in all steps and does not vanish once all answers are right.
    `beta2` is Adam's decay of squared gradients.
    """
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, beta2))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1
    )
    loss = torch.zeros(())
    for _ in range(steps):
        x = draw()
        logits = model(x).flatten(0, 1)
        loss = F.cross_entropy(
            logits, x.answer.flatten(), ignore_index=-1, label_smoothing=label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()


@torch.no_grad()
def accuracy(model: Reader, x: Batch) -> float:
    """The share of right answers."""
    state: Any = model.core.initial_state(len(x.answer))
    right = asked = 0
    for first in range(0, x.answer.shape[1], PIECE):
        piece = Batch(*(part[:, first : first + PIECE] for part in x))
        logits, state = model.read(piece, state)
        due = piece.answer >= 0
        right += int((logits.argmax(-1)[due] == piece.answer[due]).sum())
        asked += int(due.sum())
    return right / asked
