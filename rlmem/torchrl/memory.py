"""Any memory core where a torchrl pipeline has its LSTMModule or GRUModule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key, unravel_key_list
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.modules.tensordict_module.rnn import recurrent_mode

from rlmem import cores
from rlmem.cores.base import MemoryCore
from rlmem.errors import UsageError, unknown
from rlmem.torchrl import rows
from rlmem.torchrl.state import Packing, Stored
from rlmem.torchrl.unmapped import unmapped

NEXT_STATES = ("missing", "always", "never")
Tensors = tuple[Tensor, ...]
Run = Callable[..., Tensors]

# Modules made so far under each default key.
_taken: Counter[NestedKey] = Counter()


class MemoryModule(TensorDictModuleBase):
    """`core`, or the core of that name made with `options`, as a recurrent module of torchrl.

    Reads `in_key` [*B, I], the state under its own keys, and `is_init`; writes `out_key` [*B, O]
    and the next state under ("next", key). In recurrent mode (`set_recurrent_mode`, or
    `default_recurrent_mode` outside of it) the last dimension of the batch is time, and the state
    is loaded at the first step and at each `is_init` where one was stored: where none was, an
    episode begins. A batch of one dimension [N], as `SliceSampler` gives, is cut into its slices
    at `is_init`, which run side by side.

    The environment needs `InitTracker()` and `make_tensordict_primer()` (`TransformedEnv(env,
    Compose(InitTracker(), module.make_tensordict_primer()))`, or `get_env_transforms_from_module`);
    a `UsageError` says so where a key is missing.

    The state is one vector of real numbers, and one of integers where the core counts (see
    `state.py`), under keys named after `out_key`: "embed" gives "embed_memory", a second module of
    the same `out_key` "embed_memory_2", in the order in which they are made. `in_keys` = [input,
    *state keys] and `out_keys` = [output, *("next", key)] name them.

    `next_states` says when the next states are computed in recurrent mode, all of them, and
    without gradients: where they are "missing" from the batch, "always", or "never". Those in the
    batch are as true as the states that it was stored with. For diagonal cores they cost nothing,
    for others about what a rollout costs.

    `hidden_size` is `output_size` by the name that torchrl gives it; `num_layers` of more than one
    makes a `stack` of cores.
    """

    def __init__(
        self,
        core: str | MemoryCore[Any] = "s5",
        input_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int = 1,
        *,
        in_key: NestedKey | None = None,
        in_keys: Sequence[NestedKey] | None = None,
        out_key: NestedKey | None = None,
        out_keys: Sequence[NestedKey] | None = None,
        default_recurrent_mode: bool | None = None,
        next_states: str = "missing",
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if next_states not in NEXT_STATES:
            raise unknown("next_states", next_states, NEXT_STATES)
        self.core = _made(core, input_size, hidden_size, num_layers, options)
        if device is not None:
            self.core.to(device)
        self.next_states = next_states
        self._recurrent_mode = default_recurrent_mode
        self._packing = Packing(self.core)
        count = 1 if self._packing.whole_size == 0 else 2
        source = _given("in", in_key, in_keys)
        target = _given("out", out_key, out_keys)
        if source[-1] == "is_init":
            source.pop()
        named = source[1:] or [_before(key) for key in target[1:]]
        self.state_keys = _checked(named, target[1:], count) or _default(target[0], count)
        self.in_keys = [source[0], *self.state_keys, "is_init"]
        self.out_keys = [target[0], *(unravel_key(("next", key)) for key in self.state_keys)]

    @property
    def recurrent_mode(self) -> bool:
        """Whether the last dimension of the batch is time."""
        mode = recurrent_mode()
        return bool(self._recurrent_mode) if mode is None else mode

    @property
    def state_spec(self) -> Composite:
        """The specs of the state's keys, of one row."""
        sizes = (self._packing.real_size, self._packing.whole_size)
        dtypes = (self.core.state_dtype, torch.int64)
        return Composite(
            {
                key: Unbounded(shape=(size,), dtype=dtype)
                for key, size, dtype in zip(self.state_keys, sizes, dtypes, strict=False)
            }
        )

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform by which an environment carries the state; zero at each episode's start."""
        return TensorDictPrimer(self.state_spec, expand_specs=True)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """One step for each entry of the batch; in recurrent mode, its rows."""
        x, start, stored = self._read(tensordict)
        lead = x.shape[:-1]
        run: Run = self._step
        rows_of: tuple[int, ...] = (-1,)
        if self.recurrent_mode:
            run, rows_of = self._rows(tensordict, lead), (-1, lead[-1])
        given = (part.reshape(*rows_of, *part.shape[len(lead) :]) for part in (x, start, *stored))
        outputs = unmapped(run, self.core, *given)
        # Where no next states were asked for, the last keys stay as they are.
        for key, part in zip(self.out_keys, outputs, strict=False):
            tensordict.set(key, part.reshape(*lead, part.shape[-1]))
        return tensordict

    def _rows(self, tensordict: TensorDictBase, lead: torch.Size) -> Run:
        """How the rows of this batch are run."""
        if not lead:
            raise UsageError("recurrent mode needs a batch whose last dimension is time")
        states = self.next_states == "always"
        if self.next_states == "missing":
            states = any(tensordict.get(key, None) is None for key in self.out_keys[1:])
        return partial(self._run, cut=len(lead) == 1, states=states)

    def _step(self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor) -> Tensors:
        stored = Stored(*vectors)
        state = self._packing.unpack(stored)
        y, state = core.step(x, state, start | ~stored.seen())
        return (y, *self._packing.pack(state).parts())

    def _run(
        self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor, **how: bool
    ) -> Tensors:
        y, after = rows.run(core, self._packing, x, start, Stored(*vectors), **how)
        return (y, *after.parts()) if after else (y,)

    def _read(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Input [*B, I], starts [*B], the state's vectors [*B, ...]; all there and in shape."""
        x = tensordict.get(self.in_keys[0])
        lead = x.shape[:-1]
        start = tensordict.get("is_init", None)
        if start is None:
            raise self._missing("is_init", "InitTracker()")
        stored = []
        for key in self.state_keys:
            vector = tensordict.get(key, None)
            if vector is None:
                raise self._missing(key, "module.make_tensordict_primer()")
            stored.append(vector)
        return x, start.reshape(lead), stored

    def _missing(self, key: NestedKey, transform: str) -> UsageError:
        return UsageError(
            f"MemoryModule finds no {key!r} in the data: append the transform {transform} to the "
            "environment; both that are needed: TransformedEnv(env, Compose(InitTracker(), "
            "module.make_tensordict_primer()))"
        )


def _made(
    core: str | MemoryCore[Any],
    input_size: int | None,
    hidden_size: int | None,
    num_layers: int,
    options: dict[str, Any],
) -> MemoryCore[Any]:
    """The core itself, or the one of that name."""
    if isinstance(core, MemoryCore):
        if input_size is not None or hidden_size is not None or num_layers != 1 or options:
            raise UsageError("a core that is made already takes no sizes and no options")
        return core
    if input_size is None:
        raise UsageError(f"core {core!r} needs input_size")
    if hidden_size is not None:
        if "output_size" in options:
            raise UsageError("hidden_size and output_size are one and the same; give one")
        options = {**options, "output_size": hidden_size}
    if num_layers == 1:
        return cores.make(core, input_size=input_size, **options)
    sizes = {"input_size": input_size, "output_size": options.pop("output_size", None)}
    return cores.make("stack", core=core, layers=num_layers, options=options, **sizes)


def _given(kind: str, key: NestedKey | None, keys: Sequence[NestedKey] | None) -> list[NestedKey]:
    """`keys`, or `key` alone; exactly one of them must be given."""
    if (key is None) == (not keys):
        raise UsageError(f"give either {kind}_key or {kind}_keys")
    return unravel_key_list([key] if keys is None else list(keys))


def _before(key: NestedKey) -> NestedKey:
    """The root key of a next state."""
    if isinstance(key, str) or key[0] != "next":
        raise UsageError(f"out_keys after the first must be ('next', key), not {key!r}")
    return unravel_key(key[1:])


def _checked(named: list[NestedKey], targets: list[NestedKey], count: int) -> list[NestedKey]:
    """The state's keys, if they are named and as many as there are."""
    if targets and [_before(key) for key in targets] != named:
        raise UsageError(f"out_keys {targets} must be ('next', key) of the in_keys {named}")
    if named and len(named) != count:
        kinds = "one of real numbers" if count == 1 else "one of real numbers, one of integers"
        raise UsageError(f"the state has {count} key(s), {kinds}; {named} were given")
    return named


def _default(target: NestedKey, count: int) -> list[NestedKey]:
    """Keys of the state named after the output, other ones for each module."""
    parts = (target,) if isinstance(target, str) else target
    name = f"{parts[-1]}_memory"
    _taken[(*parts[:-1], name)] += 1
    number = _taken[(*parts[:-1], name)]
    if number > 1:
        name = f"{name}_{number}"
    return [unravel_key((*parts[:-1], each)) for each in (name, f"{name}_counts")[:count]]
