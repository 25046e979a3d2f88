"""Laws of all registered encoders, and the choice of one by a user."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlmem.errors import UsageError
from rlmem.policies import ActorCritic, describe_inputs
from rlmem.policies.encoders import Encoder, make, names
from rlmem.policies.encoders.choice import ModuleEncoder, encoder_name, make_encoder
from rlmem.policies.encoders.impala import ImpalaImage
from tests.policies.encoders import custom

CUSTOM = f"{custom.__name__}:Flat"
SPACES: dict[str, spaces.Space] = {
    "image": spaces.Box(0, 255, (24, 32, 3), np.uint8),
    "grid": spaces.Box(0, 255, (7, 7, 2), np.uint8),
    "card": spaces.Discrete(4, start=2),
    "board": spaces.MultiDiscrete([3, 5]),
    "angle": spaces.Box(-1, 1, (2, 2)),
    "speed": spaces.Box(-np.inf, np.inf, ()),
}
ACTIONS: dict[str, spaces.Space] = {"action": spaces.Discrete(2)}
ENCODERS = [*names(), CUSTOM]


def build(name: str, size: int = 16) -> Encoder:
    torch.manual_seed(1)
    return make_encoder(name, SPACES, size, 1, "leaky_relu")


def observe(*shape: int) -> dict[str, Tensor]:
    return {
        "image": torch.randint(256, (*shape, 24, 32, 3), dtype=torch.uint8),
        "grid": torch.randint(256, (*shape, 7, 7, 2), dtype=torch.uint8),
        "card": torch.randint(2, 6, shape),
        "board": torch.stack([torch.randint(n, shape) for n in (3, 5)], -1),
        "angle": torch.rand(*shape, 2, 2),
        "speed": torch.randn(shape),
    }


def same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_features_have_the_batch_of_the_observations(name: str) -> None:
    encoder, obs = build(name), observe(3, 5)
    row = encoder(obs)
    assert row.shape == (3, 5, 16)
    assert row.dtype == torch.float32
    for t in range(5):
        same(encoder({key: leaf[:, t] for key, leaf in obs.items()}), row[:, t])
    start = torch.zeros(3, 5, dtype=torch.bool)
    assert torch.equal(encoder.encode_row(obs, start), row)
    assert torch.equal(
        encoder.encode_step({key: leaf[:, 0] for key, leaf in obs.items()}, start[:, 0]),
        encoder({key: leaf[:, 0] for key, leaf in obs.items()}),
    )


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_do_not_depend_on_each_other(name: str) -> None:
    encoder, obs = build(name), observe(6)
    features = encoder(obs)
    same(encoder({key: leaf[2:4] for key, leaf in obs.items()}), features[2:4])
    other = observe(6)
    for key, leaf in other.items():
        leaf[0] = obs[key][0]
    changed = encoder(other)
    same(changed[0], features[0])
    assert not torch.allclose(changed[1], features[1])


@pytest.mark.parametrize("key", SPACES)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_leaf_changes_the_features(name: str, key: str) -> None:
    encoder, obs = build(name), observe(4)
    assert not torch.allclose(encoder({**obs, key: observe(4)[key]}), encoder(obs))


@pytest.mark.parametrize("name", ENCODERS)
def test_all_parameters_learn(name: str) -> None:
    encoder = build(name)
    encoder(observe(64)).square().sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", ENCODERS)
def test_copies_and_saved_weights_are_the_same_encoder(name: str) -> None:
    encoder, obs = build(name), observe(2)
    twin = copy.deepcopy(encoder)
    assert torch.equal(twin(obs), encoder(obs))
    nn.init.zeros_(next(twin.parameters()))
    assert not torch.equal(twin(obs), encoder(obs))
    torch.manual_seed(2)
    fresh = make_encoder(name, SPACES, 16, 1, "leaky_relu")
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(fresh(obs), encoder(obs))


@pytest.mark.parametrize("name", names())
def test_float64_parameters_give_the_same_features(name: str) -> None:
    encoder, obs = build(name), observe(2)
    exact = copy.deepcopy(encoder).double()(obs)
    assert exact.dtype == torch.float64
    same(exact.float(), encoder(obs))


@pytest.mark.parametrize("name", ENCODERS)
def test_an_exported_encoder_gives_the_same_features(name: str) -> None:
    encoder = build(name).eval()
    batch = {key: {0: torch.export.Dim("batch", min=2)} for key in SPACES}
    exported = torch.export.export(encoder, (observe(3),), dynamic_shapes=(batch,)).module()
    for size in (2, 5):
        obs = observe(size)
        same(exported(obs), encoder(obs))


@pytest.mark.parametrize("name", ENCODERS)
def test_statistics_are_applied_before_the_encoder(name: str) -> None:
    options = {"encoder": name, "core": "gru", "hidden_size": 8, "normalize_obs": "auto"}
    policy = ActorCritic(SPACES, ACTIONS, **options)
    normalizer = policy.encoder.normalizer
    assert normalizer is not None
    assert normalizer.keys == ("speed",)
    seen: list[dict[str, Tensor]] = []
    encode = policy.encoder.encode
    policy.encoder.encode = lambda obs: seen.append(obs) or encode(obs)  # type: ignore[method-assign]
    obs = {**observe(50), "speed": 7 + 1000 * torch.randn(50)}
    normalizer.observe(obs)
    policy.encoder(obs)
    assert seen[0]["speed"].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(seen[0]["angle"], obs["angle"])


@pytest.mark.parametrize("name", ENCODERS)
def test_policies_take_every_encoder(name: str) -> None:
    options = {"encoder": name, "core": "gru", "hidden_size": 8, "separate_critic": True}
    policy = ActorCritic(SPACES, ACTIONS, **options)
    start = torch.zeros(2, 4, dtype=torch.bool)
    dist, value = policy(observe(2, 4), policy.initial_state(2), start)
    (dist.log_prob({"action": torch.ones(2, 4).long()}).sum() + value.sum()).backward()
    assert len(describe_inputs(policy).splitlines()) == len(SPACES)


def test_the_network_of_impala_is_that_of_the_paper() -> None:
    encoder = make(
        "impala", spaces={"obs": spaces.Box(0, 255, (72, 96, 3), np.uint8)}, output_size=8
    )
    (image,) = encoder.convolutions  # type: ignore[union-attr]
    assert isinstance(image, ImpalaImage)
    convolutions = [each for each in image.modules() if isinstance(each, nn.Conv2d)]
    # 15 convolutional layers: three sections of one and two blocks of two (figure 3).
    assert [each.out_channels for each in convolutions] == [16] * 5 + [32] * 10
    last = image.layers[-1]
    assert isinstance(last, nn.Linear)
    assert last.in_features == 32 * 9 * 12
    assert encoder.describe()["obs"].endswith("→ residual network of 16, 32, 32 channels")  # type: ignore[operator,union-attr]


def test_residual_blocks_add_to_their_input() -> None:
    space = {"obs": spaces.Box(0, 255, (24, 24, 1), np.uint8)}
    encoder = make("impala", spaces=space, output_size=4, channels=[3], blocks=1)
    image = encoder.convolutions[0]  # type: ignore[union-attr,index]
    first, pool, block, *_ = image.layers
    x = torch.rand(2, 3, 6, 6)
    same(block(x), x + block.second(torch.relu(block.first(torch.relu(x)))))
    assert pool(first(torch.rand(2, 1, 24, 24))).shape == (2, 3, 12, 12)


def test_tokens_have_embeddings_and_no_order() -> None:
    space = {"obs": spaces.Box(0, 255, (5, 5, 2), np.uint8)}
    default = make("default", spaces=space, output_size=8)
    tokens = make("grid_embedding", spaces=space, output_size=8, embedding_size=6)
    assert default.describe()["obs"].endswith("→ small convolution")  # type: ignore[operator,union-attr]
    assert tokens.describe()["obs"].endswith("→ embedding of 256 values, small convolution")  # type: ignore[operator,union-attr]
    table = tokens.convolutions[0].symbols  # type: ignore[union-attr,index]
    assert table.weight.shape == (2 * 256, 6)
    cells: list[Tensor] = []
    tokens.convolutions[0].layers.register_forward_pre_hook(  # type: ignore[union-attr,index]
        lambda _, given: cells.append(given[0])
    )
    obs = torch.randint(256, (3, 5, 5, 2), dtype=torch.uint8)
    tokens({"obs": obs})
    expected = table.weight[obs[..., 0].long()] + table.weight[256 + obs[..., 1].long()]
    same(cells[0].movedim(1, -1), expected)


def test_named_leaves_are_tokens_whatever_their_dtype_and_size() -> None:
    # Integers of other dtypes reach policies as floats.
    space: dict[str, spaces.Space] = {
        "map": spaces.Box(-1, 40, (21, 30)),
        "row": spaces.Box(0, 9, (1, 30)),
        "speed": spaces.Box(-1, 1, (2, 2)),
    }
    options = {"leaves": ["row", "map"], "max_values": 64}
    encoder: Any = make("grid_embedding", spaces=space, output_size=8, **options)
    assert list(encoder.layouts) == ["map", "row"]
    assert [layout.symbols for layout in encoder.layouts.values()] == [42, 10]
    obs = {
        "map": torch.randint(-1, 41, (3, 21, 30)).float(),
        "row": torch.randint(10, (3, 1, 30)).float(),
        "speed": torch.rand(3, 2, 2),
    }
    assert encoder(obs).shape == (3, 8)
    other = {**obs, "map": torch.full((3, 21, 30), -1.0)}
    assert not torch.allclose(encoder(other), encoder(obs))


NUMBERS: dict[str, spaces.Space] = {"obs": spaces.Box(-1, 1, (4,))}
PLACE = custom.__name__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "impalla"}, "unknown encoder 'impalla'; did you mean impala"),
        ({"encoder": "impala"}, "encoder 'impala' reads images, and no leaf is one: obs: Box"),
        ({"encoder": "grid_embedding"}, "'grid_embedding' reads Boxes of whole numbers"),
        (
            {"encoder": "grid_embedding", "encoder_options": {"leaves": ["ops"]}},
            "unknown leaf in encoder_options.leaves: 'ops'; did you mean obs",
        ),
        (
            {"encoder": "impala", "encoder_options": {"chanels": [1]}},
            "unknown option of encoder 'impala': 'chanels'; did you mean channels",
        ),
        (
            {"encoder": "default", "encoder_options": {"output_size": 3}},
            "unknown option of encoder 'default': 'output_size'",
        ),
        (
            {"encoder": f"{PLACE}:Flat", "encoder_options": {"again": 2}},
            r"unknown option of encoder '.*:Flat': 'again'; did you mean gain\?",
        ),
        ({"encoder": f"{PLACE}:Flta"}, f"unknown encoder in {PLACE}: 'Flta'; did you mean Flat"),
        ({"encoder": "no_such_module:Flat"}, "unknown encoder .*: no such module"),
        ({"encoder": "missing.py:Flat"}, "there is no file 'missing.py'"),
        (
            {"encoder": f"{PLACE}:Flat", "encoder_layers": 2},
            "encoder '.*:Flat' has no option layers, so encoder_layers must be 1",
        ),
        ({"encoder": f"{PLACE}:TooWide"}, r"gives \[2, 9\], not \[N, output_size\] = \[2, 8\]"),
        (
            {"encoder": f"{PLACE}:Fails"},
            r"fails on leaves obs \[2, 4\]: RuntimeError: no such thing$",
        ),
        ({"encoder": f"{PLACE}:Refuses"}, "^it refuses these spaces$"),
        ({"encoder": f"{PLACE}:not_a_module"}, "must be a torch.nn.Module, not int"),
        ({"encoder": f"{PLACE}:broken"}, "cannot make encoder '.*:broken': KeyError: 'width'"),
        (
            {"encoder": nn.Linear(4, 8), "encoder_options": {"gain": 1}},
            "encoder_options are those of a class",
        ),
        ({"encoder": nn.Linear(4, 8)}, "encoder 'Linear' fails on leaves obs"),
    ],
    ids=lambda given: str(given)[:60],
)
def test_a_wrong_encoder_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ActorCritic(NUMBERS, ACTIONS, core="gru", hidden_size=8, **options)
    assert "\n" not in str(caught.value)


def test_classes_modules_and_names_choose_the_same_encoder() -> None:
    obs = {"obs": torch.rand(3, 4)}
    found = []
    for choice in (f"{PLACE}:Flat", custom.Flat, custom.Flat(NUMBERS, 8)):
        torch.manual_seed(0)
        encoder = make_encoder(choice, NUMBERS, 8, 1, "relu")
        assert isinstance(encoder, ModuleEncoder)
        found.append(encoder)
    assert torch.equal(found[0](obs), found[1](obs))
    given = custom.Flat(NUMBERS, 8)
    policy = ActorCritic(
        NUMBERS, ACTIONS, core="gru", hidden_size=8, encoder=given, separate_critic=True
    )
    assert policy.critic_trunk is not None
    assert torch.equal(policy.encoder(obs), given(obs))
    nn.init.zeros_(given.linear.weight)
    assert not torch.equal(policy.encoder(obs), given(obs)), "a module is copied"
    shared = set(policy.encoder.parameters()) & set(policy.critic_trunk.encoder.parameters())
    assert not shared


def test_options_of_a_class_reach_its_constructor() -> None:
    options = {"gain": 3.0}
    encoder: Any = make_encoder(custom.Flat, NUMBERS, 8, 1, "relu", options)
    assert encoder.module.gain == 3.0
    anything: Any = make_encoder(custom.Anything, NUMBERS, 8, 1, "relu", {"free": 1})
    assert anything.module.rest == {"free": 1}


def test_the_name_of_a_class_finds_it_again(tmp_path: Path, monkeypatch: Any) -> None:
    assert encoder_name("impala") == "impala"
    assert encoder_name(custom.Flat) == CUSTOM
    with pytest.raises(UsageError, match="give its class instead"):
        encoder_name(custom.Flat(NUMBERS, 8))

    class Inner(custom.Flat):
        pass

    with pytest.raises(UsageError, match=r"Inner cannot be imported"):
        encoder_name(Inner)
    code = Path(custom.__file__).read_text()
    (tmp_path / "my_encoders.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for choice in ("my_encoders.py:Flat", "my_encoders:Flat"):
        encoder = make_encoder(choice, NUMBERS, 8, 1, "relu")
        assert re.search("Flat", describe(encoder))


def describe(encoder: Encoder) -> str:
    return "\n".join(encoder.describe().values())
