"""State tracking, supervised: the parity of a stream of bits, five times longer than in training.

    python scripts/parity.py [--cores slstm deltanet ...] [--seeds 0 1 2] [--page parity]
                             [--steps 1500] [--width 32] [--rows 16] [--learning-rate 0.01]

Every core alone, one layer between an embedding of the bit and a linear map, learns to say after
each bit whether the ones since the start are odd: on rows in which episodes of 40 bits lie end to
end. It is tested on 1,000 rows of 200 bits; a row is right if the answers after all 200 are. The
settings are the same for all. `core:option=value` sets an option of a core.

A linear recurrence can do this where a step can turn the sign of what it holds, and not by its
gates alone (Merrill et al. 2024, arXiv 2404.08819; Grazzi et al. 2024, arXiv 2411.12537).
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from pages import publish
from torch import Tensor, nn
from torch.nn import functional as F

from rlmem import cores

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
EPISODE, EPISODES = 40, 2  # bits, in a row of training
TESTED, TEST_ROWS = 200, 1000


class Bits(NamedTuple):
    """`bits` [B, T], `start` [B, T], and `parity` [B, T] of the bits since the last start."""

    bits: Tensor
    start: Tensor
    parity: Tensor


def draw(rows: int, length: int, episodes: int, generator: torch.Generator) -> Bits:
    """Rows of `episodes` episodes of `length` bits each, end to end."""
    bits = torch.randint(2, (rows, episodes, length), generator=generator)
    start = torch.zeros_like(bits, dtype=torch.bool)
    start[..., 0] = True
    return Bits(*(x.flatten(1) for x in (bits, start, bits.cumsum(-1) % 2)))


class Tracker(nn.Module):
    """A core between an embedding of the bit and a linear map to both answers."""

    def __init__(self, name: str, options: dict[Any, Any], width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(2, width)
        self.core = cores.make(name, input_size=width, **options)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Bits) -> Tensor:
        y, _ = self.core.scan(self.embed(x.bits), self.core.initial_state(len(x.bits)), x.start)
        logits: Tensor = self.head(y)
        return logits


def train(model: Tracker, args: argparse.Namespace, generator: torch.Generator) -> float:
    """The loss of the last batch."""
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.1
    )
    for _ in range(args.steps):
        x = draw(args.rows, EPISODE, EPISODES, generator)
        loss = F.cross_entropy(model(x).flatten(0, 1), x.parity.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()


def score(model: Tracker, steps: int) -> tuple[float, float]:
    """Percent of rows of one episode that are right at every step, and of answers."""
    x = draw(TEST_ROWS, steps, 1, torch.Generator().manual_seed(2**31))
    with torch.no_grad():
        right = model(x).argmax(-1) == x.parity
    return 100 * right.all(1).float().mean().item(), 100 * right.float().mean().item()


def measure(core: str, seed: int, args: argparse.Namespace) -> dict[str, str]:
    name, _, text = core.partition(":")
    options = dict(OmegaConf.from_dotlist([text] if text else []))
    torch.manual_seed(seed)
    model = Tracker(name, options, args.width)
    begun = time.perf_counter()
    loss = train(model, args, torch.Generator().manual_seed(seed))
    seconds = time.perf_counter() - begun
    (seen, _), (long, answers) = score(model, EPISODE), score(model, TESTED)
    return {
        "core": name,
        "option": text,
        "seed": str(seed),
        "last loss": f"{loss:.1e}",
        f"rows of {EPISODE} right %": f"{seen:.1f}",
        f"rows of {TESTED} right %": f"{long:.1f}",
        f"answers of {TESTED} right %": f"{answers:.1f}",
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
    about = (
        f"parity after every bit, learned from {EPISODE} bits, width {args.width}, {args.steps} "
        f"batches of {args.rows} x {EPISODES} episodes, Adam {args.learning_rate:g}, 1 thread"
    )
    publish(about, table, args.page)


if __name__ == "__main__":
    main()
