"""Shared code of the torchrl examples: the memory module, which is swapped, and printed curves."""

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
    """The memory core named `core`, or torchrl's LSTM for "LSTMModule"."""
    if core == "LSTMModule":
        # Two modules with the default keys would overwrite each other's states.
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
    """Learning curves: per collected batch the mean return of its ended episodes and the mean loss.

    Prints a line every `every` batches; 0 prints nothing.
    """

    every: int = 10
    returns: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, data: TensorDictBase, losses: list[float]) -> None:
        """Add a batch with the entry `episode_reward` (from `RewardSum`)."""
        ended = data["next", "done"]
        if ended.any():
            self.returns.append(data["next", "episode_reward"][ended].mean().item())
        self.losses.append(sum(losses) / len(losses))
        if self.every and len(self.losses) % self.every == 0:
            print(self, flush=True)

    def __str__(self) -> str:
        returns, losses = _recent(self.returns), _recent(self.losses)
        return f"batch {len(self.losses)}: return {returns}, loss {losses}"


def _recent(values: list[float]) -> str:
    """The mean of the last five values; "-" if there are none."""
    recent = values[-5:]
    return f"{sum(recent) / len(recent):.5f}" if recent else "-"


def round_to_batches(steps: int, batch: int) -> int:
    """`steps` rounded to a multiple of `batch`, at least one batch."""
    return batch * max(1, round(steps / batch))


def run(train: Callable[..., Curves], steps: int, **options: int) -> None:
    """The command line of an example; `options` are its additional integer arguments."""
    parser = argparse.ArgumentParser(description=train.__doc__)
    parser.add_argument("--core", default="ffm", help="a memory core, or torchrl's own LSTMModule")
    parser.add_argument("--steps", type=int, default=steps, help="total environment steps")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--every", type=int, default=5, help="print a line every so many batches")
    train(**vars(parser.parse_args()))
