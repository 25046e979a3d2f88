"""MQAR: pairs of keys and values are shown, and then some keys whose values are to be said."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.envs.base import register
from rlmem.envs.classics.tokens import TokenEnv
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import Script
from rlmem.errors import UsageError, at_least, positive


@register("mqar")
class Mqar(TokenEnv):
    """Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927), as an RL
    task.

    An episode shows `pairs` pairs, key and value one after the other, then `delay` blanks, then
    `queries` keys with `obs.asked` set, each to be answered at once with the number of its value.
    The keys of an episode are different ones out of `keys`; no pair is asked for twice.
    Tokens: the keys 0..keys-1, the values, the blank.

    The paper leaves open what is between the pairs and a query (its data sets spread the queries
    by a power law): here they come one after the other, and values are drawn independently, so
    that no answer can be found by elimination.

    Return: 1 at the optimum; random play and the best play without memory get 2 / values - 1.
    """

    def __init__(
        self,
        num_envs: int,
        pairs: int = 8,
        queries: int = 8,
        keys: int = 16,
        values: int = 8,
        delay: int = 0,
        check_actions: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pairs, self.queries = positive("pairs", pairs), positive("queries", queries)
        self.keys, self.values = positive("keys", keys), at_least("values", values, 2)
        self.delay = at_least("delay", delay, 0)
        if pairs > keys:
            raise UsageError(f"pairs={pairs} need as many different keys, but keys={keys}")
        if queries > pairs:
            raise UsageError(f"queries={queries} are more than pairs={pairs}")
        super().__init__(
            num_tokens=keys + values + 1,
            num_answers=values,
            asked=[False] * (2 * pairs + delay) + [True] * queries,
            num_envs=num_envs,
            check_actions=check_actions,
            device=device,
        )

    def write(self, draws: Draws) -> Script:
        """Draw pairs and queries for each environment."""
        keys = draws.shuffle(self.keys, self.pairs).long()
        values = draws.below(self.values, self.pairs)
        asked = draws.shuffle(self.pairs, self.queries).long()
        shown = interleave(keys, values + self.keys)
        tokens = torch.cat([shown, self.blanks(self.delay), keys.gather(0, asked)])
        return self.script_of(tokens, values.gather(0, asked))

    def describe_token(self, token: int) -> str:
        """Such as `k3` for a key and `v5` for a value."""
        return f"k{token}" if token < self.keys else f"v{token - self.keys}"


def interleave(*parts: Int[Tensor, "n N"]) -> Int[Tensor, "m N"]:
    """Row 0 of each part, then row 1 of each, and so on."""
    return torch.stack(parts, dim=1).flatten(0, 1)
