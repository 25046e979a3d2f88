"""Supervised associative recall: key-value pairs, then all keys again in random order.

    python scripts/recall.py [--cores titans transformer_xl ...] [--pairs 8 16 32] [--page recall]
                             [--seeds 0] [--steps 1500] [--width 64] [--rows 32]
                             [--learning-rate 0.003]

The multi-query associative recall of Arora et al. 2023 (arXiv 2312.04927) in one layer. A step
shows a key together with its value, so that no binding across steps is needed; a query shows a key
alone. Keys and values are drawn from 64 each, keys without repetition. Each core is trained alone,
between an embedding and a linear map, with the same settings. The table has the accuracy on new
rows, which shows how the capacity of a memory runs out as pairs are added.
"""

from __future__ import annotations

import argparse
import time

import torch
from pages import publish

from rlmem.diagnose.question import Batch
from rlmem.diagnose.reader import Reader, fit

CORES = ["titans", "transformer_xl", "gated_deltanet", "deltanet", "mlstm", "ffm", "s5", "gru"]
KEYS = VALUES = 64
TEST_ROWS = 1000


def draw(rows: int, pairs: int, generator: torch.Generator) -> Batch:
    """Rows of 2 * `pairs` steps with two tokens each: a key, and a value or the token for none."""
    keys = torch.rand(rows, KEYS, generator=generator).argsort(1)[:, :pairs]
    values = torch.randint(VALUES, (rows, pairs), generator=generator)
    order = torch.rand(rows, pairs, generator=generator).argsort(1)
    shown = torch.cat([keys, keys.gather(1, order)], 1)
    beside = torch.cat([values, torch.full_like(values, VALUES)], 1)
    tokens = torch.stack([shown, KEYS + beside], -1)
    start = torch.zeros_like(shown, dtype=torch.bool)
    start[:, 0] = True
    answer = torch.cat([torch.full_like(values, -1), values.gather(1, order)], 1)
    return Batch(tokens, start, answer)


def measure(core: str, pairs: int, seed: int, args: argparse.Namespace) -> float:
    """Accuracy on test rows after training, in percent."""
    torch.manual_seed(seed)
    model = Reader(core, KEYS + VALUES + 1, VALUES, args.width)
    generator = torch.Generator().manual_seed(seed)
    fit(model, lambda: draw(args.rows, pairs, generator), args.steps, args.learning_rate)
    x = draw(TEST_ROWS, pairs, torch.Generator().manual_seed(2**31))
    with torch.no_grad():
        right = model(x).argmax(-1) == x.answer
    return 100 * right[:, pairs:].float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=CORES)
    parser.add_argument("--pairs", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for core in args.cores:
        for seed in args.seeds:
            begun = time.perf_counter()
            right = {f"{n} pairs: right %": measure(core, n, seed, args) for n in args.pairs}
            seconds = f"{time.perf_counter() - begun:.0f}"
            row = {"core": core, "seed": str(seed)}
            row |= {name: f"{percent:.1f}" for name, percent in right.items()}
            table.append(row | {"seconds": seconds})
            print(*table[-1].values(), sep=" | ", flush=True)
    about = (
        f"associative recall, width {args.width}, {args.steps} batches of {args.rows} rows, "
        f"Adam {args.learning_rate:g}, 1 thread"
    )
    publish(about, table, args.page)


if __name__ == "__main__":
    main()
