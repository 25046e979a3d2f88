"""Images and grids: which spaces are read as such, and what their convolutions read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlmem.policies import ActorCritic, describe_inputs
from rlmem.policies.encoders import LeafEncoder
from rlmem.policies.images import Convolutions, ImageLayout, image_layout


def box(
    *shape: int, dtype: type = np.uint8, low: float = 0, high: float | None = None
) -> spaces.Box:
    return spaces.Box(low, 255 if high is None else high, shape, dtype)


def layout_of(space: spaces.Space) -> ImageLayout:
    layout = image_layout(space)
    assert layout is not None
    return layout


def encoder(space: spaces.Space) -> LeafEncoder:
    return LeafEncoder({"obs": space}, output_size=16, layers=1, activation="tanh")


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (box(3, 84, 84), "uint8 CHW image 3x84x84 → convolution"),
        (box(4, 84, 84), "uint8 CHW image 4x84x84 → convolution"),
        (box(84, 84, 3), "uint8 HWC image 84x84x3 → convolution"),
        (box(84, 84, 1), "uint8 HWC image 84x84x1 → convolution"),
        (box(1, 84, 84), "uint8 CHW image 1x84x84 → convolution"),
        (box(84, 84), "uint8 HW image 84x84 → convolution"),
        (box(210, 160, 3), "uint8 HWC image 210x160x3 → convolution"),
        (box(3, 210, 160), "uint8 CHW image 3x210x160 → convolution"),
        (box(4, 84, 84, 3), "uint8 FHWC image 4x84x84x3 → convolution"),
        (box(4, 3, 84, 84), "uint8 FCHW image 4x3x84x84 → convolution"),
        (box(64, 64, 3, dtype=np.float32, high=1), "float32 HWC image 64x64x3 → convolution"),
        (box(64, 64, 3, dtype=np.float32), "float32 HWC image 64x64x3 → convolution"),
        (box(64, 64, dtype=np.float32, high=1), "float32 HW image 64x64 → convolution"),
        (
            box(3, 64, 64, dtype=np.float32, low=-1, high=1),
            "float32 CHW image 3x64x64 → convolution",
        ),
        (
            box(64, 64, 3, dtype=np.float32, low=-np.inf, high=np.inf),
            "float32 HWC image 64x64x3 → convolution",
        ),
        (box(16, 16, 3), "uint8 HWC grid 16x16x3 → small convolution"),
        (box(7, 7, 20), "uint8 HWC grid 7x7x20 → small convolution"),
        (box(10, 10, 4, dtype=np.float32, high=1), "float32 HWC grid 10x10x4 → small convolution"),
        (box(4, 7, 7, 3), "uint8 FHWC grid 4x7x7x3 → small convolution"),
        (box(8, 8, high=12), "uint8 HW grid 8x8 → embedding of 13 values, small convolution"),
        (box(4, 128), "uint8 array 4x128 → 512 inputs, not scaled"),
        (box(128), "uint8 vector of 128 → 128 inputs, not scaled"),
        (box(2, 2, dtype=np.float32, low=-1, high=1), "float32 array 2x2 → 4 inputs, not scaled"),
        (box(5, 4, dtype=np.float32, high=1), "float32 array 5x4 → 20 inputs, not scaled"),
        (box(dtype=np.float32, high=1), "float32 number → 1 inputs, not scaled"),
        (spaces.Discrete(4), "Discrete → one-hot, 4 inputs"),
        (spaces.MultiDiscrete([2, 3]), "MultiDiscrete with 2 entries → one-hot, 5 inputs"),
    ],
    ids=str,
)
def test_every_leaf_is_described(space: spaces.Space, text: str):
    made = encoder(space)
    assert made.describe() == {"obs": text}
    assert len(made.convolutions) == ("convolution" in text)


def test_a_policy_describes_its_inputs_line_by_line():
    observations: dict[str, spaces.Space] = {
        "obs.image": box(3, 84, 84),
        "obs.speed": spaces.Box(0, 1, (2,)),
    }
    policy = ActorCritic(observations, {"action": spaces.Discrete(2)}, hidden_size=8)
    assert describe_inputs(policy) == (
        "obs.image: uint8 CHW image 3x84x84 → convolution\n"
        "obs.speed: float32 vector of 2 → 2 inputs, not scaled"
    )


def brightness(space: spaces.Space, x: torch.Tensor) -> torch.Tensor:
    """The input of the first convolution for observations `x`."""
    convolutions = Convolutions(layout_of(space), 16)
    seen: list[torch.Tensor] = []
    convolutions.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    convolutions(x)
    return seen[0]


@pytest.mark.parametrize(
    ("space", "offset", "factor"),
    [
        (box(24, 32, 3), 0, 255),
        (box(24, 32, 3, dtype=np.float32), 0, 255),
        (box(24, 32, 3, dtype=np.float32, high=1), 0, 1),
        (box(24, 32, 3, dtype=np.float32, low=-1, high=1), -1, 2),
        (box(24, 32, 3, high=1), 0, 1),
        (box(16, 16, 3), 0, 255),
    ],
)
def test_convolutions_read_brightness_from_0_to_1(space: spaces.Box, offset: int, factor: int):
    x = torch.as_tensor(np.stack([space.sample() for _ in range(5)]))
    seen = brightness(space, x)
    assert seen.shape == (5, 3, *space.shape[:2])
    torch.testing.assert_close(seen, (x.movedim(-1, 1).float() - offset) / factor)
    assert seen.amin() >= 0
    assert 0.95 < seen.amax() <= 1


@pytest.mark.parametrize("shape", [(84, 84, 1), (84, 84, 3), (4, 20, 30, 3), (12, 9, 2)])
def test_all_orders_of_the_dimensions_are_the_same_image(shape: tuple[int, ...]):
    last = torch.randint(256, (2, 3, *shape), dtype=torch.uint8)
    first = last.movedim(-1, -3)
    one = Convolutions(layout_of(box(*shape)), 16)
    other = Convolutions(layout_of(box(*first.shape[2:])), 16)
    other.load_state_dict(one.state_dict())
    assert one(last).shape == (2, 3, 16)
    torch.testing.assert_close(one(last), other(first))
    if shape[-1] == 1:
        grey = Convolutions(layout_of(box(*shape[:-1])), 16)
        grey.load_state_dict(one.state_dict())
        torch.testing.assert_close(one(last), grey(last.squeeze(-1)))


def test_stacked_frames_are_channels_in_the_order_of_time():
    space = box(4, 24, 32, 3)
    x = torch.randint(256, (5, 4, 24, 32, 3), dtype=torch.uint8)
    seen = brightness(space, x)
    assert seen.shape == (5, 12, 24, 32)
    torch.testing.assert_close(seen[:, 3:6] * 255, x[:, 1].movedim(-1, 1).float())


def test_symbols_have_an_embedding_for_each_channel_and_value():
    space = spaces.Box(-2, 4, (3, 5, 2), np.int64)
    convolutions = Convolutions(layout_of(space), 16)
    assert convolutions.symbols is not None
    weight = convolutions.symbols.weight
    assert weight.shape == (2 * 7, 16)
    seen: list[torch.Tensor] = []
    convolutions.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randint(-2, 5, (4, 3, 5, 2))
    convolutions(x)
    cell = x[1, 2, 3]
    by_hand = weight[cell[0] + 2] + weight[7 + cell[1] + 2]
    torch.testing.assert_close(seen[0][1, :, 2, 3], by_hand)


@pytest.mark.parametrize("space", [box(16, 16, 3), box(7, 7, high=10), box(3, 24, 32), box(24, 24)])
def test_every_entry_changes_the_features_and_its_weights_learn(space: spaces.Box):
    made = encoder(space)
    low, high = int(space.low.min()), int(space.high.max())
    x = torch.randint(low, high + 1, (1, *space.shape), dtype=torch.uint8)
    base, flat = made({"obs": x}), x.flatten()
    for i in range(0, len(flat), max(1, len(flat) // 20)):
        other = flat.clone()
        other[i] = (int(other[i]) + (high - low) // 2) % (high + 1)
        assert not torch.equal(made({"obs": other.reshape(x.shape)}), base), i
    made({"obs": x}).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.convolutions.parameters())


def test_features_of_a_grid_do_not_fade_with_small_numbers():
    # A grid of bytes may hold numbers of 0 to 10 only.
    made = encoder(box(7, 7, 3))
    x = torch.randint(1, 11, (64, 7, 7, 3), dtype=torch.uint8)
    features = made({"obs": x})
    assert features.std(0).mean() > 0.1


def test_images_of_uint8_hwc_have_the_weights_and_features_of_before():
    made = encoder(box(24, 32, 3))
    convolutions = made.convolutions[0]
    assert set(convolutions.state_dict()) == {
        f"layers.{i}.{name}" for i in (0, 2, 4, 8) for name in ("weight", "bias")
    }
    x = torch.randint(256, (5, 24, 32, 3), dtype=torch.uint8)
    before = convolutions.layers(x.movedim(-1, 1).float() / 255)
    assert torch.equal(convolutions(x), before)


@pytest.mark.learning
@pytest.mark.parametrize("space", [box(3, 24, 24), box(9, 9, 3)], ids=str)
def test_an_encoder_learns_where_a_bright_patch_is(space: spaces.Box):
    made, head = encoder(space), torch.nn.Linear(16, 1)
    adam = torch.optim.Adam([*made.parameters(), *head.parameters()], lr=3e-3)
    depth, height, width = layout_of(space).shape
    errors = []
    for _ in range(80):
        images, right = torch.randint(128, (64, height, width, depth)), torch.rand(64) < 0.5
        images[right, 1:4, -4:-1] += 127
        images[~right, 1:4, 1:4] += 127
        x = images.movedim(-1, 1) if space.shape[0] == depth else images
        guess = head(made({"obs": x.to(torch.uint8)}))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(guess, right.float())
        adam.zero_grad()
        loss.backward()
        adam.step()
        errors.append(loss.item())
    assert sum(errors[-10:]) / 10 < 0.2 * math.log(2), errors[-10:]
