"""Saliency: the slopes of a decision by each past observation, along episodes.

For a decision at step t and an observation at step t - l (l is the lag), the saliency is the norm
of the gradient of the decision by the encoder's features of the observation, the input of the
memory. (By the numbers of an observation, the gradient may vanish where they matter: the encoder
normalises, and so forgets their size.) The decision is

- the `action`: the log-probability of the chosen action, or, of a policy of values, its advantage
  over the mean of all actions. A continuous action is drawn, because the log-density has no slope
  at its most likely value;
- the `value` of the critic, if there is one.

The gradients pass through the memory as it acts, step by step. (Simonyan et al. 2014, arXiv
1312.6034, for images; along time as in Li et al. 2016, arXiv 1506.01066.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from rlmem.diagnose.trained.readings import reading
from rlmem.diagnose.trained.subject import Budget, LeftOut, Subject, samples_only
from rlmem.envs.base import VecEnv
from rlmem.policies import Policy
from rlmem.runs.agent import HasValue
from rlmem.runs.guard import closing, environment_errors

ACTION, VALUE = "action", "value"
# Limit on the numbers of the memories of all steps and rows, which the gradients need.
MAX_NUMBERS = 30_000_000


class Slopes(NamedTuple):
    """Norms of gradients [N, D, T] of N rows: of the decisions at `steps` by all observations.

    `age` [N, D] is the number of steps since the start of the memory, `over` [N, D] whether the
    first episode (with trials: the first trial) has ended before. `norms` has the names `action`
    and `value`; the second may be missing.
    """

    steps: list[int]
    norms: dict[str, Float[ndarray, "N D T"]]
    age: Float[ndarray, "N D"]
    over: Bool[ndarray, "N D"]


def slopes(
    policy: Policy, env: VecEnv, seeds: list[int], limit: int, decisions: int, greedy: bool
) -> Slopes:
    """Play one episode in each environment, at most `limit` steps, and differentiate.

    All rows go on until the last one has ended. At most `decisions` steps, evenly spaced, the
    first and the last among them, are differentiated.
    """
    with environment_errors():
        obs = env.reset(seeds)
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    over, age = ~start, torch.zeros(env.num_envs, device=env.device)
    state = policy.initial_state(env.num_envs)
    points: list[list[Tensor]] = []
    made: dict[str, list[Tensor]] = {}
    ages, overs = [], []
    with reading(policy, slopes=True) as readings, torch.enable_grad():
        while len(points) < limit and not over.all():
            readings.begin()
            act = policy.act(obs, state, start, greedy)
            assert act.preference is not None
            made.setdefault(ACTION, []).append(act.preference(act.action))
            if isinstance(policy, HasValue) and all(key in obs for key in policy.critic_only):
                made.setdefault(VALUE, []).append(policy.value(obs, state, start))
            points.append(list(readings.points.values()))
            ages.append(age)
            overs.append(over)
            with environment_errors():
                step = env.step({key: leaf.detach() for key, leaf in act.action.items()})
            obs, state, start = step.obs, act.state, step.memory_reset
            over, age = over | start, torch.where(start, 0, age + 1)
    length = len(points)
    steps = np.unique(np.linspace(0, length - 1, min(decisions, length)).round().astype(int))
    norms = {name: _norms(each, points, steps.tolist()) for name, each in made.items()}
    chosen = [torch.stack(each, dim=1).cpu().numpy()[:, steps] for each in (ages, overs)]
    return Slopes(steps.tolist(), norms, *chosen)


def _norms(
    decisions: list[Tensor], points: list[list[Tensor]], steps: list[int]
) -> Float[ndarray, "N D T"]:
    """The norms of the gradients of the decisions at `steps` by the points of all time steps."""
    found = torch.zeros(len(decisions[0]), len(steps), len(points))
    for d, t in enumerate(steps):
        seen = [point for each in points[: t + 1] for point in each]
        if not decisions[t].requires_grad:
            continue
        gradients = torch.autograd.grad(
            decisions[t].sum(), seen, retain_graph=True, allow_unused=True
        )
        place = iter(gradients)
        for time, each in enumerate(points[: t + 1]):
            squares = [
                g.double().square().flatten(1).sum(1)
                for _ in each
                if (g := next(place)) is not None
            ]
            if squares:
                found[:, d, time] = torch.stack(squares).sum(0).sqrt().float().cpu()
    return found.numpy()


def analyse(subject: Subject, budget: Budget) -> dict[str, Any]:
    """The saliency of an agent in the episodes of `budget`."""
    probe = subject.make_env(1)
    greedy = budget.deterministic and not samples_only(probe.action_space.values())
    probe.close()
    seeds = budget.episode_seeds(subject)
    numbers = (4 * subject.state_size + 32 * subject.policy.hidden_size) * budget.steps
    rows = max(1, min(subject.chunk, MAX_NUMBERS // numbers))
    torch.manual_seed(subject.seed)
    totals: dict[str, Totals] = {}
    for first in range(0, len(seeds), rows):
        part = seeds[first : first + rows]
        env = subject.make_env(len(part))
        with closing(env):
            found = slopes(subject.policy, env, part, budget.steps, budget.decisions, greedy)
        for name, norms in found.norms.items():
            if not np.isfinite(norms).all():
                raise LeftOut("a gradient is not finite")
            totals.setdefault(name, Totals(budget.steps)).add(found, norms)
    result: dict[str, Any] = {name: each.summary() for name, each in totals.items()}
    if VALUE not in result:
        result["left_out"] = "value: the policy has no critic"
    return result | {"greedy": greedy, "episodes": len(seeds)}


class Totals:
    """Sums over rows of shares: the gradients of one decision, divided by their sum.

    A decision is left out if all its gradients are 0. `share` [S, S] is by decision step and lag,
    `count` [S] the number of decisions. `largest` and `past` [S] count the decisions whose largest
    gradient, or largest one but for the present observation, is at each lag.
    """

    def __init__(self, steps: int) -> None:
        self.share = np.zeros((steps, steps))
        self.largest, self.past, self.norm = np.zeros(steps), np.zeros(steps), np.zeros(steps)
        self.count, self.flat = np.zeros(steps), 0
        self.last: list[int] = []

    def add(self, found: Slopes, norms: Float[ndarray, "N D T"]) -> None:
        """Include the decisions of the first episodes."""
        for d, step in enumerate(found.steps):
            own = ~found.over[:, d]
            lags = norms[own, d, step::-1].astype(float)  # [n, step + 1], by lag
            total = lags.sum(axis=1)
            self.flat += int((total == 0).sum())
            lags = lags[total > 0]
            if not len(lags):
                continue
            self.norm[: step + 1] += lags.sum(axis=0)
            self.share[step, : step + 1] += (lags / lags.sum(axis=1, keepdims=True)).sum(axis=0)
            self.count[step] += len(lags)
            np.add.at(self.largest, lags.argmax(axis=1), 1)
            past = lags[lags[:, 1:].any(axis=1), 1:]
            if len(past):
                peaks = 1 + past.argmax(axis=1)
                np.add.at(self.past, peaks, 1)
                if d == len(found.steps) - 1:
                    self.last += (step - peaks).tolist()

    def summary(self) -> dict[str, Any]:
        """By lag: mean gradient, mean share, and the shares of decisions with the largest gradient.

        `largest` is among all observations, `past` among all but the present one; each is a share
        of the `count` decisions that have an observation at this lag. `heat` has the mean shares by
        decision step (`decisions`) and lag. `last` has the steps of the past observations with the
        largest gradient of the last decision, with their shares.
        """
        steps = np.flatnonzero(self.count)
        if not len(steps):
            raise LeftOut("all gradients are 0")
        lags = int(steps[-1]) + 1
        count = self.count[::-1].cumsum()[::-1][:lags]
        heat = self.share[steps, :lags] / self.count[steps, None]
        where, times = np.unique(self.last, return_counts=True)
        order = np.argsort(-times)[:8]
        return {
            "mean": (self.norm[:lags] / count).tolist(),
            "share": (self.share.sum(axis=0)[:lags] / count).tolist(),
            "largest": (self.largest[:lags] / count).tolist(),
            "past": (self.past[:lags] / count).tolist(),
            "count": count.astype(int).tolist(),
            "flat": self.flat,
            "decisions": steps.tolist(),
            "heat": heat.round(5).tolist(),
            "last": [[int(where[i]), float(times[i] / len(self.last))] for i in order],
        }
