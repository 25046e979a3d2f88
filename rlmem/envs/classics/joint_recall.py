"""Joint recall: the value of a key depends on its context."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.envs.base import register
from rlmem.envs.classics.mqar import interleave
from rlmem.envs.classics.tokens import TokenEnv
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.tensor_env import Script
from rlmem.errors import UsageError, at_least, positive


@register("joint-recall")
class JointRecall(TokenEnv):
    """Multi-query joint recall (Zhan et al. 2025, "Overcoming long-context limitations of
    state-space models via context-dependent sparse attention", arXiv 2507.00449) as an RL task.

    Every context has an independent random value for every key. An episode shows the contexts one
    after the other in random order: the context's token, then all keys in a new random order, each
    followed by its value. Then come `delay` blanks, then `queries` questions of two steps, a
    context and a key, with `obs.asked` set at the key. The action there must be the number of the
    value. No question is repeated. Tokens: contexts, keys, values, blank.

    The paper defines the function to compute: the value of a key in a context. The rest is chosen
    here: every key occurs in every context, the order, and the form of the questions.

    Return: 1 at the optimum; random play and the best play without memory get 2 / values - 1.
    """

    def __init__(
        self,
        num_envs: int,
        contexts: int = 4,
        keys: int = 4,
        values: int = 8,
        queries: int = 8,
        delay: int = 0,
        check_actions: bool = False,
        check_obs: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.contexts, self.keys = positive("contexts", contexts), positive("keys", keys)
        self.values, self.queries = at_least("values", values, 2), positive("queries", queries)
        self.delay = at_least("delay", delay, 0)
        if queries > contexts * keys:
            raise UsageError(f"queries={queries} are more than contexts * keys = {contexts * keys}")
        shown = contexts * (1 + 2 * keys) + delay
        super().__init__(
            num_tokens=contexts + keys + values + 1,
            num_answers=values,
            asked=[False] * shown + [False, True] * queries,
            num_envs=num_envs,
            check_actions=check_actions,
            check_obs=check_obs,
            device=device,
        )

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with a random table of values and random questions."""
        table = draws.below(self.values, self.contexts * self.keys)
        order = draws.shuffle(self.contexts).long()
        shown = [self._show(draws, context, table) for context in order]
        asked = draws.shuffle(self.contexts * self.keys, self.queries).long()
        questions = interleave(asked // self.keys, asked % self.keys + self.contexts)
        tokens = torch.cat([*shown, self.blanks(self.delay), questions])
        return self.script_of(tokens, table.gather(0, asked))

    def _show(
        self, draws: RandomDraws, context: Int[Tensor, "N"], table: Int[Tensor, "cells N"]
    ) -> Int[Tensor, "shown N"]:
        """The token of a context, then its keys and values."""
        keys = draws.shuffle(self.keys).long()
        values = table.gather(0, context * self.keys + keys)
        first = self.contexts + self.keys
        return torch.cat([context[None], interleave(keys + self.contexts, values + first)])

    def describe_token(self, token: int) -> str:
        """`c1` for a context, `k3` for a key, `v5` for a value."""
        if token < self.contexts:
            return f"c{token}"
        key = token - self.contexts
        return f"k{key}" if key < self.keys else f"v{key - self.keys}"
