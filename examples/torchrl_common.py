"""What the torchrl examples share: the line that is changed, and the curves they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torchrl.modules import MLP, LSTMModule

from rlmem.torchrl import MemoryModule

HIDDEN = 64


def memory(core: str, in_key: str, out_key: str) -> TensorDictModuleBase:
    """torchrl's LSTM, or the memory `core` in its place."""
    if core == "LSTMModule":
        # Two modules with the default keys would write over each other's states.
        keys = [f"{out_key}_h", f"{out_key}_c"]
        return LSTMModule(
            HIDDEN,
            HIDDEN,
            in_keys=[in_key, *keys],
            out_keys=[out_key, *[("next", key) for key in keys]],
        )
    return MemoryModule(core, HIDDEN, HIDDEN, in_key=in_key, out_key=out_key)


def dense(in_key: str | list[str], size: int, out_key: str) -> TensorDictModule:
    """A layer in front of a memory."""
    net = MLP(in_features=size, out_features=HIDDEN, num_cells=[], activate_last_layer=True)
    return TensorDictModule(net, in_keys=in_key, out_keys=[out_key])


@dataclass
class Curves:
    """Per batch of a collector: the mean return of the episodes that ended in it, the mean loss.

    Every so many batches, if `every` is not 0, a line of both is printed.
    """

    every: int = 10
    returns: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, data: TensorDictBase, losses: list[float]) -> None:
        """Note a batch that has `episode_reward` (of `RewardSum`), and print some of them."""
        ended = data["next", "done"]
        if ended.any():
            self.returns.append(data["next", "episode_reward"][ended].mean().item())
        self.losses.append(sum(losses) / len(losses))
        if self.every and len(self.losses) % self.every == 0:
            print(self, flush=True)

    def __str__(self) -> str:
        return f"batch {len(self.losses)}: return {_late(self.returns)}, loss {_late(self.losses)}"


def _late(values: list[float]) -> str:
    """The mean of the last values."""
    recent = values[-5:]
    return f"{sum(recent) / len(recent):.5f}" if recent else "-"


def whole(steps: int, batch: int) -> int:
    """`steps` as a number of whole batches, at least one."""
    return batch * max(1, round(steps / batch))


def run(train: Callable[..., Curves], steps: int, **options: int) -> None:
    """The command line of an example, with a number for each of the further `options`."""
    parser = argparse.ArgumentParser(description=train.__doc__)
    parser.add_argument("--core", default="ffm", help="a memory core, or LSTMModule: torchrl's own")
    parser.add_argument("--steps", type=int, default=steps, help="environment steps in all")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--every", type=int, default=5, help="batches for a line that is printed")
    train(**vars(parser.parse_args()))
