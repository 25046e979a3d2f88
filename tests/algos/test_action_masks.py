"""Every algorithm with masks of every form: no illegal action, and targets and losses by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem import algos, tree
from rlmem.algos import Algorithm
from rlmem.algos.action_prediction import action_loss
from rlmem.algos.amago import AMAGO
from rlmem.algos.dt import DT
from rlmem.algos.pqn import PQN
from rlmem.algos.r2d2 import R2D2
from rlmem.algos.sac import SAC
from rlmem.data.batch import SequenceBatch
from rlmem.data.recorder import Recorder
from rlmem.envs.base import Tensors, Transition, VecEnv
from rlmem.envs.trials import Trials
from tests.algos.masked_env import FORMS, MaskedEnv

REPLAY = {"batch_size": 4, "length": 6, "capacity": 600}
SEGMENTS = {**REPLAY, "burn_in": 2, "stride": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {"num_steps": 6, "num_minibatches": 2, "num_epochs": 2},
    "pqn": {"num_steps": 6, "num_minibatches": 2, "num_epochs": 2},
    "r2d2": {"num_steps": 6, "learning_starts": 0, "replay": SEGMENTS},
    "sac": {"num_steps": 6, "learning_starts": 0, "replay": SEGMENTS},
    "amago": {
        "num_steps": 6,
        "num_updates": 2,
        "learning_starts": 0,
        "replay": {**REPLAY, "batching": "trajectory"},
    },
    "dt": {"batch_size": 4, "length": 8, "num_updates": 2},
    "ad": {"batch_size": 4, "length": 8, "num_updates": 2},
}
DISCRETE_ONLY = ("pqn", "r2d2")


def make(name: str, form: str, folder: Path, **options: Any) -> tuple[Algorithm, MaskedEnv]:
    inner = MaskedEnv(form)
    env: VecEnv = inner
    needs = algos.requirements(name)
    options = {**OPTIONS[name], **options}
    if needs.needs_history:
        record(form, folder)
        env, options["dataset"] = Trials(env, episodes=1), str(folder)
    policy = needs.policy_type(env.observation_space, env.action_space, core="gru", hidden_size=8)
    algo = algos.make(name, env=env, policy=policy, seed=list(range(6)), **options)
    return algo, inner


def record(form: str, folder: Path) -> None:
    """Random legal steps."""
    env = MaskedEnv(form)
    recorder = Recorder(env, folder, {})
    recorder.reserve(20)
    recorder.reset(0)
    for _ in range(20):
        recorder.step(env.legal_actions())
    recorder.close()


MAIN_FORMS = ("discrete", "nested", "hybrid")


@pytest.mark.by_day(2)
@pytest.mark.parametrize(
    "form",
    [form if form in MAIN_FORMS else pytest.param(form, marks=pytest.mark.slow) for form in FORMS],
)
@pytest.mark.parametrize("name", algos.names())
def test_no_algorithm_takes_an_illegal_action(name: str, form: str, tmp_path: Path):
    if form == "hybrid" and name in DISCRETE_ONLY:
        pytest.skip("discrete actions only")
    algo, inner = make(name, form, tmp_path)
    for i in range(6):
        metrics = algo.iterate(i / 6)
        assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert "grad_norm" in metrics, "it did not learn"
    assert all(p.isfinite().all() for p in algo.policy.parameters())
    if hasattr(algo.policy, "epsilon"):
        algo.policy.epsilon = torch.full((6,), 0.5)
    needs_history = algos.requirements(name).needs_history
    env: VecEnv = Trials(inner, episodes=1) if needs_history else inner
    obs, state = env.reset(), algo.policy.initial_state(6)
    start, before = torch.ones(6, dtype=torch.bool), inner.checked
    with torch.no_grad():
        for t in range(30):
            act = algo.policy.act(obs, state, start, deterministic=t % 2 == 0)
            step = env.step(act.action)
            obs, state, start = step.obs, act.state, step.memory_reset
    assert inner.checked == before + 30 * 6
    assert all(leaf.isfinite().all() for leaf in tree.leaves(state))


@pytest.mark.parametrize("batching", ["segments", "tape", "trajectory"])
@pytest.mark.parametrize("name", ["r2d2", "sac", "amago"])
def test_masks_in_every_kind_of_rows(name: str, batching: str, tmp_path: Path):
    replay = {**SEGMENTS, "length": 3, "burn_in": 0, "batching": batching}
    algo, _ = make(name, "discrete", tmp_path, replay=replay)
    for i in range(6):
        metrics = algo.iterate(i / 6)
        assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert "grad_norm" in metrics


Q = torch.tensor([1.0, 4.0, 2.0, 9.0])
OBSERVATIONS = {"obs.x": spaces.Discrete(2), "obs.action_mask": spaces.Box(0, 1, (4,), np.int8)}
ACTIONS = {"action": spaces.Discrete(4)}


class Known:
    """An environment for its spaces; it is never stepped."""

    num_envs, device = 2, torch.device("cpu")
    observation_space, action_space = OBSERVATIONS, ACTIONS

    def reset(self, seed: object = None) -> Tensors:
        mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 1, 0]])
        return {"obs.x": torch.zeros(2, dtype=torch.int64), "obs.action_mask": mask}

    def step(self, action: Tensors) -> Transition:
        raise NotImplementedError

    def close(self) -> None: ...


def constant(name: str, **options: Any) -> Any:
    """An algorithm whose policy has the same outputs for all observations: those set as biases."""
    needs = algos.requirements(name)
    shared = {key: options[key] for key in needs.policy_options if key in options}
    policy = needs.policy_type(OBSERVATIONS, ACTIONS, core="none", hidden_size=8, **shared)
    for weight in policy.parameters():
        torch.nn.init.zeros_(weight)
    return algos.make(name, env=Known(), policy=policy, seed=[0, 1], **options)


def row(legal: list[list[int]], **changes: Any) -> SequenceBatch:
    """One row of three steps, rewards 1, 2, 3, actions 0, 2, 1; the masks of its observations."""
    never = torch.zeros(1, 3, dtype=torch.bool)
    mask = torch.tensor([legal]).float()
    given: dict[str, Any] = {
        "obs": {"obs.x": torch.zeros(1, 4, dtype=torch.int64), "obs.action_mask": mask},
        "start": torch.zeros(1, 4, dtype=torch.bool),
        "action": {"action": torch.tensor([[0, 2, 1]])},
        "reward": torch.tensor([[1.0, 2.0, 3.0]]),
        "terminated": never,
        "truncated": never,
        "mask": ~never,
        "state": torch.zeros(1, 0),
        "weight": torch.ones(1),
        "segment": torch.tensor([0]),
    }
    return SequenceBatch(**{**given, **changes})


# The largest legal values of the last three observations: 2, 4, 1.
MASKS = [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0]]


def test_targets_of_r2d2_are_over_the_next_legal_actions():
    r2d2 = constant("r2d2", gamma=0.5, n_step=1, rescale_eps=None, dueling=False)
    assert isinstance(r2d2, R2D2)
    r2d2.policy.q.advantage[-1].bias.data.copy_(Q)
    batch = row(MASKS)
    batch.state = r2d2.policy.initial_state(1)
    q = r2d2.policy(batch.obs, batch.state, batch.start)
    # r + max / 2 - Q: 1 + 1 - 1; 2 + 2 - 2; 3 + 1/2 - 4.
    assert r2d2.errors(q, q, batch)[0].tolist() == [1.0, 2.0, -0.5]
    # Without the double estimate the same, and other values there are of no account.
    there = torch.where(q > -torch.inf, q, 100.0)
    assert r2d2.errors(q, there, batch)[0].tolist() == [1.0, 2.0, -0.5]


def test_an_entry_without_an_action_leaves_no_trace_in_r2d2():
    r2d2 = constant("r2d2", gamma=0.5, n_step=3, rescale_eps=None, dueling=False)
    r2d2.policy.q.advantage[-1].bias.data.copy_(Q)
    mask = torch.tensor([[True, False, True]])
    # The action of step 1, the entry of a final observation, is not legal there.
    batch = row([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], mask=mask)
    batch.terminated = torch.tensor([[True, False, False]])
    batch.state = r2d2.policy.initial_state(1)
    metrics, priority = r2d2.learn(batch)
    assert all(metric.isfinite() for metric in metrics.values())
    assert priority.isfinite().all()
    assert all(p.isfinite().all() for p in r2d2.policy.parameters())


def test_values_of_pqn_are_those_of_legal_actions():
    pqn = constant("pqn", num_steps=2, num_minibatches=1, dueling=False)
    assert isinstance(pqn, PQN)
    pqn.policy.q.advantage[-1].bias.data.copy_(Q)
    obs, start = Known().reset(), torch.zeros(2, dtype=torch.bool)
    assert pqn.policy.value(obs, pqn.policy.initial_state(2), start).tolist() == [4.0, 2.0]


def test_targets_of_sac_are_over_the_next_legal_actions():
    sac = constant("sac", gamma=0.5, alpha=0.2, reward_scale=1.0, discrete_target_entropy=0.5)
    assert isinstance(sac, SAC)
    logits = torch.tensor([0.0, 1.0, 2.0, 7.0])
    sac.policy.actor.out.bias.data.copy_(logits)
    for critic in sac.target.network.critics.critics:
        critic[-1].bias.data.copy_(Q)
    batch = row(MASKS)
    batch.state = sac.policy.initial_state(1)
    actor = sac.policy.actor_output(torch.zeros(1, 4, 8), sac.policy.legal(batch.obs))
    expected = []
    for reward, mask in zip((1.0, 2.0, 3.0), MASKS[1:], strict=True):
        legal = torch.tensor(mask).bool()
        p = logits[legal].softmax(0)
        value = (p * (Q[legal] - 0.2 * p.log())).sum().item()
        expected.append(reward + 0.5 * value)
    target = sac.targets(batch, torch.zeros(1, 4, 8), actor)
    torch.testing.assert_close(target, torch.tensor([expected]))
    # Half of the largest entropy over legal actions: log 3, log 2 and log 3.
    losses = sac.losses(batch)
    goal = 0.5 * (2 * math.log(3) + math.log(2)) / 3
    gap = losses.entropy[0].item() - goal
    alpha_loss = losses.alpha.item()
    assert alpha_loss == pytest.approx(0.2 * gap, rel=1e-4)


def test_the_actor_of_sac_is_not_trained_at_illegal_actions():
    sac = constant("sac", reward_scale=1.0)
    batch = row(MASKS)
    batch.state = sac.policy.initial_state(1)
    sac.policy.critics.critics[0][-1].bias.data.copy_(Q)
    sac.losses(batch).actor.backward()
    gradient = sac.policy.actor.out.bias.grad
    assert gradient[3] == 0
    assert (gradient[:3] != 0).all()


def test_targets_of_amago_are_over_the_next_legal_actions():
    amago = constant("amago", gammas=[0.5], num_critics=2, num_critics_td=2)
    assert isinstance(amago, AMAGO)
    logits = torch.tensor([0.0, 1.0, 2.0, 7.0])
    heads = amago.target.network
    heads.actor.out.bias.data.copy_(logits)
    heads.critics.out.linear.bias.data.copy_(Q.expand(2, 1, 4))
    batch = row(MASKS)
    batch.state = amago.policy.initial_state(1)
    legal = amago.policy.legal(batch.obs)
    now = {key: each._replace(mask=each.mask[:, 1:]) for key, each in legal.items()}
    target = amago.targets(batch, torch.zeros(1, 3, 8), now)
    expected = []
    for reward, mask in zip((1.0, 2.0, 3.0), MASKS[1:], strict=True):
        where = torch.tensor(mask).bool()
        value = (logits[where].softmax(0) * Q[where]).sum().item()
        expected.append([amago.reward_scale * reward + 0.5 * value])
    torch.testing.assert_close(target, torch.tensor([expected]))
    metrics, error = amago.learn(batch)
    assert all(metric.isfinite() for metric in metrics.values())
    assert error.isfinite().all()


def test_the_actor_of_ppo_is_not_trained_at_illegal_actions(tmp_path: Path):
    algo, inner = make("ppo", "discrete", tmp_path)
    inner._ensure = lambda mask, path: mask.__setitem__(slice(3, 5), [0, 1])  # type: ignore[method-assign]
    algo.collector.collect()  # type: ignore[attr-defined]
    rollout = algo.collector.collect()  # type: ignore[attr-defined]
    assert (rollout.obs["obs.action_mask"][..., 3] == 0).all()
    index = torch.arange(6)
    advantage = torch.randn(6, 6)
    loss, _ = algo.loss(rollout, index, advantage, advantage)  # type: ignore[attr-defined]
    loss.backward()
    gradient = algo.policy.actor.out.bias.grad  # type: ignore[union-attr]
    assert gradient is not None
    assert gradient[3] == 0
    assert gradient[4] != 0


def test_recorded_actions_that_a_mask_forbids_do_not_count(tmp_path: Path):
    algo, _ = make("dt", "discrete", tmp_path)
    assert isinstance(algo, DT)
    rows = algo.dataset.read(*_first_entries())
    loss, metrics = action_loss(algo.policy, rows, algo.device, reset_memory=True)
    assert metrics["illegal"] == 0
    # The second half of each row becomes illegal: the mean is over the first half.
    mask, action = rows.obs["obs.action_mask"], rows.action["action"]
    mask[:, 4:] = 1
    mask[:, 4:].scatter_(-1, action[:, 4:].unsqueeze(-1), 0)
    half, metrics = action_loss(algo.policy, rows, algo.device, reset_memory=True)
    assert metrics["illegal"] == 0.5
    half.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in algo.policy.parameters())
    short = rows._replace(
        obs={key: leaf[:, :4] for key, leaf in rows.obs.items()},
        action={key: leaf[:, :4] for key, leaf in rows.action.items()},
        reward=rows.reward[:, :4],
        return_to_go=rows.return_to_go[:, :4],
        first=rows.first[:, :4],
    )
    first, _ = action_loss(algo.policy, short, algo.device, reset_memory=True)
    # Actions reach the model one step later, rolled over the end of the row: both rows start anew.
    torch.testing.assert_close(half, first)
    assert loss.isfinite()


def _first_entries() -> tuple[Tensor, Tensor, Tensor]:
    """The first two episodes of the streams 0 and 1, four steps each."""
    stream = torch.tensor([[0] * 8, [1] * 8])
    entry = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8]).expand(2, 8)
    return stream, entry, torch.tensor([0] * 4 + [1] * 4).expand(2, 8)
