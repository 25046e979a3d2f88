"""Stacks of different cores."""

from __future__ import annotations

import pytest
import torch

from rlmem import cores
from rlmem.cores.base import registry
from rlmem.errors import UsageError
from rlmem.testing.law import Subject
from rlmem.testing.row_laws import (
    a_packed_row_equals_its_episodes_scanned_separately,
    scan_equals_a_loop_over_step,
)
from tests.cores.common import some_starts

MIXED = ["s5", "transformer_xl", "s5"]


def test_blocks_are_those_cores_in_turn_with_their_options() -> None:
    options = {"s5": {"ssm_size": 16, "blocks": 1}, "transformer_xl": {"memory": 5}}
    core = cores.make("stack", input_size=6, output_size=6, layers=MIXED, options=options).double()
    x, start = torch.randn(3, 9, 6, dtype=torch.float64), some_starts("cpu", 9)
    y, state = core.scan(x, core.initial_state(3), start)
    want = x
    for name, norm, block, after in zip(MIXED, core.norms, core.blocks, state, strict=True):
        alone = cores.make(name, input_size=6, output_size=6, **options[name]).double()
        alone.load_state_dict(block.state_dict())
        out, s = alone.scan(norm(want), alone.initial_state(3), start)
        torch.testing.assert_close(after, s)
        want = want + out
    torch.testing.assert_close(y, want)


def test_mixed_stacks_obey_the_laws() -> None:
    options = {"transformer_xl": {"memory": 4, "heads": 2}}
    for law in (scan_equals_a_loop_over_step, a_packed_row_equals_its_episodes_scanned_separately):
        extra = {"output_size": 8} if law is scan_equals_a_loop_over_step else {}
        given = {"layers": ["gru", "transformer_xl"], "options": options}
        law(Subject(registry.get("stack"), given), dtype=torch.float64, **extra)


def test_a_stack_claims_what_all_its_blocks_claim() -> None:
    assert cores.make("stack", input_size=4).forgets_nonfinite
    mixed = cores.make("stack", input_size=4, layers=["gru", "transformer_xl"])
    assert not mixed.forgets_nonfinite
    assert mixed.claims_length


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, r"layers must name at least one core, such as \[s5, transformer_xl\]"),
        ({"layers": ["s5", "gruu"]}, "unknown core 'gruu'; did you mean gru"),
        ({"layers": "s5"}, "layers must be an integer or a list, not 's5'"),
        ({"layers": ["s5"], "options": {"s4": {}}}, "unknown layer in options: 's4'; did you mean"),
        (
            {"layers": ["s5"], "options": {"s5": 3}},
            "options of s5 must be a dict of options, not 3",
        ),
        ({"layers": ["s5"], "options": {"s5": {"size": 3}}}, "unknown option of core 's5': 'size'"),
    ],
)
def test_invalid_layers_are_named(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        cores.make("stack", input_size=4, **options)
