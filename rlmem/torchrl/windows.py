"""One state for a window of steps, where a state for each of them is too much to keep."""

from __future__ import annotations

from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs.transforms import Transform

from rlmem.errors import UsageError, positive
from rlmem.torchrl.keys import next_key
from rlmem.torchrl.memory import MemoryModule


class WindowStates(Transform):
    """Transform of a replay buffer whose items are windows with the first of their states alone.

    `extend` takes batches [B, T] of which T is a multiple of `window`, and makes B T / window items
    of them; `sample` gives batches [N, window]. There the states (and next states) of a window are
    one tensor, seen from each step: without a copy, and true of the first step only. So `modules`
    must have been made with `stored="rows"`.
    """

    def __init__(self, *modules: MemoryModule, window: int) -> None:
        super().__init__()
        self.window = positive("window", window)
        for module in modules:
            if module.stored != "rows":
                raise UsageError('WindowStates needs modules made with stored="rows"')
        roots = [key for module in modules for key in module.state_keys]
        self.keys = [*roots, *map(next_key, roots)]

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Windows [B T / window] of rows [B, T]."""
        if tensordict.ndim != 2 or tensordict.shape[1] % self.window:
            raise UsageError(
                f"WindowStates cuts rows [B, T] into windows of {self.window} steps; a batch "
                f"{list(tensordict.shape)} is none of them"
            )
        windows = tensordict.reshape(-1, self.window)
        firsts = {
            key: states[:, 0].clone()
            for key in self.keys
            if (states := windows.get(key, None)) is not None
        }
        rest = windows.exclude(*firsts)
        items = rest.apply(lambda leaf: leaf, batch_size=rest.batch_size[:1])
        for key, first in firsts.items():
            items.set(key, first)
        return items

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Batches [N, window] of windows [N]."""
        batch = (*tensordict.batch_size, self.window)

        def seen(key: NestedKey, leaf: Tensor) -> Tensor:
            # What the buffer itself notes of a window ("index") has no more dimensions than it.
            if leaf.dim() == tensordict.ndim or key in self.keys:
                return leaf.unsqueeze(len(batch) - 1).expand(*batch, *leaf.shape[len(batch) - 1 :])
            return leaf

        return tensordict.named_apply(seen, nested_keys=True, batch_size=batch)
