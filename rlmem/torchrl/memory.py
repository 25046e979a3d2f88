"""Any memory core where a torchrl pipeline has its LSTMModule or GRUModule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.modules.tensordict_module.rnn import recurrent_mode

from rlmem import cores
from rlmem.cores.base import MemoryCore
from rlmem.errors import UsageError, unknown
from rlmem.torchrl import rows
from rlmem.torchrl.keys import module_keys, next_key
from rlmem.torchrl.state import Packing, Stored
from rlmem.torchrl.unmapped import unmapped

NEXT_STATES = ("missing", "always", "never")
STORED = ("steps", "rows")

Tensors = tuple[Tensor, ...]


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

    With `stored` = "rows" a state is read at the first step of each row alone; every later
    `is_init` begins an episode, and no next states are written in recurrent mode. States too large
    to be kept at each step are then kept once (see `WindowStates`). Compiled, every core is one
    graph then; with "steps" diagonal cores are, while others look at the data.

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
        stored: str = "steps",
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if next_states not in NEXT_STATES:
            raise unknown("next_states", next_states, NEXT_STATES)
        if stored not in STORED:
            raise unknown("stored", stored, STORED)
        self.core = _made(core, input_size, hidden_size, num_layers, options)
        if device is not None:
            self.core.to(device)
        self.next_states = next_states
        self.stored = stored
        self._recurrent_mode = default_recurrent_mode
        self._packing = Packing(self.core)
        states = 1 if self._packing.whole_size == 0 else 2
        source, target, keys = module_keys(in_key, in_keys, out_key, out_keys, states)
        self.state_keys = keys
        self.in_keys = [source, *keys, "is_init"]
        self.out_keys = [target, *map(next_key, keys)]

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
        specs = {
            key: Unbounded(shape=(size,), dtype=dtype)
            for key, size, dtype in zip(self.state_keys, sizes, dtypes, strict=False)
        }
        return Composite(specs)

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform by which an environment carries the state; zero where episodes begin."""
        return TensorDictPrimer(self.state_spec, expand_specs=True)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """One step for each entry of the batch; in recurrent mode, its rows."""
        x, start = tensordict.get(self.in_keys[0], None), tensordict.get("is_init", None)
        if x is None:
            raise UsageError(f"MemoryModule finds no input {self.in_keys[0]!r} in its data")
        if start is None:
            raise _missing("is_init", "InitTracker()")
        vectors = [tensordict.get(key, None) for key in self.state_keys]
        time = self.recurrent_mode
        every = not time or self.stored == "steps"
        if not every:
            vectors = [v[..., 0, :] if v is not None and v.dim() == x.dim() else v for v in vectors]
        given = self._flat(x, start, vectors, time=time, every=every)
        run: Callable[..., Tensors] = self._step
        if time:
            run = self._how(tensordict, x) if every else self._first
        outputs = unmapped(run, self.core, *given)
        # Where no next states were asked for, the last keys stay as they are.
        for key, part in zip(self.out_keys_source, outputs, strict=False):
            tensordict.set(key, part.reshape(*x.shape[:-1], part.shape[-1]))
        return tensordict

    def _how(self, tensordict: TensorDictBase, x: Tensor) -> Callable[..., Tensors]:
        """How rows run in which each step has a state."""
        states = self.next_states == "always"
        if self.next_states == "missing":
            states = any(tensordict.get(key, None) is None for key in self.out_keys_source[1:])
        return partial(self._run, cut=x.dim() == 2, states=states)

    def forward_state(
        self,
        features: Float[Tensor, "*N I"],
        state: Mapping[NestedKey, Tensor] | TensorDictBase,
        is_init: Bool[Tensor, "*S"],
        *,
        recurrent: bool,
    ) -> tuple[Float[Tensor, "*N O"], TensorDict]:
        """Output and next state, the state [*B, ...] under the keys of `state_spec`.

        One step of `features` [*B, I]; if `recurrent`, rows [*B, T, I] that begin with `state` and
        end with the next one. Memory is reset wherever `is_init` [*B (T)] says so, also at a row's
        first step; gradients flow through the states.
        """
        batch = features.shape[: -2 if recurrent else -1]
        vectors = [state.get(key, None) for key in self.state_keys]
        given = self._flat(features, is_init, vectors, time=recurrent, every=not recurrent)
        run = self._scan if recurrent else self._step
        y, *after = unmapped(run, self.core, *given)
        parts = (part.reshape(*batch, part.shape[-1]) for part in after)
        following = TensorDict(dict(zip(self.state_keys, parts, strict=True)), batch)
        return y.reshape(*features.shape[:-1], y.shape[-1]), following

    def _flat(
        self, x: Tensor, start: Tensor, vectors: Sequence[Any], *, time: bool, every: bool
    ) -> list[Tensor]:
        """All with one dimension of rows, and one of time; `every` step has a state, or each row.

        What does not fit is a `UsageError`.
        """
        lead = x.shape[:-1]
        if x.dim() == 0 or x.shape[-1] != self.core.input_size or (time and not lead):
            wanted = "[*B, T, I]" if time else "[*B, I]"
            raise UsageError(
                f"input {self.in_keys[0]!r} must be {wanted} with I = {self.core.input_size}, "
                f"not {list(x.shape)}"
            )
        if start.shape not in (lead, (*lead, 1)):
            raise UsageError(f"'is_init' must be {[*lead, 1]}, not {list(start.shape)}")
        steps = (lead[:-1].numel(), lead[-1]) if time else (lead.numel(),)
        begins = lead if every else lead[:-1]
        given = [x.reshape(*steps, -1), start.reshape(steps).bool()]
        sizes = (self._packing.real_size, self._packing.whole_size)
        for key, vector, size in zip(self.state_keys, vectors, sizes, strict=False):
            if vector is None:
                raise _missing(key, "module.make_tensordict_primer()")
            if vector.shape != (*begins, size):
                raise UsageError(f"{key!r} must be {[*begins, size]}, not {list(vector.shape)}")
            # A buffer may keep states in fewer bits than the core computes with.
            vector = vector.to(self.core.state_dtype) if vector.is_floating_point() else vector
            given.append(vector.reshape(*(steps if every else steps[:1]), size))
        return given

    def _step(self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor) -> Tensors:
        stored = Stored(*vectors)
        y, state = core.step(x, self._packing.unpack(stored), start | ~stored.seen())
        return (y, *self._packing.pack(state).parts())

    def _scan(self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor) -> Tensors:
        stored = Stored(*vectors)
        first = start[:, :1] | ~stored.seen()[:, None]
        start = torch.cat([first, start[:, 1:]], dim=1)
        y, state = core.scan(x, self._packing.unpack(stored), start)
        return (y, *self._packing.pack(state).parts())

    def _first(self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor) -> Tensors:
        # As in `rows.run`, `is_init` marks a row's first step whether its episode begins there.
        begin = torch.cat([torch.zeros_like(start[:, :1]), start[:, 1:]], dim=1)
        return self._scan(core, x, begin, *vectors)[:1]

    def _run(
        self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor, **how: bool
    ) -> Tensors:
        y, after = rows.run(core, self._packing, x, start, Stored(*vectors), **how)
        return (y, *after.parts()) if after else (y,)


def _missing(key: NestedKey, transform: str) -> UsageError:
    return UsageError(
        f"MemoryModule finds no {key!r} in its data: the environment lacks the transform "
        f"{transform}. Both that it needs: TransformedEnv(env, Compose(InitTracker(), "
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
