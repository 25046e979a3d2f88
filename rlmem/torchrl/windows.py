"""Replay of windows with one stored state each, for cores whose states are too large to store."""

from __future__ import annotations

from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs.transforms import Transform

from rlmem.errors import UsageError, positive
from rlmem.torchrl.keys import next_key
from rlmem.torchrl.memory import MemoryModule


class WindowStates(Transform):
    """Replay buffer transform: items are windows of steps that store only their first state.

    `extend` takes batches [B, T], with T a multiple of `window`, and stores B T / window items.
    `sample` returns batches [N, window]. Their states (and next states) are the window's first
    state, expanded over its steps without a copy, and correct only for the first step. So `modules`
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
                f"WindowStates cuts rows [B, T] into windows of {self.window} steps; it cannot cut "
                f"a batch {list(tensordict.shape)}"
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

        def expanded(key: NestedKey, leaf: Tensor) -> Tensor:
            # The buffer's own entries ("index") have one value per window too.
            if leaf.dim() == tensordict.ndim or key in self.keys:
                return leaf.unsqueeze(len(batch) - 1).expand(*batch, *leaf.shape[len(batch) - 1 :])
            return leaf

        return tensordict.named_apply(expanded, nested_keys=True, batch_size=batch)
