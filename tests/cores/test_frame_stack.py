"""Frame stacking against its equation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rlmem import cores
from tests.cores.oracle import equals_the_loop


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_equals_a_loop_over_its_equation(frames):
    def loop(p, x):
        padded = torch.cat([torch.zeros(frames - 1, 5, dtype=x.dtype), x])
        windows = [padded[t : t + frames].flatten() for t in range(len(x))]
        return torch.stack(
            [F.gelu(p["conv.linear.weight"] @ w + p["conv.linear.bias"]) for w in windows]
        )

    equals_the_loop("frame_stack", loop, frames=frames)


def test_one_frame_is_no_memory():
    one, none = (
        cores.make(name, input_size=5, **o)
        for name, o in (("frame_stack", {"frames": 1}), ("none", {}))
    )
    none.map.load_state_dict(one.conv.linear.state_dict())
    x, start = torch.randn(2, 9, 5), torch.zeros(2, 9, dtype=torch.bool)
    got, want = (core.scan(x, core.initial_state(2), start)[0] for core in (one, none))
    torch.testing.assert_close(got, want)
