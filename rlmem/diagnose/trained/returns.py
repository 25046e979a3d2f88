"""Returns of an agent with its memory changed: retention, use and interference."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from rlmem.diagnose.trained.recent import Recent
from rlmem.diagnose.trained.subject import Budget, Play, Subject, estimate, play
from rlmem.envs.base import Tensors
from rlmem.envs.meta.players import RandomPlayer
from rlmem.envs.meta.reference import references
from rlmem.policies import Act, Policy
from rlmem.runs.guard import closing, environment_errors

# Limits of retention: memories and their numbers in one step, and memories advanced in all steps.
ROWS, NUMBERS, WORK = 4096, 30_000_000, 10_000_000
# Numbers of strange steps before an episode, and the number of observations that they are drawn of.
STRANGE = (1, 4, 16, 64, 256)
POOL = 4096


def retention(subject: Subject, budget: Budget) -> dict[str, Any]:
    """The mean returns with the memory of the last k steps alone, k = 1, 2, 4, ...

    `reset`: the memory was reset k steps before; `swapped`: it was replaced by that of another
    episode (see `Recent`). Both end with k of the longest episode. `whole` is the agent as it is.
    """
    subject.require_memory()
    agent = Recent(subject.policy, None)
    whole = estimate(play(subject, budget, lambda env: agent))
    episodes = budget.episodes * len(budget.bases(subject))
    keeps = [2**i for i in range(agent.longest.bit_length()) if 2**i < agent.longest]
    affordable = [k for k in keeps if k * agent.longest * episodes <= WORK]
    result: dict[str, Any] = {"whole": whole, "longest": agent.longest, "keep": affordable}
    pairs = min(budget.episodes, subject.chunk) > 1
    for name, swap in {"reset": False, "swapped": True}.items():
        if swap and not pairs:
            continue
        result[name] = [
            estimate(
                play(subject, budget, _recent(subject.policy, k, swap), _rows(subject, budget, k))
            )
            for k in affordable
        ]
    if len(affordable) < len(keeps):
        result["left_out"] = f"k of more than {affordable[-1] if affordable else 0}: too long"
    return result


def use(subject: Subject, budget: Budget, twin: Subject | None = None) -> dict[str, Any]:
    """The mean returns with memory, and without: with a memory reset before every step.

    Beside them random play, the oracle and known algorithms where the environment hides a task,
    `known` returns of the environment, and a `twin` agent in its own environment: one trained with
    full observations.
    """
    players: dict[str, Play] = {
        "with memory": lambda env: subject.policy,
        "without memory": _recent(subject.policy, 1, False),
    }
    probe = subject.make_env(1)
    names = list(references(probe))
    probe.close()
    returns = {name: estimate(play(subject, budget, each)) for name, each in players.items()}
    for name in names:
        returns[name] = estimate(play(subject, budget, _reference(name), greedy=True))
    if twin is not None:
        seeds = budget.bases(subject)
        played = play(
            twin,
            Budget(budget.episodes, seeds, max_steps=budget.max_steps),
            lambda env: twin.policy,
        )
        returns["twin, fully observed"] = estimate(played)
    return {"returns": returns, "known": dict(subject.known)}


def interference(subject: Subject, budget: Budget) -> dict[str, Any]:
    """The mean returns after n strange steps before the first observation of each episode.

    Their observations are those of random play, of random episodes and steps. The episode begins
    without a reset of the memory.
    """
    subject.require_memory()
    pool = strange_observations(subject, budget)
    ns = [n for n in STRANGE if n <= max(budget.steps, 1)]
    found = [estimate(play(subject, budget, _disturbed(subject.policy, pool, n))) for n in (0, *ns)]
    return {"strange": [0, *ns], "returns": found}


def _rows(subject: Subject, budget: Budget, keep: int) -> int:
    """The episodes to play at once, each with `keep` memories; never a single one at the end."""
    rows = max(2, min(ROWS, NUMBERS // subject.state_size) // keep)
    return rows + 1 if budget.episodes % rows == 1 else rows


def _recent(policy: Policy, keep: int, swap: bool) -> Play:
    return lambda env: Recent(policy, keep, swap)


def _disturbed(policy: Policy, pool: Tensors, steps: int) -> Play:
    return lambda env: Disturbed(policy, pool, steps)


def _reference(name: str) -> Play:
    return lambda env: references(env)[name]


@torch.no_grad()
def strange_observations(subject: Subject, budget: Budget) -> Tensors:
    """Observations [M, ...] of random play, at least one for each environment."""
    seeds = budget.episode_seeds(subject)[: subject.chunk]
    torch.manual_seed(subject.seed)
    env = subject.make_env(len(seeds))
    with closing(env):
        player = RandomPlayer(env)
        with environment_errors():
            obs = env.reset(seeds)
        start = torch.ones(len(seeds), dtype=torch.bool, device=env.device)
        found = [obs]
        for _ in range(min(budget.steps, POOL // len(seeds))):
            action = player.act(obs, (), start).action
            with environment_errors():
                obs = env.step(action).obs
            found.append(obs)
    return {key: torch.cat([each[key] for each in found]) for key in obs}


class After(NamedTuple):
    """The policy's memory, and whether the episode has begun."""

    memory: Any
    begun: bool


class Disturbed:
    """A policy that reads `steps` observations from `pool` before its episode.

    They are drawn from torch's global generator. The memory is not reset at the first observation
    of the batch, unless `steps` is 0.
    """

    def __init__(self, policy: Policy, pool: Tensors, steps: int) -> None:
        self.policy, self.pool, self.steps = policy, pool, steps

    def initial_state(self, batch_size: int) -> After:
        """The memory after the strange steps."""
        memory = self.policy.initial_state(batch_size)
        size, device = next((len(leaf), leaf.device) for leaf in self.pool.values())
        start = torch.ones(batch_size, dtype=torch.bool, device=device)
        for _ in range(self.steps):
            drawn = torch.randint(size, (batch_size,)).to(device)
            seen = {key: leaf[drawn] for key, leaf in self.pool.items()}
            memory = self.policy.act(seen, memory, start, True).state
            start = torch.zeros_like(start)
        return After(memory, self.steps == 0)

    def act(
        self, obs: Tensors, state: After, start: Bool[Tensor, "N"], deterministic: bool = False
    ) -> Act:
        """One time step of the policy."""
        reset = start if state.begun else torch.zeros_like(start)
        act = self.policy.act(obs, state.memory, reset, deterministic)
        return act._replace(state=After(act.state, True))
