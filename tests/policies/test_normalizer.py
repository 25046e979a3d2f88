"""Running moments against exact ones, and the leaves that are normalised."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem import envs
from rlmem.errors import UsageError
from rlmem.policies import ActorCritic, describe_inputs
from rlmem.policies.normalizer import Normalizer, RunningMoments, normalized_leaves, normalizers
from rlmem.spaces.unit_box import UnitBox

ACTIONS: dict[str, spaces.Space] = {"action": spaces.Discrete(2)}
FREE = spaces.Box(-np.inf, np.inf, (3,))


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_moments_are_those_of_all_numbers(offset: float, scale: float) -> None:
    x = offset + scale * torch.randn(1000, 3)
    moments = RunningMoments(3)
    for batch in x.split([1, 2, 300, 600, 97]):
        moments.update(batch)
    exact = x.double()
    torch.testing.assert_close(moments.mean, exact.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.variance, exact.var(0, correction=0), rtol=1e-9, atol=0)
    assert moments.count.tolist() == [1000.0] * 3


def test_moments_of_two_processes_are_merged() -> None:
    x = 5 + 3 * torch.randn(500, 2)
    whole, one, other = RunningMoments(2), RunningMoments(2), RunningMoments(2)
    whole.update(x)
    one.update(x[:100])
    other.update(x[100:])
    one.merge(other.count, other.mean, other.m2)
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(one.get_buffer(name), buffer, rtol=1e-12, atol=1e-12)
    empty = RunningMoments(2)
    one.merge(empty.count, empty.mean, empty.m2)
    torch.testing.assert_close(one.m2, whole.m2)
    empty.merge(whole.count, whole.mean, whole.m2)
    assert torch.equal(empty.m2, whole.m2), "the guess is not counted"


def test_a_guess_holds_until_the_first_update() -> None:
    moments = RunningMoments(3)
    assert moments.deviation.tolist() == [1, 1, 1]
    moments.guess(torch.tensor([[3000.0, 0.1, torch.nan], [4000.0, -0.1, 1.0]]))
    # The root mean square, but numbers are never enlarged.
    torch.testing.assert_close(moments.deviation, torch.tensor([12.5e6, 1, 1]).double().sqrt())
    x = torch.randn(50, 3)
    moments.update(x)
    after = moments.deviation
    torch.testing.assert_close(after, x.double().std(0, correction=0))
    moments.guess(1000 * x)
    assert torch.equal(moments.deviation, after)


def test_an_entry_that_is_not_finite_is_left_out_of_its_statistics() -> None:
    moments, x = RunningMoments(2), torch.randn(20, 2)
    moments.update(x)
    before = moments.variance
    moments.update(torch.tensor([[torch.inf, 1.0], [0.0, 2.0]]))
    assert moments.count.tolist() == [20, 22]
    assert moments.variance[0] == before[0]
    exact = torch.cat([x[:, 1], torch.tensor([1.0, 2.0])]).double()
    torch.testing.assert_close(moments.variance[1], exact.var(correction=0))


def test_constant_numbers_become_zero() -> None:
    normalizer = Normalizer({"obs": FREE})
    normalizer.observe({"obs": torch.tensor([[0.0, 5.0, 1e6]]).expand(9, 3)})
    seen = normalizer({"obs": torch.tensor([[0.0, 5.0, 1e6], [1.0, 6.0, 2e6]])})["obs"]
    assert seen.tolist() == [[0, 0, 0], [10, 10, 10]], "later changes are clipped"


@pytest.mark.parametrize("clip", [None, 2.0])
def test_leaves_are_in_units_of_their_deviation(clip: float | None) -> None:
    leaves: dict[str, spaces.Space] = {"a": FREE, "b": spaces.Box(-99, 99, (2, 2)), "c": FREE}
    leaves["d"] = spaces.Box(0, 255, (), np.uint8)
    normalizer = Normalizer(leaves, clip)
    obs = {
        "a": 1000 * torch.randn(40, 8, 3),
        "b": 3 + torch.randn(40, 8, 2, 2),
        "c": 1e-3 * torch.randn(40, 8, 3) + 7,
        "d": torch.randint(255, (40, 8), dtype=torch.uint8),
        "other": torch.arange(320).reshape(40, 8),
    }
    normalizer.observe(obs)
    seen = normalizer(obs)
    assert seen["other"] is obs["other"]
    for key in leaves:
        x = obs[key].double()
        exact = (x - x.mean((0, 1))) / x.std((0, 1), correction=0)
        exact = exact if clip is None else exact.clamp(-clip, clip)
        assert seen[key].dtype == torch.float32
        torch.testing.assert_close(seen[key], exact.float())
    one_step = normalizer({key: leaf[:, 0] for key, leaf in obs.items()})
    torch.testing.assert_close(one_step["b"], seen["b"][:, 0])


SPACES: dict[str, spaces.Space] = {
    "free": FREE,
    "wide": spaces.Box(np.array([-1, -10.5], np.float32), np.array([1, 1], np.float32)),
    "memory": spaces.Box(0, 255, (128,), np.uint8),
    "half": spaces.Box(0, np.inf, ()),
    "ten": spaces.Box(-10, 10, (3,)),
    "unit": UnitBox(-np.inf, np.inf, (3,), np.float32),
    "image": spaces.Box(0, 255, (84, 84, 3), np.uint8),
    "float_image": spaces.Box(-np.inf, np.inf, (32, 32, 3)),
    "grid": spaces.Box(0, 255, (7, 7, 3), np.uint8),
    "card": spaces.Discrete(100),
    "cards": spaces.MultiDiscrete([100, 100]),
    "bits": spaces.MultiBinary(4),
}


@pytest.mark.parametrize(
    ("mode", "leaves"),
    [
        ("auto", ["free", "wide", "memory", "half"]),
        (True, ["free", "wide", "memory", "half", "ten", "unit"]),
        (False, []),
    ],
)
def test_the_normalised_leaves(mode: Any, leaves: list[str]) -> None:
    assert list(normalized_leaves(SPACES, mode)) == leaves
    policy = ActorCritic(SPACES, ACTIONS, core="none", hidden_size=4, normalize_obs=mode)
    found = normalizers(policy)
    assert [key for each in found for key in each.keys] == leaves
    lines = describe_inputs(policy).splitlines()
    assert [line.partition(":")[0] for line in lines if line.endswith(", normalised")] == leaves


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_obs": "yes"}, "normalize_obs must be auto, true or false, not 'yes'"),
        ({"clip_obs": 0.0}, "clip_obs must be above 0 or null, not 0.0"),
    ],
)
def test_bad_options_get_a_clear_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ActorCritic(SPACES, ACTIONS, core="none", hidden_size=4, **options)


# Environments whose numbers are of the size of 1 by design: their results stay as they were.
SMALL = [name for name in envs.names() if name not in ("gym", "masked", "minigrid-memory")]
SMALL = [name for name in SMALL if not name.startswith(("meta-dmc", "meta-half", "meta-metaworld"))]


@pytest.mark.parametrize("name", SMALL)
def test_no_environment_on_tensors_is_normalised(name: str) -> None:
    env = envs.make(name, num_envs=1)
    assert normalized_leaves(env.observation_space, "auto") == {}
    policy = ActorCritic(env.observation_space, env.action_space, core="none", hidden_size=4)
    assert not any("normalizer" in key for key in policy.state_dict())
    parts = {key.partition(".")[0] for key in policy.encoder.state_dict()}
    assert parts <= {"mlp", "convolutions"}


def test_actor_and_critic_memories_share_no_statistics_but_see_the_same() -> None:
    policy = ActorCritic({"obs": FREE}, ACTIONS, separate_critic=True, core="gru", hidden_size=4)
    both = normalizers(policy)
    assert len(both) == 2
    obs = {"obs": 100 * torch.randn(6, 3)}
    for each in both:
        each.observe(obs)
    assert torch.equal(both[0](obs)["obs"], both[1](obs)["obs"])


def test_statistics_stay_float64_and_travel_with_copies() -> None:
    policy = ActorCritic({"obs": FREE}, ACTIONS, core="gru", hidden_size=4)
    normalizer = normalizers(policy)[0]
    normalizer.observe({"obs": 1000 * torch.randn(70_000, 3)})
    before = {key: leaf.clone() for key, leaf in normalizer.state_dict().items()}
    other = copy.deepcopy(policy).to(torch.float16)
    for key, leaf in normalizers(other)[0].state_dict().items():
        assert torch.equal(leaf, before[key]), key
    fresh = ActorCritic({"obs": FREE}, ACTIONS, core="gru", hidden_size=4)
    fresh.load_state_dict(policy.state_dict())
    obs = {"obs": torch.randn(5, 3)}
    start = torch.ones(5, dtype=torch.bool)
    values = [each.value(obs, each.initial_state(5), start) for each in (policy, fresh)]
    assert torch.equal(*values)
