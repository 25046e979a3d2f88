"""Ensemble layers: each member equals a separate network with the same weights."""

from __future__ import annotations

import pytest
import torch

from rlmem.errors import UsageError
from rlmem.policies.encoders import mlp
from rlmem.policies.ensemble import EnsembleLayer


def test_each_member_equals_a_separate_network():
    layer = EnsembleLayer(3, 5, 4, "gelu")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(3, 7, 5)
    for c in range(3):
        single = mlp([5, 4], "gelu")
        linear, norm = layer.linear, layer.norm
        weights = linear.weight[c].T, linear.bias[c, 0], norm.weight[c, 0], norm.bias[c, 0]
        with torch.no_grad():
            for mine, theirs in zip(single.parameters(), weights, strict=True):
                mine.copy_(theirs)
        torch.testing.assert_close(layer(x)[c], single(x[c]), atol=1e-5, rtol=1e-4)


def test_a_single_input_is_shared_and_members_can_be_selected():
    layer = EnsembleLayer(4, 5, 3, "relu")
    x = torch.randn(1, 6, 5)
    outputs = layer(x)
    torch.testing.assert_close(outputs, layer(x.expand(4, -1, -1)))
    torch.testing.assert_close(layer(x, torch.tensor([3, 1])), outputs[[3, 1]])


def test_members_have_different_initial_weights():
    weight = EnsembleLayer(2, 5, 5, "relu").linear.weight
    assert (weight[0] - weight[1]).abs().max() > 0.1
    # Orthogonal with gain sqrt 2, like the layers of `encoders.mlp`.
    torch.testing.assert_close(weight[0] @ weight[0].T, 2 * torch.eye(5), atol=1e-5, rtol=0)


def test_an_unknown_activation_gets_a_suggestion():
    with pytest.raises(UsageError, match="did you mean relu"):
        EnsembleLayer(2, 5, 5, "rellu")
