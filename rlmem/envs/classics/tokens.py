"""Tasks in which tokens are shown and later asked for."""

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
    """Observes `obs.token`, and in `obs.asked` whether the next action counts.

    `asked` says so for every step of an episode. An answer earns 1/q where it is right and -1/q
    where it is wrong, q being the number of questions: between -1 and 1 an episode. The last of
    the `num_tokens` is the blank.
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
        self._flags_seen = flags[:, None].expand(-1, self.num_envs)

    def asked(self, t: int) -> bool:
        """Whether step t counts."""
        return self._asked[t]

    def script_of(self, tokens: Int[Tensor, "length N"], answers: Int[Tensor, "q N"]) -> Script:
        """The script that shows `tokens` and expects `answers` to its questions."""
        shown = torch.cat([tokens, self.blanks(1)])
        answer = torch.full_like(tokens, -1).index_copy_(0, self.questions, answers)
        return Script({"obs.token": shown, "obs.asked": self._flags_seen}, answer)

    def blanks(self, count: int) -> Int[Tensor, "count N"]:
        """So many blank tokens for each environment."""
        shape = (count, self.num_envs)
        return torch.full(shape, self.blank, dtype=torch.int64, device=self.device)

    def describe_token(self, token: int) -> str:
        """A token that is not the blank, for a person to read."""
        return str(token)

    def describe_obs(self, obs: Tensors, row: int) -> str:
        """The token, and a question mark where an answer is due."""
        token = int(obs["obs.token"][row])
        name = "_" if token == self.blank else self.describe_token(token)
        return f"{name} ?" if obs["obs.asked"][row] else name

    def reveal(self, row: int) -> str:
        """The answer that is due."""
        if self.t < self.length and self.asked(self.t):
            return str(int(self.script.answer[self.t][row]))
        return ""
