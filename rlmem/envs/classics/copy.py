"""Copy: remember symbols over a delay and repeat them in order."""

from __future__ import annotations

import torch

from rlmem.envs.base import register
from rlmem.envs.classics.tokens import TokenEnv
from rlmem.envs.counter_rng import RandomDraws
from rlmem.envs.tensor_env import Script
from rlmem.errors import at_least, positive


@register("copy")
class Copy(TokenEnv):
    """The copy task (Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, "Unitary evolution
    recurrent neural networks") as an RL task with a reward for every symbol.

    An episode shows `length` random symbols out of `symbols`, then `delay` blanks, then `length`
    blanks with `obs.asked` set. The action at the i-th of these must be symbol i. The papers mark
    the end of the delay by one delimiter; here every rewarded step is marked. Earlier actions do
    not count.

    Return: 1 at the optimum. All symbols are equally likely everywhere, so random play and the best
    play without memory both get 2 / symbols - 1.
    """

    def __init__(
        self,
        num_envs: int,
        length: int = 10,
        symbols: int = 8,
        delay: int = 10,
        check_actions: bool = False,
        check_obs: bool = False,
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
            check_obs=check_obs,
            device=device,
        )

    def initial_state(self, draws: RandomDraws) -> Script:
        """Scripts with random symbols."""
        symbols = draws.below(self.symbols, self.count)
        wait = self.blanks(self.delay + self.count)
        return self.script_of(torch.cat([symbols, wait]), symbols)
