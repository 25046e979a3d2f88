"""FFM: initial decays and frequencies."""

from __future__ import annotations

import torch

from rlmem.cores.ffm import FFM
from tests.golden import Golden


def test_initial_traces_equal_the_authors():
    # The authors compute them in float32.
    golden = Golden("ffm", torch.float32)
    core = FFM(5, 6, memory_size=4, context_size=3, min_period=1.0)
    golden.check("init.a", core.a)
    golden.check("init.b", core.b)
