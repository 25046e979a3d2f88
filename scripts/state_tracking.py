"""State tracking: products in groups, trained on words of up to 40 letters, tested on 200 and 500.

    python scripts/state_tracking.py [--cores gru mingru:gate=complex ...] [--groups z2 z3 s3 a5 s5]
                                     [--seeds 0 1 2] [--minutes 60] [--page state-tracking]

The word problem of `rlmem diagnose` (`rlmem/diagnose/tracking.py`) with longer words. Each model is
one core of width 32 between an embedding of the letters, generators of the group, and a linear map;
after each letter it names the product so far. All cores use the same settings:

- The loss is cross-entropy with label smoothing. Without it the loss vanishes once all answers are
  right; then heads that fade over some 100 letters stay, and angles are never learned exactly. With
  it the logits must be the same after 4 letters and after 40.
- Adam's beta2 is 0.95. With 0.999, squared gradients of the first 1,000 batches keep its steps too
  small to remove the last errors of angles (`mingru` with complex gates: 66 % on Z3 after 500
  letters instead of 100).
- The lengths are uniform from 4 to 40 from the first batch on. With a course from short to long
  words, a solution for short words may stay (`deltanet` with two steps: 55 % on Z3 instead of 100).
- Cores with a short convolution do without it (`conv_size=1`), as one letter is all that a step
  needs: reflections and rotations that depend on four letters are harder to learn exactly.

The settings were chosen with `deltanet`, which tracks S3 with two Householder steps, and used for
all other cores unchanged; width and learning rate are those of `scripts/parity.py`. A cell is one
core, group and seed, with a file in docs/results/PAGE; the same command goes on after a stop. The
page has the median accuracy over the seeds, in the last 50 letters of words of 200 and of 500.

The column `by theory` lists the groups that one layer of the core can track at any length in
principle, with the default options:

- a window forgets, and so does a state that fades at a fixed rate: no group (Merrill et al. 2024,
  arXiv 2404.08819);
- gates in (0, 1) that depend on the input cannot flip a sign: no group (Sarrof et al. 2024, arXiv
  2405.17394; Grazzi et al. 2024, arXiv 2411.12537);
- signed diagonal gates: Z2. Complex ones: abelian groups, Z2 and Z3;
- N Householder steps (the delta rule with negative eigenvalues) in a letter: one reflects (Z2), two
  rotate (Z3, S3, and A5 as the rotations of an icosahedron), four permute five things (S5; Siems et
  al. 2025, arXiv 2502.10297);
- a nonlinear recurrence of the whole state: all. `open`: no theorem is known to us, for example for
  nonlinear recurrences of single units and for memories that learn at test time.
"""

from __future__ import annotations

import argparse
import inspect
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from cells import Result, file_of, measure_missing, parse, read
from pages import write

from rlmem import __version__, cores
from rlmem.cores.base import registry
from rlmem.diagnose.question import Batch, below
from rlmem.diagnose.reader import Reader, accuracy, fit
from rlmem.diagnose.tracking import GENERATORS, SHORTEST, multiplication, words

TRAINED, TESTED, ASKED = 40, (200, 500), 50
WIDTH, LETTERS, TEST_ROWS, LEARNING_RATE, SMOOTHING, BETA2 = 32, 320, 100, 0.01, 0.1, 0.95
STEPS = {"z2": 1500, "z3": 1500, "s3": 1500, "a5": 2000, "s5": 2000}
VARIANTS = [
    "mingru:gate=signed",
    "mingru:gate=complex",
    "minlstm:gate=signed",
    "minlstm:gate=complex",
    "s6:gate=signed",
    "deltanet:negative_eigenvalues=true",
    "deltanet:negative_eigenvalues=true,householder_steps=2",
    "deltanet:negative_eigenvalues=true,householder_steps=4",
    "gated_deltanet:negative_eigenvalues=true",
    "gated_deltanet:negative_eigenvalues=true,householder_steps=2",
    "gated_deltanet:negative_eigenvalues=true,householder_steps=4",
    "mom:negative_eigenvalues=true",
]
NONE, ALL, OPEN = "none", "all", "open"
BY_THEORY = {
    **dict.fromkeys(("none", "frame_stack", "tcn", "ckconv", "transformer_xl", "gtrxl"), NONE),
    **dict.fromkeys(("ffm", "s4d", "s5", "lru", "lmu", "retnet", "aaren"), NONE),
    **dict.fromkeys(("mingru", "minlstm", "s6", "mlstm", "ahn", "armt", "mom", "bmojo"), NONE),
    **dict.fromkeys(("deltanet", "gated_deltanet"), NONE),
    **dict.fromkeys(("elman", "gru", "lstm", "mgu", "slstm", "xlstm", "lem", "wave_rnn"), ALL),
    "stack": ALL,  # two layers of GRU
    "mingru:gate=signed": "Z2",
    "minlstm:gate=signed": "Z2",
    "s6:gate=signed": "Z2",
    "mingru:gate=complex": "Z2 Z3",
    "minlstm:gate=complex": "Z2 Z3",
    "deltanet:negative_eigenvalues=true": "Z2",
    "gated_deltanet:negative_eigenvalues=true": "Z2",
    "mom:negative_eigenvalues=true": "Z2",
    "deltanet:negative_eigenvalues=true,householder_steps=2": "Z2 Z3 S3 A5",
    "gated_deltanet:negative_eigenvalues=true,householder_steps=2": "Z2 Z3 S3 A5",
    "deltanet:negative_eigenvalues=true,householder_steps=4": ALL,
    "gated_deltanet:negative_eigenvalues=true,householder_steps=4": ALL,
}


