"""Transforms and modules around a memory; they correct faults of torchrl's own.

Targets: `DQNLoss`, `SACLoss` and all other losses that bootstrap by `TD0Estimator.value_estimate`
run the value network over the `("next", ...)` entries of a batch as over one row. Two faults:

- `("next", "is_init")` is False at every step. So the next observation after the start of an
  episode or a slice continues the memory of the previous one. `NextStarts` sets the flag.
- At a start the module loads the state stored under `("next", key)`, from after the first
  observation. By then `LSTMModule` and `GRUModule` have overwritten it with zeros. A
  `KeepNextStates` around one of them prevents this; `MemoryModule` keeps next states anyway.
"""

from __future__ import annotations

from tensordict import NestedKey, TensorDictBase, unravel_key_list
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.transforms import TensorDictPrimer, Transform

from rlmem.errors import UsageError, positive
from rlmem.torchrl.keys import next_key


class StatePrimer(TensorDictPrimer):
    """Environment transform: carries the state of a memory from step to step.

    If an earlier transform (`SelectTransform`) has removed the state that the policy wrote,
    torchrl's own primer repeats the previous one, and the policy silently has no memory.
    """

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        for key in self.primers.keys(True, True):
            if next_tensordict.get(key, None) is None:
                written = tensordict.get(next_key(key), None)
                if written is not None:
                    next_tensordict.set(key, written)
        return super()._step(tensordict, next_tensordict)


class NextStarts(Transform):
    """Replay buffer transform: copies start flags to the "next" entries.

    `("next", init_key)` becomes True wherever `init_key` is True. Next states are then loaded at
    the same steps as states at the root. The buffer must hold states and next states (a primer puts
    them there).

    `SliceSampler` marks the starts of its slices in flat batches [N] only after the buffer's
    transforms have run. For these give `slice_len`, the length of all slices, or call the transform
    on the result of `buffer.sample()`.
    """

    def __init__(self, init_key: NestedKey = "is_init", slice_len: int | None = None) -> None:
        super().__init__()
        self.init_key = init_key
        self.slice_len = slice_len if slice_len is None else positive("slice_len", slice_len)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Set the flags of `tensordict`, in place."""
        start = tensordict.get(self.init_key, None)
        if start is None:
            raise UsageError(
                f"NextStarts finds no {self.init_key!r} in the sampled data: append the transform "
                "InitTracker() to the environment"
            )
        if self.slice_len is not None:
            start = start.clone()
            _as_slices(start, self.slice_len)[:, 0] = True
        marked = tensordict.get(("next", self.init_key), None)
        tensordict.set(("next", self.init_key), start if marked is None else start | marked)
        return tensordict


def _as_slices(start: Tensor, length: int) -> Tensor:
    """A view of a flat batch [N, ...] as slices [N / length, length, ...]."""
    if len(start) % length:
        raise UsageError(f"{len(start)} steps cannot be divided into slices of slice_len={length}")
    return start.unflatten(0, (-1, length))


class KeepNextStates(TensorDictModuleBase):
    """Wraps torchrl's `LSTMModule` or `GRUModule`, so that it keeps stored next states.

    In recurrent mode these modules overwrite the next states of all steps but an episode's last
    with zeros. Entries of the batch under `out_keys[1:]` are kept; `module` writes missing ones.
    """

    def __init__(self, module: TensorDictModuleBase) -> None:
        super().__init__()
        self.module = module
        self.in_keys = module.in_keys
        self.out_keys = module.out_keys

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The result of `module`, with next states that were in the batch unchanged."""
        if not self.module.recurrent_mode:
            return self.module(tensordict)
        stored = {key: tensordict.get(key, None) for key in self.out_keys[1:]}
        tensordict = self.module(tensordict)
        for key, state in stored.items():
            if state is not None:
                tensordict.set(key, state)
        return tensordict


class KeepKeys(TensorDictModuleBase):
    """Computes nothing; a network that contains it reads `keys`.

    `TD3Loss`, `TD3BCLoss`, `IQLLoss` and `CQLLoss` pass to a critic only the keys that the actor
    reads. With `KeepKeys(*critic_memory.state_keys)` in the actor these include the critic's state.
    An environment without these keys is fine.
    """

    def __init__(self, *keys: NestedKey) -> None:
        super().__init__()
        self.in_keys = unravel_key_list(list(keys))
        self.out_keys: list[NestedKey] = []

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The tensordict itself."""
        return tensordict
