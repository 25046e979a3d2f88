"""Supervised state tracking: the parity of a stream of bits, five times longer than in training.

    python scripts/parity.py [--cores slstm deltanet ...] [--seeds 0 1 2] [--page parity]
                             [--steps 1500] [--width 32] [--rows 16] [--learning-rate 0.01]

Each model is one core between an embedding of the bit and a linear map. After each bit it predicts
the parity of the bits since the start. Training rows hold episodes of 40 bits, end to end. The test
has 1,000 rows of 200 bits; a row is right if all its 200 answers are. All cores use the same
settings, which were tuned for deltanet with negative eigenvalues on rows of 200 bits, so other
cores may do better with other settings. `core:option=value` sets an option of a core.

A linear recurrence can solve this if a step can flip the sign of its state; gates alone are not
enough (Merrill et al. 2024, arXiv 2404.08819; Grazzi et al. 2024, arXiv 2411.12537).
"""

from __future__ import annotations

import argparse
import time

import torch
from omegaconf import OmegaConf
from pages import publish

from rlmem.diagnose.question import Batch
from rlmem.diagnose.reader import Reader, fit

CORES = [
    "slstm",
    "deltanet:negative_eigenvalues=true",
    "deltanet:negative_eigenvalues=false",
    "gated_deltanet",
    "s5",
    "lru",
    "gru",
    "lstm",
]
EPISODE, EPISODES = 40, 2  # bits per episode, episodes per training row
TEST_LENGTH, TEST_ROWS = 200, 1000  # bits per test row, number of test rows


def draw(rows: int, length: int, episodes: int, generator: torch.Generator) -> Batch:
    """Random rows of `episodes` episodes of `length` bits, end to end.

    The answer after each bit is the parity of the bits since the last start.
    """
    bits = torch.randint(2, (rows, episodes, length), generator=generator)
    start = torch.zeros_like(bits, dtype=torch.bool)
    start[..., 0] = True
    return Batch(*(x.flatten(1) for x in (bits, start, bits.cumsum(-1) % 2)))


def score(model: Reader, steps: int) -> tuple[float, float]:
    """Percentages of rows with all answers right, and of right answers, on rows of one episode."""
    x = draw(TEST_ROWS, steps, 1, torch.Generator().manual_seed(2**31))
    with torch.no_grad():
        right = model(x).argmax(-1) == x.answer
    return 100 * right.all(1).float().mean().item(), 100 * right.float().mean().item()


def measure(core: str, seed: int, args: argparse.Namespace) -> dict[str, str]:
    name, _, text = core.partition(":")
    options = dict(OmegaConf.from_dotlist([text] if text else []))
    torch.manual_seed(seed)
    model = Reader(name, inputs=2, answers=2, width=args.width, options=options)
    begun = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    loss = fit(
        model, lambda: draw(args.rows, EPISODE, EPISODES, generator), args.steps, args.learning_rate
    )
    seconds = time.perf_counter() - begun
    short_rows, _ = score(model, EPISODE)
    long_rows, long_answers = score(model, TEST_LENGTH)
    return {
        "core": name,
        "option": text,
        "seed": str(seed),
        "last loss": f"{loss:.1e}",
        f"rows of {EPISODE} right %": f"{short_rows:.1f}",
        f"rows of {TEST_LENGTH} right %": f"{long_rows:.1f}",
        f"answers of {TEST_LENGTH} right %": f"{long_answers:.1f}",
        "seconds": f"{seconds:.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=CORES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for core in args.cores:
        for seed in args.seeds:
            table.append(measure(core, seed, args))
            print(*table[-1].values(), sep=" | ", flush=True)
    caption = (
        f"parity after every bit, learned from {EPISODE} bits, width {args.width}, {args.steps} "
        f"batches of {args.rows} x {EPISODES} episodes, Adam {args.learning_rate:g}, 1 thread"
    )
    publish(caption, table, args.page)


if __name__ == "__main__":
    main()
