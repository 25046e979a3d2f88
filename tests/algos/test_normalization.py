"""Statistics of observations and rewards in every algorithm: when they change, and what for."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from depot import Depot
from torch import Tensor

import rlmem
from rlmem import algos
from rlmem.algos import Algorithm
from rlmem.data.recorder import Recorder
from rlmem.data.returns import DiscountedReturns
from rlmem.envs.base import Tensors, VecEnv
from rlmem.envs.gym_env import GymVecEnv
from rlmem.envs.trials import Trials
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic, Policy, QPolicy
from rlmem.policies.normalizer import Normalizer, normalizers
from rlmem.runs.agent import Agent, AgentSpec
from tests.data.counting import Counting

ON_POLICY = {"num_steps": 8, "num_minibatches": 2}
REPLAY = {"capacity": 2000, "batch_size": 4, "length": 8}
OFF_POLICY = {"num_steps": 8, "num_updates": 2, "learning_starts": 0, "replay": REPLAY}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": ON_POLICY,
    "pqn": ON_POLICY,
    "r2d2": OFF_POLICY,
    "sac": OFF_POLICY,
    "amago": {**OFF_POLICY, "replay": {**REPLAY, "batching": "trajectory"}},
}
POSITION = "obs.position"


def depots(num_envs: int = 4) -> VecEnv:
    return GymVecEnv([Depot] * num_envs)


def make(name: str, env: VecEnv | None = None, **options: Any) -> Algorithm:
    env = env or depots()
    needs = algos.requirements(name)
    policy = needs.policy_type(
        env.observation_space, env.action_space, core="gru", hidden_size=8, **options
    )
    return algos.make(name, env=env, policy=policy, seed=[3, 1, 4, 2], **OPTIONS[name])


def statistics(policy: Policy) -> Normalizer:
    (found,) = normalizers(policy)
    return found


class Seen:
    """Environments that keep all observations that they gave."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.num_envs, self.device = env.num_envs, env.device
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.seen: list[Tensor] = []

    def reset(self, seed: Any = None) -> Tensors:
        return self._keep(self.env.reset(seed))

    def step(self, action: Tensors) -> Any:
        step = self.env.step(action)
        self._keep(step.obs)
        return step

    def close(self) -> None:
        self.env.close()

    def _keep(self, obs: Tensors) -> Tensors:
        self.seen.append(obs[POSITION])
        return obs


@pytest.mark.parametrize("name", OPTIONS)
def test_the_statistics_are_those_of_all_observations_acted_on(name: str) -> None:
    env = Seen(depots())
    algo = make(name, env)
    found = statistics(algo.policy)
    assert found.keys == (POSITION,)
    assert (found.deviation > 100).all(), "a guess from the first observations"
    for iteration in range(3):
        algo.iterate(iteration / 3)
    x = torch.cat(env.seen[:-1]).double()
    assert found.count.tolist() == [len(x)] * 2 == [3 * 8 * 4] * 2
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(found.deviation, x.std(0, correction=0))


@pytest.mark.parametrize("name", ["ppo", "pqn"])
def test_an_iteration_acts_and_learns_with_the_same_statistics(name: str) -> None:
    algo = make(name)
    algo.iterate(0.0)
    found = statistics(algo.policy)
    used: list[tuple[Tensor, Tensor]] = []
    found.register_forward_hook(lambda *_: used.append((found.mean.clone(), found.m2.clone())))
    before = found.mean.clone()
    algo.iterate(0.1)
    assert len(used) > 8 + 8
    assert all(torch.equal(mean, used[0][0]) and torch.equal(m2, used[0][1]) for mean, m2 in used)
    assert torch.equal(used[0][0], before)
    assert not torch.equal(found.mean, before), "then they change"


