"""The residual network of IMPALA for images (Espeholt et al. 2018, arXiv 1802.01561, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
from jaxtyping import Float
from torch import Tensor, nn

from rlmem.errors import UsageError, positive
from rlmem.policies.encoders.base import LeafEncoder, register
from rlmem.policies.images import Convolutions, ImageLayout, ImageModule

CHANNELS = (16, 32, 32)


class ResidualBlock(nn.Module):
    """`x + conv(relu(conv(relu(x))))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "M C h w"]) -> Float[Tensor, "M C h w"]:
        return x + self.second(self.first(x.relu()).relu())


class ImpalaImage(ImageModule):
    """Images [*N, ...] to [*N, output_size] by residual convolutions.

    One section for each entry of `channels`: a convolution, a maximum over 3 x 3 with stride 2, and
    `blocks` residual blocks. A linear layer reads the last feature map.
    """

    def __init__(
        self, layout: ImageLayout, output_size: int, channels: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        self.layout = layout
        depth, height, width = layout.shape
        layers: list[nn.Module] = []
        for wide in channels:
            layers += [nn.Conv2d(depth, wide, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [ResidualBlock(wide) for _ in range(blocks)]
            depth, height, width = wide, (height + 1) // 2, (width + 1) // 2
        layers += [nn.ReLU(), nn.Flatten(), nn.Linear(depth * height * width, output_size)]
        self.layers = nn.Sequential(*layers)
        self.summary = f"residual network of {', '.join(map(str, channels))} channels"

    def forward(self, x: Tensor) -> Float[Tensor, "*N H"]:
        batch = x.shape[: x.dim() - len(self.layout.channels) - 2]
        dtype = next(self.layers.parameters()).dtype
        return self.layers(self.layout.brightness(x, dtype)).unflatten(0, batch)


@register("impala")
def impala(
    spaces: Mapping[str, gym.Space],
    output_size: int,
    layers: int = 1,
    activation: str = "leaky_relu",
    channels: Sequence[int] = CHANNELS,
    blocks: int = 2,
) -> LeafEncoder:
    """The default encoder with IMPALA's residual network for images; grids stay as they are.

    Raises `UsageError` if no leaf is an image.
    """
    positive("encoder_options.blocks", blocks)
    for wide in channels:
        positive("encoder_options.channels", wide)

    def image(layout: ImageLayout, size: int) -> ImageModule:
        if layout.is_grid:
            return Convolutions(layout, size)
        return ImpalaImage(layout, size, channels, blocks)

    made = LeafEncoder(spaces, output_size, layers, activation, image=image)
    if not any(isinstance(module, ImpalaImage) for module in made.convolutions):
        raise UsageError(
            "encoder 'impala' reads images, and no leaf is one: "
            + ", ".join(f"{key}: {space}" for key, space in spaces.items())
        )
    return made
