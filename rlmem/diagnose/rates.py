"""Time: a continuous signal at another sampling rate than in training.

A signal of 4 seconds is a sinus of one of 4 frequencies with a random phase, plus noise. The answer
at its end is the frequency. Training samples it 16 times a second, tests also 8 and 32 times. The
step size of state-space models is scaled along (see `rescaled`), as in Gu et al. 2022.
"""

from __future__ import annotations

import copy
from functools import partial
from math import log, tau

import torch
from torch import nn

from rlmem.diagnose.question import Batch, Question, below, episodes

FREQUENCIES = (0.4, 0.8, 1.6, 3.2)  # hertz; the lowest rate samples the highest 2.5 times
SECONDS, RATE = 4, 16
NOISE = 0.2
# The logarithms of step sizes in cores with a continuous form.
STEP_SIZES = ("log_step", "log_dt")


def signal(rate: int, rows: int, generator: torch.Generator) -> Batch:
    """Rows [B, 4 * `rate`, 1] of noisy signals; the question is asked in the last step."""
    which = below(len(FREQUENCIES), (rows, 1), generator)
    phase = tau * torch.rand(rows, 1, generator=generator)
    time = torch.arange(SECONDS * rate) / rate
    clean = torch.sin(tau * torch.tensor(FREQUENCIES)[which] * time + phase)
    noisy = clean + NOISE * torch.randn(clean.shape, generator=generator)
    answer = torch.full(clean.shape, -1)
    answer[:, -1:] = which
    return episodes(noisy.unsqueeze(-1), answer)


def rescaled(model: nn.Module, condition: str) -> nn.Module:
    """A copy for a test's sampling rate: the step sizes of continuous cores follow it."""
    rate = int(condition.split()[0])
    if rate == RATE:
        return model
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name.rpartition(".")[2] in STEP_SIZES:
                parameter.add_(log(RATE / rate))
    return found


QUESTIONS = [
    Question(
        name="rate",
        about="frequency of a signal, sampled at other rates",
        inputs=1,
        answers=len(FREQUENCIES),
        train=partial(signal, RATE),
        tests={f"{rate} per second": partial(signal, rate) for rate in (8, RATE, 32)},
        chance=1 / len(FREQUENCIES),
        rows=64,
        test_rows=500,
        continuous=True,
    )
]
