"""Policies over every kind of space: encoding, steps against scans, and refused options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem import tree
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic
from rlmem.policies.encoders import LeafEncoder
from rlmem.policies.heads import make_leaf

OBSERVATIONS = {
    "obs.card": spaces.Discrete(4),
    "obs.board": spaces.MultiDiscrete([3, 5]),
    "obs.bits": spaces.MultiBinary(3),
    "obs.angle": spaces.Box(-1, 1, (2, 2), np.float32),
    "obs.grid": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "obs.image": spaces.Box(0, 255, (24, 32, 3), np.uint8),
}
ACTIONS = {
    "action.move": spaces.Discrete(5),
    "action.cell": spaces.MultiDiscrete([2, 3]),
    "action.keys": spaces.MultiBinary(2),
    "action.force": spaces.Box(-2, 2, (2,), np.float32),
    "action.free": spaces.Box(-np.inf, np.inf, (1,), np.float32),
}


def observe(*shape: int) -> dict[str, torch.Tensor]:
    return {
        "obs.card": torch.randint(4, shape),
        "obs.board": torch.stack([torch.randint(n, shape) for n in (3, 5)], -1),
        "obs.bits": torch.randint(2, (*shape, 3), dtype=torch.int8),
        "obs.angle": torch.rand(*shape, 2, 2),
        "obs.grid": torch.randint(256, (*shape, 7, 7, 3), dtype=torch.uint8),
        "obs.image": torch.randint(256, (*shape, 24, 32, 3), dtype=torch.uint8),
    }


def policy(**options: object) -> ActorCritic:
    return ActorCritic(OBSERVATIONS, ACTIONS, hidden_size=16, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("core", ["ffm", "gru"])
@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"separate_critic": True}], ids=str)
def test_scan_equals_steps_for_every_kind_of_space(core: str, options: dict[str, object]):
    agent = policy(core=core, **options)
    obs, start = observe(3, 6), torch.rand(3, 6) < 0.3
    state = agent.initial_state(3)
    acts = []
    for t in range(6):
        act = agent.act_with_value({k: v[:, t] for k, v in obs.items()}, state, start[:, t])
        acts.append(act)
        state = act.state
    action = {key: torch.stack([a.action[key] for a in acts], 1) for key in ACTIONS}
    dist, value = agent(obs, agent.initial_state(3), start)
    log_prob = torch.stack([a.log_prob for a in acts], 1)
    torch.testing.assert_close(dist.log_prob(action), log_prob, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(value, torch.stack([a.value for a in acts], 1), atol=1e-5, rtol=1e-4)
    for key, space in ACTIONS.items():
        for sample in action[key].detach().flatten(0, 1).numpy():
            assert space.contains(sample.astype(space.dtype)), key


@pytest.mark.parametrize("separate", [False, True])
def test_value_is_that_of_a_step_and_keeps_the_memory(separate: bool):
    agent = policy(separate_critic=separate)
    obs, start = observe(3), torch.tensor([True, False, False])
    state = tree.map(torch.randn_like, agent.initial_state(3))
    before = tree.map(torch.clone, state)
    torch.testing.assert_close(
        agent.value(obs, state, start), agent.act_with_value(obs, state, start).value
    )
    assert all(map(torch.equal, tree.leaves(state), tree.leaves(before)))


def test_a_separate_critic_shares_no_parameters_with_the_actor():
    agent, start = policy(separate_critic=True), torch.rand(3, 6) < 0.3
    critic = set(agent.critic_parameters())
    assert critic < set(agent.parameters())
    dist, value = agent(observe(3, 6), agent.initial_state(3), start)
    actor = set(agent.parameters()) - critic
    for loss, trained in ((value.sum(), critic), (dist.entropy().sum(), actor)):
        agent.zero_grad()
        loss.backward()
        moved = {p for p in agent.parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert moved
        assert moved <= trained
    assert policy().critic_parameters() == []


def test_deterministic_actions_are_the_mode():
    agent = policy()
    obs, state, start = observe(3), agent.initial_state(3), torch.ones(3, dtype=torch.bool)
    first = agent.act(obs, state, start, deterministic=True).action
    second = agent.act(obs, state, start, deterministic=True).action
    assert all(torch.equal(first[key], second[key]) for key in ACTIONS)


@pytest.mark.parametrize("key", OBSERVATIONS)
def test_every_entry_of_an_observation_changes_the_features(key: str):
    encoder = LeafEncoder({key: OBSERVATIONS[key]}, output_size=16, layers=1, activation="tanh")
    obs = observe(1)[key]
    flat = obs.flatten()
    base = encoder({key: obs})
    for i in range(0, flat.numel(), max(1, flat.numel() // 20)):
        other = flat.clone()
        other[i] = 1 - other[i] if other[i] <= 1 else 0
        assert not torch.equal(encoder({key: other.reshape(obs.shape)}), base), i


def test_discrete_values_are_one_hot():
    encoder = LeafEncoder({"a": spaces.MultiDiscrete([2, 3])}, 5, layers=1, activation="tanh")
    encoded: list[torch.Tensor] = []
    encoder.mlp.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0]))
    encoder({"a": torch.tensor([[1, 0], [0, 2]])})
    assert encoded[0].tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


def test_the_first_policy_is_nearly_uniform():
    agent = policy()
    dist, _ = agent(observe(4, 5), agent.initial_state(4), torch.zeros(4, 5, dtype=torch.bool))
    move = dist.parts["action.move"].entropy()
    torch.testing.assert_close(move, torch.full((4, 5), 5.0).log(), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Box(0, 9, (2,), np.int64), "must have a float dtype"),
    ],
)
def test_unsupported_action_spaces_are_refused(space: spaces.Space, message: str):
    with pytest.raises(UsageError, match=message):
        make_leaf(space)


def test_discrete_actions_have_the_shape_and_first_values_of_their_space():
    actions: dict[str, spaces.Space] = {
        "move": spaces.Discrete(3, start=-1),
        "cell": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [7, -2]]),
        "keys": spaces.MultiBinary((2, 2)),
    }
    agent = ActorCritic({"obs": spaces.Box(-1, 1, (2,))}, actions, core="gru", hidden_size=8)
    torch.nn.init.normal_(agent.actor.out.weight, std=0.2)
    obs, start = {"obs": torch.rand(300, 2)}, torch.ones(300, dtype=torch.bool)
    with torch.no_grad():
        act = agent.act_with_value(obs, agent.initial_state(300), start)
        best = agent.act(obs, agent.initial_state(300), start, deterministic=True).action
    for action in (act.action, best):
        for key, space in actions.items():
            for sample in action[key].numpy():
                assert space.contains(sample.astype(space.dtype)), key
    assert set(act.action["move"].tolist()) == {-1, 0, 1}
    # The log-probability is that of the same logits over values from 0.
    features = agent.core.step(agent.encoder(obs), agent.initial_state(300), start)[0]
    logits = agent.actor.out(agent.actor.mlp(features)).split([3, 2, 3, 4, 5] + [2] * 4, -1)
    entries = [
        act.action["move"] + 1,
        *(act.action["cell"] - torch.tensor([[1, 0], [7, -2]])).flatten(1).unbind(1),
        *act.action["keys"].flatten(1).unbind(1),
    ]
    each = [
        part.log_softmax(-1).gather(1, entry.long()[:, None])[:, 0]
        for part, entry in zip(logits, entries, strict=True)
    ]
    torch.testing.assert_close(act.log_prob, torch.stack(each).sum(0))


def test_discrete_observations_are_one_hot_from_their_first_value():
    observations: dict[str, spaces.Space] = {
        "a": spaces.Discrete(3, start=5),
        "b": spaces.MultiDiscrete([[2, 2]], start=[[1, -1]]),
    }
    encoder = LeafEncoder(observations, 5, layers=1, activation="tanh")
    encoded: list[torch.Tensor] = []
    encoder.mlp.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0]))
    encoder({"a": torch.tensor([5, 7]), "b": torch.tensor([[[1, 0]], [[2, -1]]])})
    assert encoded[0].tolist() == [[1, 0, 0, 1, 0, 0, 1], [0, 0, 1, 0, 1, 1, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": -1}, "hidden_size must be an integer of at least 1, not -1"),
        ({"layers": 0}, "layers must be"),
        ({"encoder_layers": 0}, "encoder_layers must be"),
        ({"head_layers": -1}, "head_layers must be"),
        ({"activation": "tahn"}, "did you mean tanh"),
        ({"core": "grru"}, "unknown core 'grru'; did you mean gru"),
        ({"core_options": {"memory": 3}}, "unknown option of core 'ffm'"),
    ],
)
def test_bad_options_get_a_clear_message(options: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        ActorCritic({"obs": spaces.Discrete(2)}, {"action": spaces.Discrete(2)}, **options)  # type: ignore[arg-type]
