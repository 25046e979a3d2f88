"""Supervised learning of recorded actions, for algorithms without an environment to act in.

L = -E[log pi(a[t] | observations up to t, actions and rewards before t)]
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlmem.algos.optimizer import Metrics
from rlmem.data.dataset import Dataset, RecordedRows, space_texts
from rlmem.envs.base import Tensors, VecEnv
from rlmem.errors import UsageError
from rlmem.policies.heads import ILLEGAL
from rlmem.policies.normalizer import normalizers
from rlmem.policies.sequence import PAST, RETURN, SequencePolicy

# Steps of a dataset that are read together.
CHUNK = 2**15


def open_dataset(folder: str | None, env: VecEnv, policy: SequencePolicy) -> Dataset:
    """The dataset in `folder`; a `UsageError` if its spaces are not those of `env`."""
    if folder is None:
        raise UsageError(
            "algo.dataset must name a folder of recorded steps (rlmem train record=DIR)"
        )
    dataset = Dataset(folder)
    wanted = {key: env.observation_space[key] for key in policy.task}
    for kind, here in (
        ("observation_space", space_texts(wanted)),
        ("action_space", space_texts(env.action_space)),
    ):
        recorded = dataset.about[kind]
        for key, space in here.items():
            if recorded.get(key) != space:
                raise UsageError(
                    f"{folder} does not fit this environment: its {key} is "
                    f"{recorded.get(key, 'missing')}, and not {space}"
                )
    for run in dataset.runs:
        run.require_values(wanted, env.action_space)
    return dataset


def fit_statistics(policy: SequencePolicy, dataset: Dataset, device: torch.device) -> None:
    """Set the statistics of the policy's inputs, if it keeps any, to those of the whole dataset."""
    found = normalizers(policy)
    stream, first, steps = dataset.episodes.unbind(1)
    piece = torch.arange(len(steps)).repeat_interleave(steps)
    entry = torch.arange(len(piece)) - (steps.cumsum(0) - steps - first)[piece]
    rows = torch.stack([stream[piece], entry, piece])[:, None]
    for part in rows.split(CHUNK, dim=2) if found else ():
        obs, start = history_inputs(policy, dataset.read(*part), reset_memory=True)
        on_device = {key: leaf.to(device) for key, leaf in obs.items()}
        inputs = policy.model_inputs(on_device, start.to(device))
        for normalizer in found:
            normalizer.observe(inputs)


def action_loss(
    policy: SequencePolicy, rows: RecordedRows, device: torch.device, reset_memory: bool
) -> tuple[Tensor, Metrics]:
    """The loss of some rows, and its metrics.

    With `reset_memory` the memory is reset at each episode's start, else at the row's start only.
    """
    obs, start = history_inputs(policy, rows, reset_memory)
    obs = {key: leaf.to(device) for key, leaf in obs.items()}
    state = policy.core.initial_state(len(start))
    dist = policy(obs, state, start.to(device))
    action = {key: leaf.to(device) for key, leaf in rows.action.items()}
    log_prob = dist.log_prob(action)
    # Another agent may have recorded actions that the mask forbids: they have no likelihood.
    legal = None if policy.mask is None else log_prob > ILLEGAL / 2
    if legal is None:
        loss = -log_prob.mean()
    else:
        loss = -torch.where(legal, log_prob, 0).sum() / legal.sum().clamp(min=1)
    same = torch.stack([_equal(dist.mode()[key], leaf) for key, leaf in action.items()])
    metrics = {
        "loss": loss,
        "entropy": dist.entropy().mean(),
        "accuracy": same.all(0).float().mean(),
    }
    if legal is not None:
        metrics["illegal"] = 1 - legal.float().mean()
    return loss, {key: metric.detach() for key, metric in metrics.items()}


def history_inputs(
    policy: SequencePolicy, rows: RecordedRows, reset_memory: bool
) -> tuple[Tensors, Tensor]:
    """The policy's observations of rows, previous actions and rewards included, and the starts."""
    start = rows.first.clone()
    if not reset_memory:
        start[:, 1:] = False
    past = {PAST + key: _previous(leaf) for key, leaf in rows.action.items()} | {
        PAST + "reward": _previous(rows.reward),
        PAST + "done": (rows.first & ~start).long(),
    }
    obs = {key: rows.obs[key] for key in policy.task}
    return {**obs, **past, RETURN: rows.return_to_go}, start


def _previous(leaf: Tensor) -> Tensor:
    """The values one step earlier; the first step's value is undefined and never read."""
    return leaf.roll(1, dims=1)


def _equal(one: Tensor, other: Tensor) -> Tensor:
    """Equality of actions [B, T, ...] at each step [B, T]."""
    same = one == other
    return same.flatten(2).all(-1) if same.dim() > 2 else same
