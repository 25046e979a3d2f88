"""Memory chain: bits are shown at the start, and one of them is asked for at the end."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from jaxtyping import Float
from torch import Tensor

from rlmem.envs.base import Tensors, register
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import LockstepEnv
from rlmem.errors import positive


@register("memory-chain")
class MemoryChain(LockstepEnv):
    """bsuite's memory_len (`length` varies, `size` = 1) and memory_size (`size` varies, `length`
    = 2) (Osband et al. 2020, "Behaviour suite for reinforcement learning", arXiv 1908.03568).

    An episode has length + 1 steps, of which only the last counts: 1 where the action is the bit
    asked for, -1 where it is not. Observed are size + 2 numbers, as bsuite lays them out (but for
    its leading axis of 1): the time 1 - k / length, the number of the bit that is asked for (0 as
    long as none is), and the bits as -1 and 1 (later 0). As in bsuite, k is 0 in the first two
    observations, so that the bits are seen twice, and the question comes with k = length - 1,
    before the last action; the final observation has k = length.

    Return: 1 at the optimum. Random play and the best play without memory get 0; the exception is
    `length` = 1, where question and bits are seen together and no memory is needed.
    """

    def __init__(
        self,
        num_envs: int,
        length: int = 10,
        size: int = 1,
        check_actions: bool = False,
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
            device=device,
        )

    def begin(self, draws: Draws) -> Tensors:
        """Draw the bits and the question."""
        self.bits = draws.below(2, self.size)
        self.query = draws.below(self.size, 1)
        return self._see(0)

    def play(self, t: int, action: Tensors) -> tuple[Tensors, Float[Tensor, "N"]]:
        """Only the last action counts."""
        obs = self._see(t)
        if t < self.chain:
            return obs, torch.zeros(self.num_envs, device=self.device)
        right = action["action"] == self.bits.gather(0, self.query)[0]
        return obs, right.to(torch.float32) * 2 - 1

    def _see(self, k: int) -> Tensors:
        obs = torch.zeros(self.num_envs, self.size + 2, device=self.device)
        obs[:, 0] = 1 - k / self.chain
        if k == self.chain - 1:
            obs[:, 1] = self.query[0]
        if k == 0:
            obs[:, 2:] = 2 * self.bits.T - 1
        return {"obs": obs}

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The time left, and the bits and the question where they are seen."""
        time, query, *bits = obs["obs"][row].tolist()
        shown = "".join("1" if bit > 0 else "0" for bit in bits) if bits[0] else ""
        steps = round(time * self.chain)
        asked = f" bit {round(query)}?" if steps == 1 else ""
        return f"{steps} left" + (f" bits {shown}" if shown else "") + asked

    def reveal(self, row: int) -> str:
        """The bits, and which of them is asked for."""
        bits = "".join(str(bit) for bit in self.bits[:, row].tolist())
        return f"bits {bits}, bit {int(self.query[0, row])} is asked for"
