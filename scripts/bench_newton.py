"""Benchmarks parallel GRU solvers (Newton, quasi-Newton) against the loop over time.

    python scripts/bench_newton.py [--repeats 3] [--tolerance 1e-6] [--page newton]

Prints two tables, with --page also to docs/results/PAGE-iterations.md and PAGE-speed.md: the
iterations until the residual is at most the tolerance, by row length and recurrent weights; and
median milliseconds of forward and of forward + backward, measured in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pages import publish
from torch import Tensor, nn

from rlmem.kernels import gated_rnn
from rlmem.kernels.gated_rnn.newton_bound import gru_error_bound
from rlmem.kernels.gated_rnn.newton_gru import gru_parallel

LENGTHS = (128, 1024, 8192)
WIDTH = 64
SHAPES = ((1, 4096, 8), (1, 4096, 64), (1, 1024, 256), (16, 1024, 8), (64, 512, 128))
# Newton needs T D^3 operations. Above this limit it takes minutes and is left out of the table.
MAX_NEWTON_OPERATIONS = 2e10


def recall(rows: int, length: int, delay: int = 3) -> tuple[Tensor, Tensor]:
    """One-hot cards [rows, length, 4], and for each step the card `delay` steps before."""
    cards = torch.randint(4, (rows, length))
    return nn.functional.one_hot(cards, 4).float(), cards.roll(delay, dims=1)


def trained(steps: int = 400) -> nn.GRU:
    """A GRU trained to recall the card of three steps ago, as in POPGym's RepeatPrevious."""
    rnn, head = nn.GRU(4, WIDTH, batch_first=True), nn.Linear(WIDTH, 4)
    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()], 3e-3)
    for _ in range(steps):
        x, y = recall(64, 48)
        logits = head(rnn(x)[0])[:, 3:]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), y[:, 3:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (logits.argmax(-1) == y[:, 3:]).float().mean()
    print(f"trained on recall: {100 * right:.1f} % right\n")
    return rnn


def weights() -> dict[str, nn.GRU]:
    """Kinds of recurrent weights: initial, trained, and initial ones scaled up."""
    kinds = {"initial": nn.GRU(4, WIDTH), "trained on recall": trained()}
    for scale in (2, 4, 8):
        kinds[f"initial x {scale}"] = nn.GRU(4, WIDTH)
        kinds[f"initial x {scale}"].weight_hh_l0.data *= scale
    return kinds


@torch.no_grad()
def iterations(kind: str, rnn: nn.GRU, tolerance: float) -> list[dict[str, str]]:
    """Iterations of both solvers on rows without starts; '>' if a solver gave up."""
    rows = []
    for length in LENGTHS:
        projected = recall(1, length)[0] @ rnn.weight_ih_l0.t() + rnn.bias_ih_l0
        given = projected, rnn.weight_hh_l0, rnn.bias_hh_l0, projected.new_zeros(1, WIDTH)
        start = torch.zeros(1, length, dtype=torch.bool)
        row = {"recurrent weights": kind, "T": str(length)}
        newton, quasi = (
            gru_parallel(*given, start, diagonal=diagonal, tolerance=tolerance)
            for diagonal in (False, True)
        )
        for name, found in (("Newton", newton), ("quasi-Newton", quasi)):
            row[name] = (">" if found.sequential.any() else "") + str(found.iterations.item())
        bound = gru_error_bound(*given, start, newton.h)
        row["Newton's residual"] = f"{newton.residual.max():.1e}"
        row["largest norm of J"] = f"{bound.rho.max():.2f}"
        row["error at most"] = f"{bound.bound.max():.1e}"
        row["error to first order"] = f"{bound.estimate.max():.1e}"
        rows.append(row)
    return rows


def solvers(shape: tuple[int, int, int], tolerance: float) -> dict[str, Callable[[], Tensor]]:
    """Functions that compute the same states [B, T, D]; all but torch's own handle starts."""
    rows, length, width = shape
    rnn = nn.GRU(width, width, batch_first=True)
    x, h0 = torch.randn(rows, length, width), torch.zeros(rows, width)
    start = torch.rand(rows, length) < 1 / 50
    w_ih, weight, b_ih, bias = rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0
    shared = torch.cat([bias[: 2 * width], torch.zeros(width), bias[2 * width :]])

    def projected() -> Tensor:
        return nn.functional.linear(x, w_ih, b_ih)

    def fused() -> Tensor:
        given = projected()[:, :, None], weight.t()[None], shared[None], (h0[:, None],)
        return gated_rnn("gru", *given, start)[0]

    def parallel(diagonal: bool) -> Callable[[], Tensor]:
        return lambda: (
            gru_parallel(
                projected(), weight, bias, h0, start, diagonal=diagonal, tolerance=tolerance
            ).h
        )

    named = {
        "torch.nn.GRU, no starts": lambda: rnn(x)[0],
        "gated_rnn": fused,
        "quasi-Newton": parallel(True),
    }
    small = rows * length * width**3 <= MAX_NEWTON_OPERATIONS
    return named | ({"Newton": parallel(False)} if small else {})


def forward(solver: Callable[[], Tensor]) -> None:
    """One forward pass."""
    with torch.no_grad():
        solver()


def both(solver: Callable[[], Tensor]) -> None:
    """One forward and backward pass."""
    solver().sum().backward()


def speed(shape: tuple[int, int, int], tolerance: float, repeats: int) -> list[dict[str, str]]:
    """The rows of the table of times for one shape."""
    named = solvers(shape, tolerance)
    taken: dict[tuple[str, str], list[float]] = {}
    for round_ in range(repeats + 1):
        for name, solver in named.items():
            for direction in (forward, both):
                begun = time.perf_counter()
                direction(solver)
                # The first round warms up.
                if round_:
                    each = taken.setdefault((name, direction.__name__), [])
                    each.append(time.perf_counter() - begun)
    ms = {key: 1e3 * statistics.median(times) for key, times in taken.items()}
    return [
        {
            "[B, T, D]": " x ".join(map(str, shape)),
            "solver": name,
            "forward ms": f"{ms[name, 'forward']:.1f}",
            "forward + backward ms": f"{ms[name, 'both']:.1f}",
            "x gated_rnn": f"{ms['gated_rnn', 'both'] / ms[name, 'both']:.2f}",
        }
        for name in named
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=1e-6)
    parser.add_argument("--page", help="write docs/results/PAGE-{iterations,speed}.md")
    args = parser.parse_args()
    torch.manual_seed(0)
    counts = [row for kind in weights().items() for row in iterations(*kind, args.tolerance)]
    about = f"iterations to a residual of {args.tolerance:g} (>: given up), width {WIDTH}, float32"
    publish(about, counts, args.page and f"{args.page}-iterations")
    print()
    times = [row for shape in SHAPES for row in speed(shape, args.tolerance, args.repeats)]
    threads = f"{torch.get_num_threads()} threads"
    about = f"initial weights, a start in every 50 steps, float32, cpu, {threads}"
    about += f", median of {args.repeats}"
    publish(about, times, args.page and f"{args.page}-speed")


if __name__ == "__main__":
    main()
