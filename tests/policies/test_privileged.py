"""Leaves that only the critic reads: actions do not depend on them, values do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rlmem import algos, envs, tree
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic, Policy, describe_inputs
from rlmem.policies.multi_gamma import MultiGamma
from rlmem.policies.privileged import critic_only_leaves

OBSERVATIONS: dict[str, spaces.Space] = {
    "obs.card": spaces.Discrete(3),
    "obs.privileged.goal": spaces.Box(-np.inf, np.inf, (2,)),
    "obs.speed": spaces.Box(-1, 1, (2,)),
    "obs.privileged.kind": spaces.Discrete(4),
}
HIDDEN = ("obs.privileged.goal", "obs.privileged.kind")
ACTIONS: dict[str, spaces.Space] = {
    "action.move": spaces.Discrete(3),
    "action.force": spaces.Box(-1, 1, (2,)),
}
KINDS: dict[str, tuple[type[Policy], dict[str, Any]]] = {
    "ppo": (ActorCritic, {}),
    "ppo-separate": (ActorCritic, {"separate_critic": True}),
    "amago": (MultiGamma, {"gammas": [0.5, 0.9]}),
}


def make(kind: str, core: str = "gru", **options: Any) -> Policy:
    torch.manual_seed(0)
    policy_type, own = KINDS[kind]
    policy = policy_type(OBSERVATIONS, ACTIONS, core=core, hidden_size=8, **own, **options)
    for parameter in policy.parameters():
        # Heads begin so small that almost nothing would change an action.
        torch.nn.init.normal_(parameter, std=0.5)
    return policy


def observe(*shape: int) -> dict[str, Tensor]:
    return {
        "obs.card": torch.randint(3, shape),
        "obs.privileged.goal": torch.randn(*shape, 2),
        "obs.speed": torch.rand(*shape, 2),
        "obs.privileged.kind": torch.randint(4, shape),
    }


def play(policy: Policy, obs: dict[str, Tensor], start: Tensor, deterministic: bool) -> Tensor:
    torch.manual_seed(1)
    state, actions = policy.initial_state(len(start)), []
    for t in range(start.shape[1]):
        act = policy.act({k: v[:, t] for k, v in obs.items()}, state, start[:, t], deterministic)
        state = act.state
        actions.append(torch.cat([leaf.reshape(len(start), -1) for leaf in act.action.values()], 1))
    return torch.stack(actions, 1)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("core", ["gru", "ffm", "s5", "transformer_xl"])
@pytest.mark.parametrize("kind", KINDS)
def test_actions_never_depend_on_the_critics_leaves(
    kind: str, core: str, deterministic: bool
) -> None:
    policy = make(kind, core)
    assert policy.critic_only == HIDDEN
    obs, start = observe(4, 12), torch.rand(4, 12) < 0.2
    expected = play(policy, obs, start, deterministic)
    changes: list[dict[str, Tensor]] = [
        {key: observe(4, 12)[key] for key in HIDDEN},
        {HIDDEN[0]: torch.full((4, 12, 2), torch.nan)},
    ]
    for change in changes:
        assert torch.equal(play(policy, obs | change, start, deterministic), expected)
    seen = {key: leaf for key, leaf in obs.items() if key not in HIDDEN}
    assert torch.equal(play(policy, seen, start, deterministic), expected), "none is needed"
    other = play(policy, obs | {"obs.speed": observe(4, 12)["obs.speed"]}, start, deterministic)
    assert not torch.equal(other, expected), "the test can fail"


@pytest.mark.parametrize("kind", ["ppo", "ppo-separate"])
def test_no_gradient_leads_from_actions_to_the_critics_leaves(kind: str) -> None:
    policy: Any = make(kind)
    obs, start = observe(3, 6), torch.zeros(3, 6, dtype=torch.bool)
    for key in ("obs.privileged.goal", "obs.speed"):
        obs[key].requires_grad_()
    dist, value = policy(obs, policy.initial_state(3), start)
    action = {key: leaf.detach() for key, leaf in dist.sample().items()}
    (dist.log_prob(action).sum() + dist.entropy().sum()).backward(retain_graph=True)
    assert obs["obs.privileged.goal"].grad is None
    assert obs["obs.speed"].grad.abs().sum() > 0  # type: ignore[union-attr]
    critic = policy.critic_encoder
    assert all(parameter.grad is None for parameter in critic.parameters())
    value.sum().backward()
    assert (obs["obs.privileged.goal"].grad.abs().sum(-1) > 0).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["ppo", "ppo-separate"])
def test_values_of_steps_and_rows_are_the_same(kind: str) -> None:
    policy: Any = make(kind)
    obs, start = observe(3, 6), torch.rand(3, 6) < 0.3
    state, values = policy.initial_state(3), []
    for t in range(6):
        now = {key: leaf[:, t] for key, leaf in obs.items()}
        torch.testing.assert_close(
            policy.value(now, state, start[:, t]),
            (act := policy.act_with_value(now, state, start[:, t])).value,
        )
        state = act.state
        values.append(act.value)
    _, row = policy(obs, policy.initial_state(3), start)
    torch.testing.assert_close(row, torch.stack(values, 1), atol=1e-5, rtol=1e-4)
    changed = obs | {HIDDEN[1]: (obs[HIDDEN[1]] + 1) % 4}
    assert not torch.allclose(policy(changed, policy.initial_state(3), start)[1], row)
    missing = {key: leaf for key, leaf in obs.items() if key != HIDDEN[1]}
    with pytest.raises(ValueError, match=r"'obs\.privileged\.kind' is missing"):
        policy(missing, policy.initial_state(3), start)
    first = {key: leaf[:, 0] for key, leaf in missing.items()}
    with pytest.raises(ValueError, match=r"'obs\.privileged\.kind' is missing"):
        policy.value(first, policy.initial_state(3), start[:, 0])


def test_a_shared_memory_does_not_read_the_critics_leaves() -> None:
    policy: Any = make("ppo")
    obs, start = observe(3), torch.ones(3, dtype=torch.bool)
    change = {key: observe(3)[key] for key in HIDDEN}
    one = policy.act_with_value(obs, policy.initial_state(3), start)
    other = policy.act_with_value(obs | change, policy.initial_state(3), start)
    assert all(map(torch.equal, tree.leaves(one.state), tree.leaves(other.state)))
    assert not torch.allclose(one.value, other.value)


def test_a_separate_critics_memory_stays_without_its_leaves() -> None:
    policy: Any = make("ppo-separate")
    obs, start = observe(3), torch.zeros(3, dtype=torch.bool)
    state = tree.map(torch.randn_like, policy.initial_state(3))
    seen = {key: leaf for key, leaf in obs.items() if key not in HIDDEN}
    actor, critic = policy.act(seen, state, start).state
    assert all(map(torch.equal, tree.leaves(critic), tree.leaves(state[1])))
    assert not torch.equal(actor, state[0])


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, list(HIDDEN)),
        ([], []),
        (["speed"], ["obs.speed"]),
        (["obs.speed", "privileged.kind"], ["obs.speed", "obs.privileged.kind"]),
        (["privileged"], list(HIDDEN)),
    ],
)
def test_keys_name_leaves_with_or_without_the_root(
    given: list[str] | None, found: list[str]
) -> None:
    assert list(critic_only_leaves(OBSERVATIONS, given)) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sped"], "unknown leaf in critic_only: 'sped'; did you mean obs.speed"),
        (["card", "speed", "privileged"], "critic_only leaves no leaf to the actor"),
    ],
)
def test_wrong_keys_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        critic_only_leaves(OBSERVATIONS, given)


@pytest.mark.parametrize("algo", algos.names())
def test_only_algorithms_with_such_a_critic_take_them(algo: str) -> None:
    env = envs.make("popgym-battleship", num_envs=1, privileged=True)
    policy_type = algos.requirements(algo).policy_type
    spaces_ = env.observation_space, env.action_space
    if algo in ("ppo", "amago"):
        policy = policy_type(*spaces_, core="gru", hidden_size=8)
        lines = describe_inputs(policy).splitlines()
        assert [line.endswith(", critic only") for line in lines] == [False, False, False, True]
        return
    with pytest.raises(UsageError, match="algorithms that can: ppo, amago"):
        policy_type(*spaces_, core="gru", hidden_size=8)
    everything = policy_type(*spaces_, core="gru", hidden_size=8, critic_only=[])
    assert "privileged" in everything.encoder.shapes


def test_the_critics_leaves_are_normalised_too() -> None:
    policy: Any = make("ppo", normalize_obs="auto")
    normalizer = policy.critic_encoder.normalizer
    assert normalizer.keys == ("obs.privileged.goal",)
    assert policy.encoder.normalizer is None
    both: Any = make("ppo-separate")
    assert both.critic_encoder.normalizer.keys == ("obs.privileged.goal",)


@pytest.mark.parametrize("algo", ["ppo", "amago"])
@pytest.mark.parametrize("env", ["popgym-battleship", "tmaze-passive", "popgym-repeat"])
def test_training_reaches_the_critics_encoder(algo: str, env: str) -> None:
    made = envs.make(env, num_envs=4, privileged=True)
    policy: Any = algos.requirements(algo).policy_type(
        made.observation_space, made.action_space, core="gru", hidden_size=8
    )
    options: dict[str, Any] = {"num_steps": 80}
    if algo == "ppo":
        options |= {"num_minibatches": 2}
    else:
        replay = {"batching": "trajectory", "capacity": 4000, "length": 20, "batch_size": 4}
        options |= {"learning_starts": 0, "num_updates": 2, "replay": replay}
    trained = algos.make(algo, env=made, policy=policy, seed=[1, 2, 3, 4], **options)
    before = [parameter.clone() for parameter in policy.critic_input.parameters()]
    metrics = {**trained.iterate(0.0), **trained.iterate(0.1)}
    assert "grad_norm" in metrics
    for old, new in zip(before, policy.critic_input.parameters(), strict=True):
        assert not torch.equal(old, new)
