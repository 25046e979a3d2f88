"""What mends the targets of recurrent off-policy losses in torchrl.

`DQNLoss`, `SACLoss` and the others that bootstrap by `TD0Estimator.value_estimate` run the value
network over the `("next", ...)` entries of a batch as over one row. Two things are wrong there:

- `("next", "is_init")` is False at every step, so that what follows the start of an episode or a
  slice is read as if it went on with the one before. `NextStarts` marks it.
- At a start the state is loaded that is stored under `("next", key)`, after the first observation.
  `LSTMModule` and `GRUModule` have overwritten it by then, with zeros. `KeepNextStates` around one
  of them leaves it as it is; `MemoryModule` does so by itself.
"""

from __future__ import annotations

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.transforms import Transform

from rlmem.errors import UsageError, positive


class NextStarts(Transform):
    """Transform of a replay buffer: the next step of a start is a start as well.

    `("next", init_key)` becomes True wherever `init_key` is: there the next state is loaded, as
    the state is at the root. Needs the states and next states in the buffer (a primer puts them
    there).

    `SliceSampler` marks the starts of its slices in flat batches [N] only after the transforms of
    the buffer have run: give `slice_len`, all slices' length, or call the transform on what
    `buffer.sample()` returns.
    """

    def __init__(self, init_key: NestedKey = "is_init", slice_len: int | None = None) -> None:
        super().__init__()
        self.init_key = init_key
        self.slice_len = slice_len if slice_len is None else positive("slice_len", slice_len)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Mark `tensordict`, in place."""
        start = tensordict.get(self.init_key, None)
        if start is None:
            raise UsageError(
                f"NextStarts finds no {self.init_key!r} in the sampled data: append the transform "
                "InitTracker() to the environment"
            )
        if self.slice_len is not None:
            start = start.clone()
            _slices(start, self.slice_len)[:, 0] = True
        marked = tensordict.get(("next", self.init_key), None)
        tensordict.set(("next", self.init_key), start if marked is None else start | marked)
        return tensordict


def _slices(start: Tensor, length: int) -> Tensor:
    """A flat batch [N, ...] as its slices [N / length, length, ...]: a view."""
    if len(start) % length:
        raise UsageError(f"{len(start)} steps are no slices of slice_len={length}")
    return start.unflatten(0, (-1, length))


class KeepNextStates(TensorDictModuleBase):
    """`module` (torchrl's `LSTMModule` or `GRUModule`), which keeps next states that are stored.

    In recurrent mode these modules write zeros over the next states of all steps but the last of
    each episode. What a batch has under `out_keys[1:]` stays; what it has not is left to `module`.
    """

    def __init__(self, module: TensorDictModuleBase) -> None:
        super().__init__()
        self.module = module
        self.in_keys = module.in_keys
        self.out_keys = module.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """As `module`; the next states that are there before are there after."""
        if not self.module.recurrent_mode:
            return self.module(tensordict)
        stored = {key: tensordict.get(key, None) for key in self.out_keys[1:]}
        tensordict = self.module(tensordict)
        for key, state in stored.items():
            if state is not None:
                tensordict.set(key, state)
        return tensordict
