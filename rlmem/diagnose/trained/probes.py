"""Linear probes: the facts of the hidden state that can be read off the memory.

A probe is a ridge regression (for classes: of one-hot vectors, the largest output is the answer;
Alain and Bengio 2017, arXiv 1610.01644) from the memory after an observation to a fact at that
observation. It is fitted on some episodes and tested on others, for each part of an episode apart.
Beside it stand a probe of the observation alone (the encoder's features of it) and chance: the most
common class. Facts that are numbers are scored by R squared, whose chance is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from rlmem import tree
from rlmem.diagnose.trained.facts import ReadFacts, facts_of
from rlmem.diagnose.trained.readings import reading
from rlmem.diagnose.trained.ridge import predict
from rlmem.diagnose.trained.subject import Budget, LeftOut, Subject
from rlmem.envs.base import VecEnv
from rlmem.policies import Policy
from rlmem.runs import stats
from rlmem.runs.guard import closing, environment_errors

# Numbers of a memory or observation that a probe reads; larger ones are folded (see `fold`).
FEATURES = 512
# Parts of an episode, and the most rows of the regression of one.
PARTS, ROWS = 8, 4096
# A fact with at most so many different values has classes; text with more of them is left out.
CLASSES = 8
MAX_CLASSES = 64
TEST_SHARE = 0.4


class Record(NamedTuple):
    """The time steps of N first episodes: T entries each of [N, F] and [N].

    `alive` tells whether the first episode (or trial) goes on.
    """

    memory: list[Float[Tensor, "N F"]]
    observation: list[Float[Tensor, "N K"]]
    facts: list[dict[str, ndarray]]
    alive: list[Bool[Tensor, "N"]]


def analyse(subject: Subject, budget: Budget) -> dict[str, Any]:
    """Probes for all known facts, with the episodes of `budget`; raises `LeftOut` without any."""
    subject.require_memory()
    seeds = budget.episode_seeds(subject)
    if len(seeds) < 10:
        raise LeftOut("probes need at least 10 episodes")
    torch.manual_seed(subject.seed)
    records = []
    for first in range(0, len(seeds), subject.chunk):
        part = seeds[first : first + subject.chunk]
        env = subject.make_open(len(part))
        with closing(env):
            read = facts_of(env)
            if read is None:
                raise LeftOut("no hidden state of the environment is known")
            records.append(record(subject.policy, env, read, part, budget))
    return probe(records)


@torch.no_grad()
def record(
    policy: Policy, env: VecEnv, read: ReadFacts, seeds: list[int], budget: Budget
) -> Record:
    """Play one episode in each environment, at most `budget.steps` steps.

    The policy does not get the leaves for its critic: a memory of these would know the facts.
    """
    with environment_errors():
        obs = env.reset(seeds)
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    over, state = ~start, policy.initial_state(env.num_envs)
    found = Record([], [], [], [])
    with reading(policy) as readings:
        while len(found.alive) < budget.steps and not over.all():
            readings.begin()
            seen = {key: leaf for key, leaf in obs.items() if key not in policy.critic_only}
            act = policy.act(seen, state, start, budget.deterministic)
            found.facts.append(read(obs))
            found.memory.append(fold(_numbers(act.state)).cpu())
            found.observation.append(fold(readings.values[policy.encoder]).cpu())
            found.alive.append(~over.cpu())
            with environment_errors():
                step = env.step(act.action)
            obs, state, start = step.obs, act.state, step.memory_reset
            over = over | start
    return found


def _numbers(state: Any) -> Float[Tensor, "N F"]:
    """All numbers of a memory; complex ones are two."""
    leaves = []
    for leaf in tree.leaves(state):
        real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
        leaves.append(real.reshape(len(leaf), -1).float())
    return torch.cat(leaves, dim=1)


def fold(x: Float[Tensor, "N F"], size: int = FEATURES) -> Float[Tensor, "N G"]:
    """At most `size` linear features: sums of numbers with random signs, if there are more.

    A count sketch (Charikar et al. 2002), always the same for the same F; it nearly keeps inner
    products, so a linear probe of it is one of all numbers.
    """
    if x.shape[1] <= size:
        return x
    generator = torch.Generator().manual_seed(x.shape[1])
    bucket = torch.randint(size, (x.shape[1],), generator=generator).to(x.device)
    sign = 2.0 * torch.randint(2, (x.shape[1],), generator=generator).to(x.device) - 1
    return x.new_zeros(len(x), size).index_add_(1, bucket, x * sign)


def probe(records: list[Record]) -> dict[str, Any]:
    """The scores of all facts in each part of the episodes."""
    length = max(len(each.alive) for each in records)
    parts = [part for part in np.array_split(np.arange(length), min(PARTS, length)) if len(part)]
    kinds = {name: _kinds(records, name) for name in records[0].facts[0]}
    scored = [_part(records, steps, kinds) for steps in parts]
    facts = {name: [each.get(name) for each in scored] for name in kinds}
    kept = {name: scores for name, scores in facts.items() if any(scores)}
    if not kept:
        raise LeftOut("no fact of the hidden state varies, or all have too many values")
    return {"parts": [[int(part[0]), int(part[-1])] for part in parts], "facts": kept}


def _kinds(records: list[Record], name: str) -> ndarray | None:
    """The classes of a fact; None for a number."""
    values = np.concatenate([each[name] for part in records for each in part.facts])
    kinds = np.unique(values)
    most = CLASSES if values.dtype.kind == "f" else MAX_CLASSES
    return kinds if len(kinds) <= most else None


def _part(
    records: list[Record], steps: ndarray, kinds: Mapping[str, ndarray | None]
) -> dict[str, dict[str, Any]]:
    """The scores of the facts that vary in some time steps of the episodes, by name."""
    memory, observation, episodes = [], [], []
    facts: dict[str, list[ndarray]] = {}
    first = 0
    for each in records:
        for t in steps:
            if t < len(each.alive):
                alive = each.alive[t]
                memory.append(each.memory[t][alive])
                observation.append(each.observation[t][alive])
                episodes.append(first + alive.nonzero().squeeze(1))
                for name, values in each.facts[t].items():
                    facts.setdefault(name, []).append(values[alive.numpy()])
        first += len(each.alive[0])
    rows = _chosen(torch.cat(episodes))
    episode = torch.cat(episodes)[rows]
    order = torch.randperm(first, generator=torch.Generator().manual_seed(0))
    place = order[episode] / first  # of each row's episode, in a random order
    test, held_out = place < TEST_SHARE, (place >= TEST_SHARE) & (place < TEST_SHARE + 0.15)
    if min(int(test.sum()), int(held_out.sum()), int((~test & ~held_out).sum())) < 2:
        return {}
    targets = {}
    for name, values in facts.items():
        target = _target(np.concatenate(values)[rows.numpy()], kinds[name])
        if target is not None and target[~test].std(0).any():
            targets[name] = target
    if not targets:
        return {}
    y = torch.cat(list(targets.values()), dim=1)
    scores: dict[str, dict[str, Any]] = {name: {} for name in targets}
    for source, x in (("memory", memory), ("observation", observation)):
        found = predict(torch.cat(x)[rows], y, ~test, held_out)
        split = found.split([target.shape[1] for target in targets.values()], dim=1)
        for (name, target), part in zip(targets.items(), split, strict=True):
            classes = kinds[name] is not None
            scores[name] |= _score(source, part, target, classes, test, episode)
    return scores


def _chosen(episodes: Tensor) -> Tensor:
    """The rows of the regression: all, or a random part of them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(len(episodes), generator=generator)[:ROWS].sort().values