def contestants() -> list[str]:
    """All cores, each once, and variants that can track more."""
    every = {registry.get(name): name for name in cores.names()}.values()
    return sorted([*every, *VARIANTS])


def draw(group: str, generator: torch.Generator) -> Batch:
    """A batch for training: words of one random length, about as many letters in every batch."""
    length = SHORTEST + int(below(TRAINED - SHORTEST + 1, (), generator))
    return words(group, LETTERS // length, generator, length, length)


def options_of(contestant: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a core, without the short convolution that it may have by default."""
    name, options = parse(contestant)
    has_convolution = "conv_size" in inspect.signature(registry.get(name)).parameters
    return name, {"conv_size": 1} | options if has_convolution else options


def measure(contestant: str, group: str, seed: int) -> Result:
    """Train one model and test it."""
    name, options = options_of(contestant)
    torch.manual_seed(seed)
    letters, elements = len(GENERATORS[group]), len(multiplication(group))
    model = Reader(name, letters, elements, WIDTH, options)
    generator = torch.Generator().manual_seed(seed)
    batches = partial(draw, group, generator)
    loss = fit(model, batches, STEPS[group], LEARNING_RATE, SMOOTHING, BETA2)
    test = torch.Generator().manual_seed(2**31)
    right = {
        str(length): round(accuracy(model, words(group, TEST_ROWS, test, length, ASKED)), 4)
        for length in TESTED
    }
    about = {"core": contestant, "group": group, "seed": seed, "loss": float(f"{loss:.3e}")}
    return about | {"right": right, "rlmem": __version__, "torch": torch.__version__}


def table(results: list[Result]) -> Iterator[dict[str, str]]:
    """A row for every contestant; cells that are not measured have a dash."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for each in results:
        found[each["core"]][each["group"]].append(each["right"])
    for contestant in contestants():
        cells = found[contestant]
        row = {"core": contestant, "by theory": BY_THEORY.get(contestant, OPEN)}
        for group in GENERATORS:
            values = [
                f"{100 * median(right[str(length)] for right in cells[group]):.0f}"
                for length in TESTED
                if cells[group]
            ]
            row[f"{group.upper()} 200 / 500"] = " / ".join(values) or "-"
        counts = {len(cells[group]) for group in GENERATORS}
        low, high = min(counts), max(counts)
        yield row | {"seeds": str(high) if low == high else f"{low} to {high}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", nargs="+", default=contestants())
    parser.add_argument("--groups", nargs="+", default=list(GENERATORS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=60, help="of measuring; 0: the page alone")
    parser.add_argument("--page", default="state-tracking", help="docs/results/PAGE.md and PAGE/")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure_missing(
        (
            (file_of(args.page, core, group, seed), partial(measure, core, group, seed))
            for seed in args.seeds
            for group in args.groups
            for core in args.cores
        ),
        args.minutes,
    )
    results = read(args.page)
    planned = len(contestants()) * len(GENERATORS) * 3
    chance = ", ".join(f"{g.upper()} {100 / len(multiplication(g)):.0f}" for g in GENERATORS)
    caption = (
        f"median right % after words of {TESTED[0]} / {TESTED[1]} letters, learned from {TRAINED} "
        f"letters, width {WIDTH}, {STEPS['z2']} batches of {LETTERS} letters ({STEPS['s5']} for A5 "
        f"and S5), Adam {LEARNING_RATE:g} (beta2 {BETA2:g}), label smoothing {SMOOTHING:g}; "
        f"chance: {chance}; {len(results)} of {planned} cells with three seeds are done"
    )
    write(caption, list(table(results)), args.page)


if __name__ == "__main__":
    main()
