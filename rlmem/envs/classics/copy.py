"""Copy: see symbols, wait, and say them in the order in which they came."""

from __future__ import annotations

import torch

from rlmem.envs.base import register
from rlmem.envs.classics.tokens import TokenEnv
from rlmem.envs.streams import Draws
from rlmem.envs.tensor_env import Script
from rlmem.errors import at_least, positive


@register("copy")
class Copy(TokenEnv):
    """The copy task (Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, "Unitary evolution
    recurrent neural networks") with an agent that is paid for every symbol.

    An episode shows `length` symbols, each drawn from `symbols` of them, then `delay` blanks, then
    `length` blanks with `obs.asked` set: the action taken on the i-th of these is to be symbol i.
    Where the papers announce the end of the wait by one delimiter, here every step that counts
    says so. Actions taken before are free.

    Return: 1 at the optimum. Every symbol is as likely as another in every place, so random play
    and the best play without memory both get 2 / symbols - 1.
    """

    def __init__(
        self,
        num_envs: int,
        length: int = 10,
        symbols: int = 8,
        delay: int = 10,
        check_actions: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.count, self.symbols = positive("length", length), at_least("symbols", symbols, 2)
        self.delay = at_least("delay", delay, 0)
        asked = [False] * (length + delay) + [True] * length
        super().__init__(
            num_tokens=symbols + 1,
            num_answers=symbols,
            asked=asked,
            num_envs=num_envs,
            check_actions=check_actions,
            device=device,
        )

    def write(self, draws: Draws) -> Script:
        """Draw the symbols of an episode for each environment."""
        symbols = draws.below(self.symbols, self.count)
        wait = self.blanks(self.delay + self.count)
        return self.script_of(torch.cat([symbols, wait]), symbols)
