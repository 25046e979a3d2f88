"""Base class of tasks that show tokens and ask for them later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium.spaces import Dict, Discrete
from jaxtyping import Int
from torch import Tensor

from rlmem.envs.base import Tensors
from rlmem.envs.tensor_env import Script, ScriptedEnv


class TokenEnv(ScriptedEnv):
    """Observations are `obs.token` and `obs.asked`, which marks the steps whose action counts.

    `asked` has one flag for each step of an episode. With q questions, a right answer earns 1/q and
    a wrong one -1/q, so a return is between -1 and 1. The last of the `num_tokens` tokens is the
    blank.
    """

    def __init__(
        self, num_tokens: int, num_answers: int, asked: Sequence[bool], **options: Any
    ) -> None:
        super().__init__(
            observation_space=Dict(token=Discrete(num_tokens), asked=Discrete(2)),
            action_space=Discrete(num_answers),
            **options,
        )
        self.blank = num_tokens - 1
        self.length = len(asked)
        questions = [t for t, is_asked in enumerate(asked) if is_asked]
        self.questions = torch.tensor(questions, device=self.device)
        self.reward = 1 / len(questions)
        self._asked = list(asked)
        flags = torch.tensor([*asked, False], dtype=torch.int64, device=self.device)
        self._asked_obs = flags[:, None].expand(-1, self.num_envs)

    def asked(self, t: int) -> bool:
        """Whether the action of step t is rewarded."""
        return self._asked[t]

    def script_of(self, tokens: Int[Tensor, "length N"], answers: Int[Tensor, "q N"]) -> Script:
        """The script that shows `tokens` and expects `answers` to its questions."""
        shown = torch.cat([tokens, self.blanks(1)])
        answer = torch.full_like(tokens, -1).index_copy_(0, self.questions, answers)
        return Script({"obs.token": shown, "obs.asked": self._asked_obs}, answer)

    def blanks(self, count: int) -> Int[Tensor, "count N"]:
        """`count` blank tokens for each environment."""
        shape = (count, self.num_envs)
        return torch.full(shape, self.blank, dtype=torch.int64, device=self.device)

    def describe_token(self, token: int) -> str:
        """A token other than the blank in words."""
        return str(token)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The token, with a question mark if an answer is due."""
        token = int(obs["obs.token"][row])
        name = "_" if token == self.blank else self.describe_token(token)
        return f"{name} ?" if obs["obs.asked"][row] else name

    def reveal(self, row: int) -> str:
        """The answer that is due."""
        if self.t < self.length and self.asked(self.t):
            return str(int(self.state.answer[self.t][row]))
        return ""
