"""Memory chain: bits are shown at the start, and one of them is asked for at the end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Float, Int
from torch import Tensor

from rlmem.envs.base import Tensors, register
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.tensor_env import LockstepEnv
from rlmem.errors import positive


class Chain(NamedTuple):
    """The bits of an episode, and the index of the bit that is asked for."""

    bits: Int[Tensor, "size N"]
    query: Int[Tensor, "1 N"]


@register("memory-chain")
class MemoryChain(LockstepEnv[Chain]):
    """bsuite's memory_len (`length` varies, `size` = 1) and memory_size (`size` varies, `length`
    = 2) (Osband et al. 2020, "Behaviour suite for reinforcement learning", arXiv 1908.03568).

    An episode has length + 1 steps. Only the last one is rewarded: 1 if the action is the queried
    bit, -1 otherwise. Observations are size + 2 numbers in the layout of bsuite (without its
    leading axis of 1): the time 1 - k / length, the index of the queried bit (0 before the query),
    and the bits as -1 and 1 (0 after the start). As in bsuite, k is 0 in the first two
    observations, so the bits are seen twice. The query comes with k = length - 1, before the last
    action. The final observation has k = length.

    Return: 1 at the optimum. Random play and the best play without memory get 0, except with
    `length` = 1, where query and bits are seen together and no memory is needed.
    """

    def __init__(
        self,
        num_envs: int,
        length: int = 10,
        size: int = 1,
        check_actions: bool = False,
        check_obs: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.chain, self.size = positive("length", length), positive("size", size)
        self.length = length + 1
        low = np.array([0, 0] + [-1] * size, np.float32)
        high = np.array([1, size - 1] + [1] * size, np.float32)
        super().__init__(
            num_envs=num_envs,
            observation_space=Box(low, high),
            action_space=Discrete(2),
            check_actions=check_actions,
            check_obs=check_obs,
            device=device,
        )

    def initial_state(self, draws: RandomDraws) -> Chain:
        """Random bits and a random query."""
        bits = draws.below(2, self.size)
        return Chain(bits, draws.below(self.size, 1))

    def transition(self, state: Chain, t: int, action: Tensors) -> tuple[Chain, Float[Tensor, "N"]]:
        """Only the last action is rewarded."""
        if t < self.chain:
            return state, torch.zeros(self.num_envs, device=self.device)
        right = action["action"] == state.bits.gather(0, state.query)[0]
        return state, right.to(torch.float32) * 2 - 1

    def observe(self, state: Chain, t: int) -> Tensors:
        """The time; the bits at the start; the query before the last action."""
        k = max(t - 1, 0)
        obs = torch.zeros(self.num_envs, self.size + 2, device=self.device)
        obs[:, 0] = 1 - k / self.chain
        if k == self.chain - 1:
            obs[:, 1] = state.query[0]
        if k == 0:
            obs[:, 2:] = 2 * state.bits.T - 1
        return {"obs": obs}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The remaining steps, and the bits and the query if visible."""
        time, query, *bits = obs["obs"][row].tolist()
        shown = "".join("1" if bit > 0 else "0" for bit in bits) if bits[0] else ""
        steps = round(time * self.chain)
        asked = f" bit {round(query)}?" if steps == 1 else ""
        return f"{steps} left" + (f" bits {shown}" if shown else "") + asked

    def reveal(self, row: int) -> str:
        """The bits, and the queried one."""
        bits = "".join(str(bit) for bit in self.state.bits[:, row].tolist())
        return f"bits {bits}, bit {int(self.state.query[0, row])} is asked for"
