"""MQAR: remember pairs of keys and values, then give the values of queried keys."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from rlmem.envs.base import register
from rlmem.envs.classics.tokens import TokenEnv
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.tensor_env import Script
from rlmem.errors import UsageError, at_least, positive


@register("mqar")
class Mqar(TokenEnv):
    """Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927), as an RL
    task.

    An episode shows `pairs` pairs, each a key followed by its value, then `delay` blanks, then
    `queries` keys with `obs.asked` set. The action at a queried key must be the number of its
    value. The keys of an episode are distinct, out of `keys`; no pair is queried twice. Tokens: the
    keys 0..keys-1, the values, the blank.

    The paper does not fix the tokens between pairs and queries (its data sets spread the queries by
    a power law). Here the queries follow each other, and values are drawn independently, so that no
    answer can be found by elimination.

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
        check_obs: bool = False,
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
            check_obs=check_obs,
            device=device,
        )

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with random pairs and queries."""
        keys = draws.shuffle(self.keys, self.pairs).long()
        values = draws.below(self.values, self.pairs)
        asked = draws.shuffle(self.pairs, self.queries).long()
        shown = interleave(keys, values + self.keys)
        tokens = torch.cat([shown, self.blanks(self.delay), keys.gather(0, asked)])
        return self.script_of(tokens, values.gather(0, asked))

    def describe_token(self, token: int) -> str:
        """`k3` for a key, `v5` for a value."""
        return f"k{token}" if token < self.keys else f"v{token - self.keys}"


def interleave(*tensors: Int[Tensor, "n N"]) -> Int[Tensor, "m N"]:
    """Row 0 of each tensor, then row 1 of each, and so on."""
    return torch.stack(tensors, dim=1).flatten(0, 1)
