"""Returns of the control laws, compared with random actions and with a search.

    python scripts/control_laws.py [--episodes 128] [--starts 6] [--page control-laws]

Mean returns of an episode of 200 steps of the dynamics: random actions and the law with one action
per step, and the law with one action per 4 steps. From a few initial states also the law, and the
best changes of its controls found by the cross-entropy method (Rubinstein 1999). The search starts
from no change, so the difference is the suboptimality of the law that it finds.
"""

from __future__ import annotations

import argparse

import torch
from jaxtyping import Float64
from pages import publish
from torch import Tensor

from rlmem import envs
from rlmem.envs import counter_rng
from rlmem.envs.control import CONTROLS, Control
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.meta.reference import references
from rlmem.runs import playing

STEPS = 200
# Changes are drawn at every KNOT-th step, with linear interpolation between them.
KNOT, SAMPLES, ELITE, ROUNDS = 8, 128, 12, 40


def played(family: str, player: str, episodes: int, repeat: int) -> float:
    """The mean return of a reference player."""

    def make(num_envs: int) -> envs.VecEnv:
        return envs.make(
            "meta-control-projection",
            num_envs=num_envs,
            families=[family],
            heldout_families=[],
            length=STEPS // repeat,
            repeat=repeat,
            episodes=1,
            horizon=1,
        )

    torch.manual_seed(0)
    seeds = list(range(episodes))
    found = playing.play_trials(lambda env: references(env)[player], make, seeds, True)
    return float(found.mean())


def returns(
    task: Control, state: Float64[Tensor, "S N"], changes: Float64[Tensor, "T C N"]
) -> Float64[Tensor, "N"]:
    """The returns of the law with `changes` added to its controls."""
    total, going = torch.zeros_like(state[0]), torch.ones_like(state[0]).bool()
    for t, change in enumerate(changes):
        state, worth, ended = task.transition(
            state.clone(), (task.steer(state) + change).clamp(-1, 1)
        )
        worth = torch.where(ended, STEPS - t, worth) if task.solved else worth
        total += torch.where(going, worth, 0.0)
        going &= ~ended
    return total / STEPS


def searched(task: Control, state: Float64[Tensor, "S M"]) -> tuple[float, float]:
    """The mean returns of the law and of the best changes, from these initial states."""
    starts = state.shape[1]
    place = torch.arange(STEPS, dtype=torch.float64) / KNOT
    before, fraction = place.long(), place.frac()[:, None, None]
    shape = (STEPS // KNOT + 2, task.controls, starts, 1)
    mean, spread = torch.zeros(shape).double(), torch.full(shape, 0.5).double()
    law = best = returns(task, state, torch.zeros(STEPS, task.controls, starts).double())
    for _ in range(ROUNDS):
        knots = mean + spread * torch.randn(*shape[:3], SAMPLES, dtype=torch.float64)
        flat = knots.flatten(2)
        changes = torch.lerp(flat[before], flat[before + 1], fraction)
        found = returns(task, state.repeat_interleave(SAMPLES, 1), changes).view(starts, SAMPLES)
        best = torch.maximum(best, found.amax(1))
        chosen = found.topk(ELITE).indices.expand(*shape[:3], ELITE)
        elite = knots.gather(3, chosen)
        mean, spread = elite.mean(3, keepdim=True), elite.std(3, keepdim=True) + 0.01
    return law.mean().item(), best.mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument(
        "--starts", type=int, default=6, help="number of initial states for the search"
    )
    parser.add_argument("--page", help="write docs/results/PAGE.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, task in CONTROLS.items():
        key = counter_rng.keys(range(args.starts))
        law, best = searched(task, task.initial_state(RandomDraws(key, torch.zeros_like(key))))
        row = {
            "chance": played(name, "random", args.episodes, 1),
            "law": played(name, "oracle", args.episodes, 1),
            "law, 4 steps an action": played(name, "oracle", args.episodes, 4),
            f"law from {args.starts} starts": law,
            "search from these": best,
        }
        rows.append({"task": name} | {key: f"{value:.3f}" for key, value in row.items()})
        print(*rows[-1].values(), sep=" | ", flush=True)
    publish(
        f"mean return of an episode of {STEPS} steps, {args.episodes} episodes; the search tried "
        f"{ROUNDS * SAMPLES:,} changes of the law's controls from each start",
        rows,
        args.page,
    )


if __name__ == "__main__":
    main()