def _target(values: ndarray, kinds: ndarray | None) -> Float[Tensor, "n K"] | None:
    """The columns of a regression: a number, or one for each class; None for too many texts."""
    if kinds is not None:
        index = torch.from_numpy(np.searchsorted(kinds, values))
        return torch.nn.functional.one_hot(index, len(kinds)).double()
    return None if values.dtype.kind == "U" else torch.from_numpy(values.astype(float))[:, None]


def _score(
    source: str, found: Tensor, target: Tensor, classes: bool, test: Tensor, episode: Tensor
) -> dict[str, Any]:
    """The score of predictions on the test's episodes, with its interval over episodes."""
    if classes:
        common = target[~test].sum(0).argmax()
        right = (found.argmax(1) == target.argmax(1)).double()[test]
        chance = (target.argmax(1) == common).double()[test].mean().item()
    else:
        # Errors in units of the variance around the mean of the training episodes.
        spread = (target[test] - target[~test].mean(0)).square().mean().clamp(min=1e-12)
        right = 1 - (found - target)[test].square().squeeze(1) / spread
        chance = 0.0
    each = _means(right, episode[test])
    return {
        source: stats.estimate(stats.mean, each.numpy()[None]),
        "chance": chance,
        "classes": target.shape[1] if classes else 0,
    }


def _means(values: Tensor, episode: Tensor) -> Tensor:
    """The mean of each episode."""
    _, index = episode.unique(return_inverse=True)
    sums = torch.zeros(int(index.max()) + 1, dtype=torch.double)
    return sums.index_add(0, index, values) / index.bincount()
