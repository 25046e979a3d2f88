"""Reference scores of POPGym tasks: without memory, and at the optimum."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """Reference scores of one task and difficulty.

    `memoryless` is the score of the best reactive policy found, without and with the previous
    action (and a start flag) in the observation. `optimal` is the optimum or the best known score.
    """

    memoryless: float
    memoryless_with_previous_action: float
    optimal: float


def _three(
    memoryless: tuple[float, float, float],
    optimal: tuple[float, float, float],
    with_previous_action: tuple[float, float, float] | None = None,
) -> dict[str, Reference]:
    """References for easy, medium and hard."""
    rows = zip(memoryless, with_previous_action or memoryless, optimal, strict=True)
    return dict(zip(("easy", "medium", "hard"), (Reference(*row) for row in rows), strict=True))


# From exact solutions and simulations on the package's own environments. If a policy with the
# previous action was measured on some difficulties only, the others hold the score without it.
REFERENCES = {
    "popgym-repeat-first": _three((-0.5,) * 3, (1.0,) * 3, (1.0,) * 3),
    "popgym-repeat": _three((-0.490, -0.495, -0.497), (1.0,) * 3),
    "popgym-autoencode": _three((-0.471, -0.486, -0.490), (1.0,) * 3),
    "popgym-count-recall": _three((-0.923, -0.925, -0.881), (1.0,) * 3),
    "popgym-concentration": _three((0.461, 0.467, -0.817), (0.814, 0.813, 0.699)),
    "popgym-higher-lower": _three((0.4975, 0.4973, 0.4967), (0.528, 0.517, 0.511)),
    "popgym-minesweeper": _three((-0.234, -0.391, -0.428), (0.756, 0.566, 0.481)),
    "popgym-battleship": _three((0.077,) * 3, (0.525, 0.581, 0.605)),
    "popgym-bandit": _three((0.0,) * 3, (0.717, 0.819, 0.855), (0.467, 0.549, 0.584)),
    "popgym-position-only-cartpole": _three((0.27, 0.135, 0.09), (1.0,) * 3, (0.68, 0.37, 0.24)),
    "popgym-velocity-only-cartpole": _three((1.0, 0.999, 0.82), (1.0,) * 3),
    "popgym-noisy-position-only-cartpole": _three((0.258, 0.216, 0.191), (0.997, 0.640, 0.402)),
    "popgym-position-only-pendulum": _three(
        (0.374,) * 3, (0.915, 0.886, 0.829), (0.54, 0.374, 0.374)
    ),
    "popgym-noisy-position-only-pendulum": _three((0.374,) * 3, (0.915,) * 3),
}


def memory_score(name: str, difficulty: str, previous_action: bool, score: float) -> float | None:
    """`(score - memoryless) / (optimal - memoryless)`: 0 without memory, 1 at the optimum.

    None if the task is not in the table, or can be solved without memory.
    """
    reference = REFERENCES.get(name, {}).get(difficulty)
    if reference is None:
        return None
    memoryless = (
        reference.memoryless_with_previous_action if previous_action else reference.memoryless
    )
    possible = reference.optimal - memoryless
    return (score - memoryless) / possible if possible > 0.01 else None
