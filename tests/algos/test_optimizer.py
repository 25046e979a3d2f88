"""Gradient steps: joint and separate clipping, and non-finite gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlmem.algos import NonFiniteLoss
from rlmem.algos.optimizer import ClippedAdam, PlainAdam
from tests.far_device import CUDA, Device


def weights(*values: list[float]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor(value)) for value in values]


def clipped(parameters: list[nn.Parameter], separate: list[nn.Parameter]) -> list[list[float]]:
    """The gradients 3, 4 and 12 after clipping to a norm of 1."""
    first, second = parameters
    optimizer = ClippedAdam(parameters, 0.1, max_grad_norm=1.0, separate_group=separate)
    norm = optimizer.step((first * torch.tensor([3.0, 4.0])).sum() + 12 * second.sum(), "a test")
    assert norm.item() == pytest.approx(13)
    return [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]


def test_gradients_are_clipped_together() -> None:
    first, second = clipped(weights([0.0, 0.0], [0.0]), [])
    assert [*first, *second] == pytest.approx([3 / 13, 4 / 13, 12 / 13], rel=1e-4)


def test_a_separate_group_is_clipped_separately() -> None:
    parameters = weights([0.0, 0.0], [0.0])
    first, second = clipped(parameters, parameters[1:])
    assert [*first, *second] == pytest.approx([0.6, 0.8, 1.0], rel=1e-4)


@pytest.mark.parametrize("which", [0, 1])
def test_a_non_finite_gradient_changes_no_weight(which: int) -> None:
    parameters = weights([1.0, 2.0], [3.0])
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = ClippedAdam(parameters, 0.1, max_grad_norm=1.0, separate_group=parameters[1:])
    with pytest.raises(NonFiniteLoss, match="in a test"):
        optimizer.step(
            sum(p.sum() for p in parameters) + parameters[which][0] * torch.inf, "a test"
        )
    for parameter, old in zip(parameters, before, strict=True):
        assert torch.equal(parameter, old)


def test_a_device_skips_updates_from_a_non_finite_gradient_on_until_the_check() -> None:
    x = weights([1.0, 2.0], [3.0])
    expected = ClippedAdam(x, 0.1, max_grad_norm=1.0, separate_group=x[1:])
    with Device() as device:
        far = [nn.Parameter(each.detach().clone().to(CUDA)) for each in x]
        optimizer = ClippedAdam(far, 0.1, max_grad_norm=1.0, separate_group=far[1:])
        device.waits.clear()
        for number, factor in enumerate([2.0, 3.0, torch.inf, 4.0]):
            optimizer.step(sum(p.square().sum() for p in far) * factor, f"update {number}")
        assert not device.waits, device.table()
        with pytest.raises(NonFiniteLoss, match="norm inf in update 2"):
            optimizer.check()
        optimizer.check()  # an error is raised once
        optimizer.step(sum(p.square().sum() for p in far), "the next iteration")
        optimizer.check()
        found = [each.cpu() for each in far]
    for factor in (2.0, 3.0, 1.0):
        expected.step(sum(p.square().sum() for p in x) * factor, "a test")
    torch.testing.assert_close(found, [each.detach() for each in x])


def test_plain_adam_is_torch_s_adam_in_every_bit() -> None:
    networks = [nn.Linear(3, 2), nn.Linear(3, 2)]
    networks[1].load_state_dict(networks[0].state_dict())
    kinds = (torch.optim.Adam, PlainAdam)
    optimizers = [
        kind(network.parameters(), lr=0.1, eps=1e-5, fused=True)
        for kind, network in zip(kinds, networks, strict=True)
    ]
    for step in range(5):
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            x = torch.arange(6.0).reshape(2, 3) - step
            network(x).square().sum().backward()
            optimizer.step()
            if step == 2:
                optimizer.load_state_dict(optimizer.state_dict())
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)
    one, other = (optimizer.state_dict() for optimizer in optimizers)
    assert one["param_groups"] == other["param_groups"]
    for key, moments in one["state"].items():
        assert all(torch.equal(each, other["state"][key][name]) for name, each in moments.items())
