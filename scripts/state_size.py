"""State size against parameters: which of them limits learning in context?

    python scripts/state_size.py [--cores gated_deltanet mlstm] [--seeds 0 1 2] [--page state-size]

Kirsch et al. 2022 (GPICL, arXiv 2212.04458, section 4.2) find that the size of the state, not the
number of parameters, decides if a network learns to learn. Here the two vary apart: a core of width
w with h matrix memories has w^2 / h numbers of state, at the same number of parameters for every h.

The task is classification in context. Each row draws 32 random vectors of 16 numbers with random
labels out of 8. It shows them with their labels, then all of them again in another order, disturbed
by noise and without labels. Nothing can be learned across rows but to learn from the row.
"""

from __future__ import annotations

import argparse
import time

import torch
from pages import publish

from rlmem.diagnose.question import Batch, below, episodes, permutations
from rlmem.diagnose.reader import Reader, accuracy, fit

SIZE, LABELS, EXAMPLES, NOISE = 16, 8, 32, 0.1
# (width, matrix memories): 256, 1,024 and 4,096 numbers of state.
SHAPES = [(32, 4), (64, 16), (32, 1), (64, 4), (128, 16), (64, 1), (128, 4)]
TEST_ROWS = 500


def draw(rows: int, generator: torch.Generator) -> Batch:
    """Rows [rows, 2 * 32] of features: a vector, and its label one-hot or zeros."""
    x = torch.randn(rows, EXAMPLES, SIZE, generator=generator)
    label = below(LABELS, (rows, EXAMPLES), generator)
    order = permutations(rows, EXAMPLES, generator)
    asked = x.gather(1, order.unsqueeze(-1).expand_as(x))
    asked = asked + NOISE * torch.randn(asked.shape, generator=generator)
    shown = torch.cat([x, torch.nn.functional.one_hot(label, LABELS)], -1)
    query = torch.cat([asked, torch.zeros(rows, EXAMPLES, LABELS)], -1)
    answer = torch.cat([torch.full_like(label, -1), label.gather(1, order)], 1)
    return episodes(torch.cat([shown, query], 1), answer)


def measure(core: str, width: int, heads: int, seed: int, steps: int) -> dict[str, str]:
    torch.manual_seed(seed)
    options = {"heads": heads, "head_size": width // heads}
    model = Reader(core, SIZE + LABELS, LABELS, width, options, continuous=True)
    generator = torch.Generator().manual_seed(seed)
    begun = time.perf_counter()
    fit(model, lambda: draw(64, generator), steps)
    right = accuracy(model, draw(TEST_ROWS, torch.Generator().manual_seed(2**31)))
    return {
        "core": core,
        "width": str(width),
        "memories": str(heads),
        "state": f"{width**2 // heads:,}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "seed": str(seed),
        "right %": f"{100 * right:.1f}",
        "seconds": f"{time.perf_counter() - begun:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=["mlstm", "gated_deltanet"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for core in args.cores:
        for width, heads in SHAPES:
            for seed in args.seeds:
                table.append(measure(core, width, heads, seed, args.steps))
                print(*table[-1].values(), sep=" | ", flush=True)
    publish(
        f"classification in context of {EXAMPLES} vectors with {LABELS} labels (chance "
        f"{100 / LABELS:.1f} %), {args.steps} batches of 64 rows, Adam 0.003, 1 thread",
        table,
        args.page,
    )


if __name__ == "__main__":
    main()
