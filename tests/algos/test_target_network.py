"""Target networks: how they follow, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlmem.algos.target_network import TargetNetwork
from rlmem.errors import UsageError


def network(weight: float) -> nn.Module:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, weight)
    module.register_buffer("seen", torch.zeros(1))
    return module


def values(target: Target) -> float:
    return target.network.weight.item()


def test_polyak_average_by_hand() -> None:
    online = network(0.0)
    target = TargetNetwork(online, tau=0.25)
    nn.init.constant_(online.weight, 8.0)
    online.seen.fill_(5.0)
    target.update()
    assert values(target) == 2.0  # 1/4 * 8
    assert target.network.seen.item() == 5.0
    target.update()
    assert values(target) == 3.5  # 1/4 * 8 + 3/4 * 2
    assert not any(p.requires_grad for p in target.network.parameters())
    assert online.weight.requires_grad


def test_whole_copies_now_and_then() -> None:
    online = network(1.0)
    target = TargetNetwork(online, period=3)
    nn.init.constant_(online.weight, 2.0)
    seen = []
    for _ in range(3):
        target.update()
        seen.append(values(target))
    assert seen == [1.0, 1.0, 2.0]


def test_a_resumed_target_goes_on_where_it_was() -> None:
    online = network(1.0)
    target, other = TargetNetwork(online, period=2), TargetNetwork(network(7.0), period=2)
    nn.init.constant_(online.weight, 2.0)
    target.update()
    other.load_state_dict(target.state_dict())
    assert values(other) == 1.0
    other.update()
    assert values(other) == 7.0


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"tau": 1.5}, {"period": 0}])
def test_bad_options_get_a_clear_line(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        TargetNetwork(network(0.0), **options)  # type: ignore[arg-type]
