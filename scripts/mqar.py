"""Associative recall of hybrids beside their parts, at 8 to 64 pairs and widths of 32 to 128.

    python scripts/mqar.py [--cores ahn bmojo ...] [--pairs 8 16 32 64] [--widths 32 64 128]
                           [--rates 0.003 0.01] [--seeds 0] [--minutes 60] [--page mqar]

The question of `scripts/recall.py` (MQAR, Arora et al. 2023, arXiv 2312.04927): pairs of a key and
a value, then all keys in another order. Each hybrid stands beside its parts, with the same window:
`stack` of S5 and Transformer-XL; `ahn` (window of 16 and a gated delta rule); `bmojo` (window of
16, 16 kept steps and S6); `armt` (window of 16, memory tokens); `mom` (several gated delta rules).
A cell is one core, number of pairs, width, learning rate and seed, with a file in
docs/results/PAGE; the same command goes on after a stop. The page has, of the learning rates that
were measured, the one with the smaller loss in training: memories of several parts learn slowly
with the smaller rate.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from cells import Result, file_of, measure_missing, parse, read
from pages import write
from recall import KEYS, VALUES, draw

from rlmem import __version__
from rlmem.diagnose.reader import Reader, accuracy, fit

# Hybrids and, below each, its parts.
CORES = {
    "stack:layers=[s5,transformer_xl]": ["s5", "transformer_xl"],
    "ahn": ["transformer_xl:memory=16", "gated_deltanet"],
    "bmojo": ["transformer_xl:memory=16", "s6"],
    "armt": ["transformer_xl:memory=16"],
    "mom": ["gated_deltanet"],
}
PAIRS, WIDTHS = (8, 16, 32, 64), (32, 64, 128)
STEPS, ROWS, TEST_ROWS = 1000, 32, 200
LEARNING_RATES = (0.003, 0.01)


def contestants() -> list[str]:
    """Hybrids and parts, each once."""
    return list(dict.fromkeys(each for core, parts in CORES.items() for each in (core, *parts)))


def measure(contestant: str, pairs: int, width: int, rate: float, seed: int) -> Result:
    """Train one model and test it."""
    name, options = parse(contestant)
    torch.manual_seed(seed)
    model = Reader(name, KEYS + VALUES + 1, VALUES, width, options)
    generator = torch.Generator().manual_seed(seed)
    loss = fit(model, lambda: draw(ROWS, pairs, generator), STEPS, rate)
    right = accuracy(model, draw(TEST_ROWS, pairs, torch.Generator().manual_seed(2**31)))
    about = {"core": contestant, "pairs": pairs, "width": width, "rate": rate, "seed": seed}
    measured = {"loss": float(f"{loss:.2e}"), "right": round(right, 4)}
    return about | measured | {"rlmem": __version__, "torch": torch.__version__}


def better(results: list[Result]) -> Iterator[Result]:
    """Of the cells that differ in the learning rate alone, the one with the smallest loss."""
    least: dict[tuple[Any, ...], Result] = {}
    for each in results:
        cell = tuple(each[key] for key in ("core", "pairs", "width", "seed"))
        if cell not in least or each["loss"] < least[cell]["loss"]:
            least[cell] = each
    yield from least.values()


def table(results: list[Result]) -> Iterator[dict[str, str]]:
    """A row for each hybrid or part and each width; a part of two hybrids has one row."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for each in better(results):
        found[each["core"], each["width"], each["pairs"]].append(each["right"])
    for width in WIDTHS:
        for core in contestants():
            values = {pairs: found.get((core, width, pairs)) for pairs in PAIRS}
            cells = {
                f"{pairs} pairs": f"{100 * median(right):.1f}" if right else "-"
                for pairs, right in values.items()
            }
            verdict = ""
            if core in CORES:
                verdict = compared(found, core, width)
            yield {"width": str(width), "core": core} | cells | {"against its better part": verdict}


def compared(found: dict[tuple[str, int, int], list[float]], core: str, width: int) -> str:
    """The smallest difference to the better part over the numbers of pairs, in percent points."""
    differences = []
    for pairs in PAIRS:
        values = [found.get((each, width, pairs)) for each in (core, *CORES[core])]
        if all(values):
            mine, *parts = [median(each) for each in values if each]
            differences.append((mine - max(parts), pairs))
    if not differences:
        return "-"
    least, at = min(differences)
    return f"{100 * least:+.1f} at least (at {at} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=contestants())
    parser.add_argument("--pairs", nargs="+", type=int, default=list(PAIRS))
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--rates", nargs="+", type=float, default=list(LEARNING_RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=60, help="of measuring; 0: the page alone")
    parser.add_argument("--page", default="mqar", help="docs/results/PAGE.md and PAGE/")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure_missing(
        (
            (file_of(args.page, *cell), partial(measure, *cell))
            for seed in args.seeds
            for width in args.widths
            for pairs in args.pairs
            for core in args.cores
            for rate in args.rates
            for cell in [(core, pairs, width, rate, seed)]
        ),
        args.minutes,
    )
    results = read(args.page)
    planned = len(contestants()) * len(PAIRS) * len(WIDTHS) * len(LEARNING_RATES)
    seeds = sorted({each["seed"] for each in results})
    rates = " or ".join(f"{rate:g}" for rate in LEARNING_RATES)
    caption = (
        f"right % of the values, {STEPS} batches of {ROWS} rows, Adam {rates} (the smaller loss in "
        f"training), seeds {seeds}; {sum(each['seed'] == 0 for each in results)} of {planned} "
        f"cells are done"
    )
    write(caption, list(table(results)), args.page)


if __name__ == "__main__":
    main()
