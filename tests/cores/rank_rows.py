"""One rank of several that share out the rows of `test_over_ranks.py`.

    python -m tests.cores.rank_rows FOLDER LENGTH,LENGTH,...

scans its piece of each case and writes outputs, final state and gradients to FOLDER/RANK.pt.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from rlmem import cores, tree
from rlmem.cores.base import MemoryCore
from rlmem.cores.over_ranks import scan_over_ranks
from rlmem.ranks import group

TIME, ROWS, INPUTS = 23, 3, 3
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "s5": ("s5", {"ssm_size": 4, "blocks": 1}),
    "ffm": ("ffm", {}),
    "lru": ("lru", {}),
    "s4d": ("s4d", {}),
    "mingru": ("mingru", {}),
    "mingru_complex": ("mingru", {"gate": "complex"}),
    "minlstm": ("minlstm", {"conv_size": 1}),
    "s6": ("s6", {}),
    "retnet": ("retnet", {"heads": 2}),
    "none": ("none", {}),
    "stack": ("stack", {"layers": ["s6", "retnet", "lru"]}),
}


def make(case: str) -> tuple[MemoryCore[Any], Tensor, Any, Tensor]:
    """A core, rows of inputs, a state before them, and starts, the same in every process."""
    torch.manual_seed(0)
    name, options = CASES[case]
    core = cores.make(name, input_size=INPUTS, output_size=4, **options).double()
    x = torch.randn(ROWS, TIME, INPUTS, dtype=torch.float64)
    state = tree.map(torch.randn_like, core.initial_state(ROWS))
    start = torch.zeros(ROWS, TIME, dtype=torch.bool)
    # No start; in the first and in the last piece, two in one; at the first step of each piece.
    start[1, [4, 16, 17]] = True
    start[2, [0, 9, 11, 14]] = True
    return core, x, state, start


def run(case: str, scan: Any, piece: slice) -> dict[str, Any]:
    """Outputs, final state and gradients, with a loss of all outputs and of the final state."""
    core, x, state, start = make(case)
    x = x[:, piece].clone().requires_grad_()
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(state)]
    given = iter(leaves)
    y, last = scan(core, x, tree.map(lambda _: next(given), state), start[:, piece])
    weight = torch.linspace(-1, 2, TIME, dtype=y.dtype)[piece, None]
    loss = (y.sin() * weight).sum()
    if piece.stop in (None, TIME):  # all ranks have the final state: the last one counts it
        loss = loss + sum(leaf.abs().square().sum() for leaf in tree.leaves(last))
    loss.backward()
    return {
        "y": y.detach(),
        "last": [leaf.detach() for leaf in tree.leaves(last)],
        "x": x.grad,
        "shared": [
            torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for leaf in (*core.parameters(), *leaves)
        ],
    }


def main() -> None:
    folder, lengths = sys.argv[1], [int(length) for length in sys.argv[2].split(",")]
    torch.set_num_threads(1)
    group.join()
    rank = group.number()
    first = sum(lengths[:rank])
    piece = slice(first, first + lengths[rank])
    found = {case: run(case, scan_over_ranks, piece) for case in CASES}
    torch.save(found, f"{folder}/{rank}.pt")


if __name__ == "__main__":
    main()
