"""Training in half precision; `rlmem.testing.precision_laws` holds the laws."""

from __future__ import annotations

import torch

from tests.cores.common import B, data, make


def test_the_core_itself_stays_in_half_precision_and_learns():
    core = make("gru").bfloat16()
    x, state, start = data(core)
    before = {key: p.detach().clone() for key, p in core.named_parameters()}
    optimizer = torch.optim.SGD(core.parameters(), lr=1.0)
    core.scan(x, state, start)[0].float().square().sum().backward()
    optimizer.step()
    for key, parameter in core.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert not torch.equal(parameter, before[key]), key
    assert core.initial_state(B).dtype == torch.float32
