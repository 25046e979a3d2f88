"""Actions of any shape and first value: distributions over vectors and from 0, made to fit them."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from rlmem.policies.encoders import flat


def unflat(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `encoders.flat`: [*N, k] to [*N, *shape]."""
    return x.unflatten(-1, shape) if shape else x.squeeze(-1)


class Reshaped:
    """A distribution over vectors [*N, k] as one over arrays [*N, *shape], with `start` added.

    `start` holds the first value of each entry [k] of discrete actions; None if all are 0.
    """

    def __init__(self, inner: Any, shape: tuple[int, ...], start: Tensor | None = None) -> None:
        self.inner = inner
        self.shape = shape
        self.start = start

    def sample(self) -> Tensor:
        return self._from_vector(self.inner.sample())

    def mode(self) -> Tensor:
        return self._from_vector(self.inner.mode())

    def draw(self) -> tuple[Tensor, Float[Tensor, "*N"]]:
        """A reparametrised sample of continuous actions and its log-probability."""
        action, log_prob = self.inner.draw()
        return self._from_vector(action), log_prob

    def log_prob(self, action: Tensor) -> Float[Tensor, "*N"]:
        vector = flat(action, len(self.shape))
        return self.inner.log_prob(vector if self.start is None else vector - self.start)

    def entropy(self) -> Float[Tensor, "*N"]:
        return self.inner.entropy()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that determine the distribution, by name; vectors, before `start`."""
        return self.inner.tensors()

    def _from_vector(self, vector: Tensor) -> Tensor:
        return unflat(vector if self.start is None else vector + self.start, self.shape)
