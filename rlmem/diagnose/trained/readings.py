"""The features of the observations that a policy reads, and points to differentiate by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rlmem.policies.encoders import Encoder


class Readings:
    """The features [N, H] of the encoders of a policy in the present time step.

    `values` has them by encoder. With slopes, zeros in `points` are added to them: gradients by
    these are gradients by the features. An encoder that is called twice in a time step (for the
    action and the value) has one point.
    """

    def __init__(self, slopes: bool) -> None:
        self.slopes = slopes
        self.begin()

    def begin(self) -> None:
        """Begin a time step."""
        self.values: dict[nn.Module, Tensor] = {}
        self.points: dict[nn.Module, Tensor] = {}

    def read(self, encoder: nn.Module, _: object, features: Tensor) -> Tensor:
        """Note the features of an encoder; returns them, with its point added."""
        self.values.setdefault(encoder, features.detach())
        if not self.slopes:
            return features
        if encoder not in self.points:
            self.points[encoder] = torch.zeros_like(features).requires_grad_()
        return features + self.points[encoder]


@contextmanager
def reading(policy: nn.Module, slopes: bool = False) -> Iterator[Readings]:
    """Note the features of all encoders, in the block.

    With `slopes`, the weights have no gradients meanwhile.
    """
    readings = Readings(slopes)
    weights = [each for each in policy.parameters() if each.requires_grad and slopes]
    encoders = [each for each in policy.modules() if isinstance(each, Encoder)]
    hooks = [each.register_forward_hook(readings.read) for each in encoders]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield readings
    finally:
        for hook in hooks:
            hook.remove()
        for weight in weights:
            weight.requires_grad_(True)
