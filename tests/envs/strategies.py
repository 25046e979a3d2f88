"""Strategies for the memory classics: random, and with perfect memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlmem.envs.base import Tensors

# Chooses actions [N] from all observations so far, the newest last.
Strategy = Callable[[list[Tensors]], Tensor]
# The right answer to a question, from all tokens and flags shown so far.
Rule = Callable[[list[int], list[int]], int]


def play(env: Any, strategy: Strategy, seed: int | list[int] = 0) -> Tensor:
    """The returns of one episode in each environment; all have the same length."""
    seen = [env.reset(seed)]
    total = torch.zeros(env.num_envs)
    for t in range(env.length):
        step = env.step({"action": strategy(seen)})
        total += step.reward
        seen.append(step.obs)
        assert bool(step.terminated.all()) == (t == env.length - 1)
        assert not step.truncated.any()
    return total


def recall(rule: Rule) -> Strategy:
    """Answers by `rule`."""

    def strategy(seen: list[Tensors]) -> Tensor:
        shown = torch.stack([obs["obs.token"] for obs in seen], 1).tolist()
        asked = torch.stack([obs["obs.asked"] for obs in seen], 1).tolist()
        rows = zip(shown, asked, strict=True)
        return torch.tensor([rule(row, due) if due[-1] else 0 for row, due in rows])

    return strategy


def rule_of(name: str, env: Any) -> Rule:
    """The rule of the task `name`."""

    def copy(shown: list[int], due: list[int]) -> int:
        return shown[sum(due) - 1]

    def mqar(shown: list[int], due: list[int]) -> int:
        return shown[shown.index(shown[-1]) + 1] - env.keys

    def joint(shown: list[int], due: list[int]) -> int:
        context, key = shown[-2:]
        block = shown[shown.index(context) :]
        return block[block.index(key) + 1] - env.contexts - env.keys

    return {"copy": copy, "mqar": mqar, "joint-recall": joint}[name]


def perfect(name: str, env: Any) -> Strategy:
    """The best strategy of a task, with perfect memory."""
    if name.startswith("tmaze"):
        return walk(env.end, env.oracle_length)
    if name == "memory-chain":
        return remember_bits
    return recall(rule_of(name, env))


def walk(end: int, oracle_length: int) -> Strategy:
    """Walk to the oracle, to the junction, and to the side named by the cue."""

    def strategy(seen: list[Tensors]) -> Tensor:
        t = len(seen) - 1
        rows = len(seen[0]["obs"])
        if t < oracle_length:
            return torch.full((rows,), 2)
        if t < oracle_length + end:
            return torch.zeros(rows, dtype=torch.int64)
        # The last entry before the time is y or the cue.
        cue = seen[oracle_length]["obs"]
        return 2 - cue[:, 1 if cue[:, 1].any() else 2].long()

    return strategy


def remember_bits(seen: list[Tensors]) -> Tensor:
    asked = seen[-1]["obs"][:, 1].long()
    return (seen[0]["obs"][:, 2:].gather(1, asked[:, None])[:, 0] > 0).long()


def at_random(limit: int) -> Strategy:
    generator = torch.Generator().manual_seed(5)
    return lambda seen: torch.randint(
        limit, (len(next(iter(seen[0].values()))),), generator=generator
    )
