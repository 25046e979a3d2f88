"""Batch dimensions: every method of every policy refuses observations of a wrong shape."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem.policies import ActorCritic, Policy, QPolicy, SoftPolicy
from rlmem.policies.encoders import check_batch
from rlmem.policies.multi_gamma import MultiGamma
from rlmem.policies.sequence import NUMBER, ReturnPolicy, SequencePolicy

ACTIONS: dict[str, spaces.Space] = {"action": spaces.Discrete(2)}
OBSERVATIONS: dict[str, spaces.Space] = {
    "obs": spaces.Box(-1, 1, (4,), np.float32),
    "obs.card": spaces.Discrete(3),
}
HISTORY: dict[str, spaces.Space] = {
    "previous_action": ACTIONS["action"],
    "previous_reward": NUMBER,
    "previous_done": spaces.Discrete(2),
    "start": spaces.Discrete(2),
}
KINDS: dict[type[Policy], list[str]] = {
    ActorCritic: ["act", "act_with_value", "value", "forward"],
    QPolicy: ["act", "act_with_value", "value", "forward"],
    SoftPolicy: ["act"],
    MultiGamma: ["act"],
    SequencePolicy: ["act", "forward"],
    ReturnPolicy: ["act", "forward"],
}
METHODS = [
    pytest.param(kind, method, id=f"{kind.__name__}.{method}")
    for kind, methods in KINDS.items()
    for method in methods
]


def observe(*shape: int) -> dict[str, Tensor]:
    integers = ("obs.card", "previous_action", "previous_done", "start")
    return {
        "obs": torch.rand(*shape, 4),
        **{key: torch.zeros(shape, dtype=torch.int64) for key in integers},
        "previous_reward": torch.zeros(shape),
        "return_to_go": torch.zeros(shape),
    }


def make(kind: type[Policy], method: str) -> tuple[Callable[..., Any], Policy]:
    policy = kind(OBSERVATIONS | HISTORY, ACTIONS, core="gru", hidden_size=8)
    return getattr(policy, method), policy


@pytest.fixture(autouse=True)
def _without_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    # The checks of the tests would find a wrong `start` first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_right_shapes_are_accepted(kind: type[Policy], method: str):
    call, policy = make(kind, method)
    batch = (3, 5) if method == "forward" else (3,)
    # `ReturnPolicy.forward` reads the core's state, not the return to go.
    core = method == "forward" and kind is ReturnPolicy
    state = (policy.core if core else policy).initial_state(3)
    call(observe(*batch), state, torch.zeros(batch, dtype=torch.bool))


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_wrong_shapes_are_refused_in_one_line(kind: type[Policy], method: str):
    call, policy = make(kind, method)
    row = method == "forward"
    right, names, sizes = ((3, 5), "B, T", "B = 3, T = 5") if row else ((3,), "N", "N = 3")
    state, start = policy.initial_state(3), torch.zeros(right, dtype=torch.bool)
    without = {key: leaf[0] for key, leaf in observe(*right).items()}
    card = {**observe(*right), "obs.card": torch.zeros(*right, 1, dtype=torch.int64)}
    missing = {key: leaf for key, leaf in observe(*right).items() if key != "obs.card"}
    for obs, begin, text in [
        (without, start, f"is {list(without['obs'].shape)}; expected [{names}, 4] with {sizes}"),
        (without, start[0], f"start is {list(right[1:])}; expected [{names}]"),
        (card, start, f"obs 'obs.card' is {[*right, 1]}; expected [{names}] with {sizes}"),
        (missing, start, "obs 'obs.card' is missing"),
        (observe(2, *right[1:]), start, f"; expected [{names}, 4] with {sizes} as in start"),
    ]:
        if text.startswith("is ") and kind is ReturnPolicy and not row:
            text = "; expected [N] with N = 3 as in start"  # its reward is read first
        if "[N, 4]" in text and kind is ReturnPolicy:
            text = "; expected [N] with N = 3 as in start"
        with pytest.raises(ValueError, match=re.escape(text)) as error:
            call(obs, state, begin)
        assert "\n" not in str(error.value)


def test_the_check_costs_little():
    shapes = {f"obs.{i}": (4,) for i in range(5)}
    obs, start = {key: torch.zeros(8, 4) for key in shapes}, torch.zeros(8, dtype=torch.bool)
    begin = time.perf_counter()
    for _ in range(1000):
        check_batch(shapes, obs, start, "N")
    # A step of the smallest policy takes about 300 microseconds.
    assert time.perf_counter() - begin < 1000 * 50e-6