@pytest.mark.parametrize("separate", [False, True])
def test_the_first_minibatch_of_ppo_has_ratio_one(
    separate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = depots()
    policy = ActorCritic(
        env.observation_space,
        env.action_space,
        separate_critic=separate,
        core="gru",
        hidden_size=8,
    )
    ppo: Any = algos.make("ppo", env=env, policy=policy, seed=[1, 2, 3, 4], **ON_POLICY)
    losses: list[dict[str, Tensor]] = []
    loss = ppo.loss

    def noted(*given: Any) -> Any:
        result = loss(*given)
        losses.append(result[1])
        return result

    monkeypatch.setattr(ppo, "loss", noted)
    for iteration in range(3):
        losses.clear()
        ppo.iterate(iteration / 3)
        assert losses[0]["approx_kl"].item() == pytest.approx(0, abs=1e-6)
        assert losses[-1]["approx_kl"].item() > 1e-5


@pytest.mark.parametrize("name", ["r2d2", "sac", "amago"])
def test_a_replay_holds_observations_as_they_are(name: str) -> None:
    algo: Any = make(name)
    for _ in range(4):
        algo.iterate(0.0)
    batch = algo.collector.replay.sample(0.0)
    assert batch.obs[POSITION].abs().max() > 500
    found = statistics(algo.policy)
    torch.testing.assert_close(
        found(batch.obs)[POSITION],
        ((batch.obs[POSITION] - found.mean) / found.deviation).clamp(-10, 10).float(),
    )


@pytest.mark.parametrize("name", ["r2d2", "sac"])
def test_target_networks_read_with_the_same_statistics(name: str) -> None:
    algo: Any = make(name)
    for _ in range(4):
        algo.iterate(0.0)
    online, slow = statistics(algo.policy), statistics(algo.target.network)
    assert online is slow
    before = copy.deepcopy(online.state_dict())
    algo.collector.collect()
    state = algo.target.state_dict()
    assert not torch.equal(state["network"]["encoder.normalizer.mean"], before["mean"])
    algo.target.load_state_dict(state)
    assert statistics(algo.target.network) is online


@pytest.mark.parametrize("name", ["dt", "ad"])
def test_offline_algorithms_take_the_statistics_of_the_dataset(name: str, tmp_path: Path) -> None:
    inner = Seen(depots())
    env = Recorder(inner, tmp_path / "data", {})
    env.reserve(100)
    env.reset([1, 2, 3, 4])
    rewards = []
    for _ in range(100):
        rewards.append(env.step({"action": torch.randint(4, (4,))}).reward)
    env.close()
    wrapped = Trials(depots(), episodes=1)
    policy_type = algos.requirements(name).policy_type
    spaces = wrapped.observation_space, wrapped.action_space
    policy = policy_type(*spaces, core="gru", hidden_size=8)
    options = {"dataset": str(tmp_path / "data"), "batch_size": 4, "length": 16, "num_updates": 1}
    algo = algos.make(name, env=wrapped, policy=policy, seed=[0], **options)
    found = statistics(policy)
    assert found.keys == (POSITION, "previous_reward")
    x = torch.cat(inner.seen[:-1]).double()
    torch.testing.assert_close(found.mean[:2], x.mean(0))
    torch.testing.assert_close(found.deviation[:2], x.std(0, correction=0))
    # Rewards of the last steps of episodes precede no observation; the first ones follow a 0.
    assert -1 < found.mean[2] < torch.stack(rewards).mean()
    before = copy.deepcopy(found.state_dict())
    algo.iterate(0.0)
    assert all(torch.equal(leaf, before[key]) for key, leaf in found.state_dict().items())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_loaded_agent_normalises_and_changes_nothing(name: str, tmp_path: Path) -> None:
    algo = make(name)
    for _ in range(3):
        algo.iterate(0.0)
    arguments = {"core": "gru", "hidden_size": 8, "normalize_obs": "auto"}
    spec = AgentSpec.of(depots(), name, arguments)
    Agent(algo.policy, spec, torch.device("cpu")).save(tmp_path / "agent.rlmem")
    agent = rlmem.load(tmp_path / "agent.rlmem")
    loaded, trained = statistics(agent.policy), statistics(algo.policy)
    before = {key: leaf.clone() for key, leaf in loaded.state_dict().items()}
    assert all(torch.equal(leaf, before[key]) for key, leaf in trained.state_dict().items())
    env = Depot()
    obs, _ = env.reset(seed=1)
    leaves = {
        key: torch.as_tensor(obs[key.removeprefix("obs.")])[None] for key in agent.env.obs.spaces
    }
    state, start = algo.policy.initial_state(1), torch.tensor([True])
    expected = algo.policy.act(leaves, state, start, deterministic=True)
    assert agent.act(obs) == expected.action["action"].item()
    for _ in range(10):
        obs, *_ = env.step(agent.act(obs))
    rlmem.evaluate(agent, Depot, episodes=4)
    assert all(torch.equal(leaf, before[key]) for key, leaf in loaded.state_dict().items())


def test_discounted_returns_by_hand() -> None:
    returns = DiscountedReturns(2, torch.device("cpu"))
    reward = torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
    done = torch.tensor([[False, True, False], [False, False, False]])
    first = returns(reward, done, 0.5)
    assert first.tolist() == [[1, 2.5, 4], [1, 1.5, 1.75]]
    # The episodes go on in the next rows.
    second = returns(torch.zeros(2, 2), torch.zeros(2, 2).bool(), 0.5)
    assert second.tolist() == [[2, 1], [0.875, 0.4375]]


@pytest.mark.parametrize("name", ["ppo", "pqn"])
def test_rewards_are_divided_by_the_deviation_of_returns(name: str) -> None:
    env = Counting([3, 4, 5, 6], [True, False, False, True])
    policy_type: Any = ActorCritic if name == "ppo" else QPolicy
    spaces = env.observation_space, env.action_space
    policy = policy_type(*spaces, core="gru", hidden_size=8, normalize_reward=True)
    options = {**ON_POLICY, "normalize_reward": True, "gamma": 0.9}
    algo: Any = algos.make(name, env=env, policy=policy, seed=[0] * 4, **options)
    rollout = algo.collector.collect()
    scaled = algo.collector.rewards(rollout, 0.9)
    returns = DiscountedReturns(4, env.device)(
        rollout.reward, rollout.terminated | rollout.truncated, 0.9
    )
    torch.testing.assert_close(scaled, rollout.reward / returns.double().std(correction=0).float())
    moments = policy.reward_moments
    assert moments.count.item() == rollout.reward.numel()
    metrics = algo.iterate(0.0)
    # Step n of an episode has reward n: 1 + 2 + 3 = 6 in the shortest one.
    assert metrics["episode_return"] >= 6, "returns in metrics are those of the environment"
    assert moments.count.item() == 2 * rollout.reward.numel()
    assert "reward_moments.m2" in policy.state_dict()


@pytest.mark.parametrize("name", ["ppo", "pqn"])
def test_rewards_are_normalised_by_policy_and_algorithm_together(name: str) -> None:
    env = depots()
    policy = algos.requirements(name).policy_type(
        env.observation_space, env.action_space, core="gru", hidden_size=8
    )
    with pytest.raises(UsageError, match="option of the policy too"):
        algos.make(name, env=env, policy=policy, seed=[0] * 4, normalize_reward=True, **ON_POLICY)


@pytest.mark.slow
@pytest.mark.learning
def test_large_numbers_are_learned_as_if_divided_by_hand() -> None:
    last = {}
    for scale, mode in ((1.0, "auto"), (1000.0, False), (1000.0, "auto")):
        torch.manual_seed(0)
        env = GymVecEnv([partial(Depot, scale)] * 32)
        spaces = env.observation_space, env.action_space
        policy = ActorCritic(*spaces, core="gru", hidden_size=32, normalize_obs=mode)
        assert bool(normalizers(policy)) == (scale > 1 and mode == "auto")
        seeds = list(range(32))
        options = {"num_steps": 64, "num_minibatches": 4, "gamma": 0.95}
        ppo = algos.make("ppo", env=env, policy=policy, seed=seeds, **options)
        returns = [ppo.iterate(iteration / 15)["episode_return"] for iteration in range(15)]
        last[scale, mode] = np.mean(returns[-3:])
    # Measured: 26 by hand, -7 as they are, 26 normalised.
    assert last[1.0, "auto"] > 20
    assert last[1000.0, "auto"] > 20
    assert last[1000.0, False] < 0
