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
    found = bounds(name, difficulty, previous_action)
    if found is None:
        return None
    memoryless, optimal = found
    possible = optimal - memoryless
    return (score - memoryless) / possible if possible > 0.01 else None


def bounds(name: str, difficulty: str, previous_action: bool) -> tuple[float, float] | None:
    """The scores of a task without memory and at the optimum; None if it is not in the table."""
    reference = REFERENCES.get(name, {}).get(difficulty)
    if reference is None:
        return None
    memoryless = (
        reference.memoryless_with_previous_action if previous_action else reference.memoryless
    )
    return memoryless, reference.optimal


class Published(NamedTuple):
    """Scores (MMER, see `records.mmer`) of POPGym's own baselines, PPO with 13 memories, after 15
    million steps: of the GRU, and of the best memory, which `memory` names.
    """

    gru: float
    best: float
    memory: str


def _published(gru: tuple[float, float, float], *best: tuple[float, str]) -> dict[str, Published]:
    """The scores of easy, medium and hard."""
    rows = zip(gru, best, strict=True)
    return {
        level: Published(ours, *theirs)
        for level, (ours, theirs) in zip(("easy", "medium", "hard"), rows, strict=True)
    }


# Morad et al. 2023 (arXiv 2303.01859), appendix B, table 3. Version 1.0.7 of POPGym has changed
# the actions of CountRecall since.
PUBLISHED = {
    "popgym-repeat-first": _published(
        (1.0, 1.0, 0.940), (1.0, "GRU"), (1.0, "GRU"), (0.969, "IndRNN")
    ),
    "popgym-repeat": _published(
        (1.0, -0.315, -0.428), (1.0, "GRU"), (0.789, "LMU"), (0.191, "LMU")
    ),
    "popgym-autoencode": _published(
        (-0.283, -0.425, -0.456), (-0.283, "GRU"), (-0.420, "IndRNN"), (-0.448, "IndRNN")
    ),
    "popgym-count-recall": _published(
        (0.177, -0.528, -0.475), (0.509, "LSTM"), (-0.519, "PosMLP"), (-0.470, "PosMLP, TCN")
    ),
    "popgym-higher-lower": _published(
        (0.529, 0.511, 0.506), (0.529, "GRU"), (0.513, "IndRNN"), (0.509, "IndRNN")
    ),
    "popgym-bandit": _published(
        (0.619, 0.538, 0.516), (0.631, "Elman"), (0.598, "TCN"), (0.574, "TCN")
    ),
    "popgym-position-only-cartpole": _published((1.0,) * 3, *[(1.0, "GRU")] * 3),
    "popgym-noisy-position-only-cartpole": _published(
        (0.995, 0.642, 0.390), (0.995, "GRU"), (0.659, "IndRNN"), (0.404, "IndRNN")
    ),
}
