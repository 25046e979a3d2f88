"""A training without random actions, as one process or one of several ranks.

    python -m tests.runs.rank_worker NAME OPTIONS

trains with OPTIONS (JSON) and writes weights and first gradient to NAME-RANK.pt. Then all numbers
follow from the environments' seeds, and several ranks must learn the same as one process. With
DIE_AFTER=N in the environment, the process kills itself after N steps of its optimizers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import rlmem
from rlmem import algos, envs
from rlmem.algos.optimizer import PlainAdam
from rlmem.data.batch import SequenceBatch
from rlmem.data.priorities import Priorities
from rlmem.policies.heads import Categorical
from rlmem.ranks import group, reduce


@contextmanager
def greedy() -> Iterator[None]:
    """Take the most likely action, also in training."""
    with patch.object(Categorical, "sample", Categorical.mode):
        yield


@contextmanager
def gradients(found: list[Tensor]) -> Iterator[None]:
    """Append the gradient of each step of a `ClippedAdam`, after the mean over ranks."""
    clip = torch.nn.utils.clip_grads_with_norm_

    def keep(parameters: Any, max_norm: float, total_norm: Tensor) -> None:
        grads = [each.grad.flatten() for each in parameters if each.grad is not None]
        found.append(torch.cat(grads).clone())
        clip(parameters, max_norm, total_norm)

    with patch.object(torch.nn.utils, "clip_grads_with_norm_", keep):
        yield


@contextmanager
def dying(updates: int | None) -> Iterator[None]:
    """Kill the process after so many steps of optimizers."""
    if updates is None:
        yield
        return
    left, step = [updates], PlainAdam.step

    def count(self: PlainAdam) -> None:
        step(self)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(PlainAdam, "step", count):
        yield


def train(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train with `options`; returns and writes the weights and the first gradient."""
    first: list[Tensor] = []
    die = os.environ.get("DIE_AFTER")
    with greedy(), gradients(first), dying(int(die) if die else None):
        result = rlmem.train(**options)
    weights = dict(result.agent.policy.state_dict())
    # A separate critic has a gradient of its own.
    groups = 2 if options.get("algo.separate_critic") else 1
    found: dict[str, Any] = {"weights": weights}
    found["gradient"] = torch.cat(first[:groups]) if first else None
    found["return_mean"], found["step"] = result.return_mean, result.step
    torch.save(found, f"{name}-{os.environ.get('RANK', 0)}.pt")
    return found


def learn(algo: str) -> dict[str, Any]:
    """One update of an algorithm from this rank's rows of the batch in ALGO.pt."""
    torch.manual_seed(0)
    learner = make(algo, 4 // group.count())
    batch = torch.load(f"{algo}.pt", weights_only=False)
    rows = group.rows(4 // group.count())

    def part(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: leaf[rows] for key, leaf in value.items()}
        return value[rows] if isinstance(value, Tensor) else value

    fields = {field.name: part(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
    found: list[Tensor] = []
    with gradients(found):
        metrics, _ = learner.learn(SequenceBatch(**fields))
    metrics = reduce.mean_metrics({key: float(value) for key, value in metrics.items()})
    result = {"gradients": found, "metrics": metrics, "weights": dict(learner.policy.state_dict())}
    # The second rank has a segment that is drawn less often, so with a larger weight.
    priorities = Priorities(2, 1.0)
    priorities.add(torch.arange(2))
    priorities.update(torch.tensor([1]), torch.tensor([3.0 + group.number()]))
    result["priority"] = priorities.weights(torch.tensor([0, 1]), 2, 0.5)
    result["epsilon"] = getattr(learner.policy, "epsilon", None)
    torch.save(result, f"{algo}-{group.number()}-of-{group.count()}.pt")
    return result


def make(algo: str, num_envs: int) -> Any:
    """A small algorithm with a replay."""
    env = envs.make("memory-chain", num_envs=num_envs, length=5)
    spaces = env.observation_space, env.action_space
    policy = algos.requirements(algo).policy_type(*spaces, core="gru", hidden_size=8)
    replay = {"capacity": 400, "batch_size": 4, "length": 7, "burn_in": 2, "stride": 3}
    replay |= {"alpha": 0.9, "beta": 0.6}
    return algos.make(algo, env=env, policy=policy, seed=[1] * num_envs, replay=replay)


if __name__ == "__main__":
    try:
        if sys.argv[1] == "learn":
            group.join()
            for each in json.loads(sys.argv[2]):
                learn(each)
        else:
            train(sys.argv[1], json.loads(sys.argv[2]))
    except rlmem.UsageError as error:
        sys.exit(str(error))
