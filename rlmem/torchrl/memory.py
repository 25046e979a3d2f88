"""Any memory core as a recurrent module of torchrl, in place of LSTMModule or GRUModule."""

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
from torchrl.modules import recurrent_mode

from rlmem import cores
from rlmem.cores.base import MemoryCore
from rlmem.errors import UsageError, unknown
from rlmem.torchrl.callers import dropped, in_burn_in, refuse_shared_keys, rivals
from rlmem.torchrl.keys import module_keys, next_key
from rlmem.torchrl.recurrent import States, burnt_in_last, scan_stored
from rlmem.torchrl.state import PackedState, Packing
from rlmem.torchrl.transforms import StatePrimer
from rlmem.torchrl.vmap import run_under_vmap

NEXT_STATES = ("missing", "always", "never")
STORED = ("steps", "rows")

Tensors = tuple[Tensor, ...]


class MemoryModule(TensorDictModuleBase):
    """A memory core, given or made by name with `options`, as a recurrent module of torchrl.

    Reads `in_key` [*B, I], the state under its own keys, and `is_init`; writes `out_key` [*B, O]
    and the next state under ("next", key). In recurrent mode (`set_recurrent_mode`, or
    `default_recurrent_mode` outside of it) the last dimension of the batch is time. The state
    stored at the first step and at each `is_init` is loaded there; if none is stored, an episode
    begins. A batch of one dimension [N], as from `SliceSampler`, is cut into slices at `is_init`,
    which run in parallel.

    The environment needs `InitTracker()` and `make_tensordict_primer()` (`TransformedEnv(env,
    Compose(InitTracker(), module.make_tensordict_primer()))`, or `get_env_transforms_from_module`);
    otherwise a `UsageError` names the missing key and transform.

    The state is one vector of real numbers, and one of integers if the core has counters (see
    `state.py`). Its keys are named after `out_key`: "embed" gives "embed_memory". Or `in_keys` =
    [input, *state keys] and `out_keys` = [output, *("next", key)] name them. Two modules with the
    same state keys are a `UsageError` when they run in one `TensorDictSequential` or loss.

    `next_states` selects when recurrent mode computes the next states of all steps, without
    gradients: if they are "missing" from the batch, "always", or "never". Next states in the batch
    are as accurate as its stored states. Computing them is free for diagonal cores; for other cores
    it costs about as much as a rollout. Next states of a batch after torchrl's `BurnInTransform`
    are older than its first states, and count as missing. For the transform, which runs the module
    without gradients, the next state of a row's last step is always computed; it is zero if the
    episode ends there.

    With `stored` = "rows" a state is read only at the first step of each row. Every later `is_init`
    begins an episode, and recurrent mode writes no next states but those for burn-in. States too
    large to be stored at each step are then stored once per row (see `WindowStates`). With "rows"
    every core compiles to one graph; with "steps" only diagonal cores do, since for others control
    flow depends on data.

    `hidden_size` is torchrl's name of `output_size`; `num_layers` greater than one makes a `stack`
    of cores.
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
        self.core = _make_core(core, input_size, hidden_size, num_layers, options)
        if device is not None:
            self.core.to(device)
        self.next_states = next_states
        self.stored = stored
        self._recurrent_mode = default_recurrent_mode
        self._rivals = 0
        self._packing = Packing(self.core)
        states = 1 if self._packing.integer_size == 0 else 2
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
    def canonical_keys(self) -> list[NestedKey]:
        """All keys of the module, for torchrl's `canonicalize_rnn_subset`."""
        return [*self.in_keys, *self.out_keys_source]

    @property
    def state_spec(self) -> Composite:
        """The specs of the state's keys, for one row."""
        sizes = (self._packing.real_size, self._packing.integer_size)
        dtypes = (self.core.state_dtype, torch.int64)
        specs = {
            key: Unbounded(shape=(size,), dtype=dtype)
            for key, size, dtype in zip(self.state_keys, sizes, dtypes, strict=False)
        }
        return Composite(specs)

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform with which an environment carries the state, zero at episode starts."""
        return StatePrimer(self.state_spec, expand_specs=True)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """One step for each entry of the batch; in recurrent mode a scan of its rows."""
        source = self.in_keys[0]
        read = {key: tensordict.get(key, None) for key in (source, "is_init", *self.state_keys)}
        if any(value is None for value in read.values()):
            raise _missing([key for key, value in read.items() if value is None], source)
        x, start, *vectors = read.values()
        time = self.recurrent_mode or _burns_in(x)
        self._meet_rivals(time)
        every = not time or self.stored == "steps"
        if not every:
            vectors = [v[..., 0, :] if v.dim() == x.dim() else v for v in vectors]
        flat = self._flatten(x, start, vectors, time=time, every=every)
        run: Callable[..., Tensors] = self._step
        if time:
            rows = partial(self._scan_steps, cut=x.dim() == 2) if every else self._scan_rows
            run = partial(rows, **self._next_states_of(tensordict, x))
        y, *after = run_under_vmap(run, self.core, *flat)
        if after and x.dim() > 2 and time and not torch.is_grad_enabled():
            after = self._for_burn_in(tensordict, PackedState(*after), flat[1].shape)
        # Next states that were not computed are not written: `after` is empty then.
        for key, output in zip(self.out_keys_source, (y, *after), strict=False):
            tensordict.set(key, output.reshape(*x.shape[:-1], output.shape[-1]))
        return tensordict

    def _meet_rivals(self, time: bool) -> None:
        """Raise a `UsageError` if this network contains another module with the same state keys."""
        if torch.compiler.is_compiling():
            return
        others = rivals(self, self.state_keys)
        # Steps are short: they look again only if there are new modules.
        if others and (time or len(others) != self._rivals):
            refuse_shared_keys(others, self.state_keys)
        self._rivals = len(others)

    def _next_states_of(self, tensordict: TensorDictBase, x: Tensor) -> dict[str, Any]:
        """The next `states` to compute in recurrent mode, and if those of the batch are `kept`."""
        missing = any(tensordict.get(key, None) is None for key in self.out_keys_source[1:])
        kept = not missing and self.next_states == "missing"
        states: States = "none"
        if self.stored == "steps" and not kept and self.next_states != "never":
            states = "all"
        elif not (missing or torch.is_grad_enabled() or x.dim() == 2):
            # BurnInTransform reads the last ones, of rows and without gradients.
            states = "last"
        return {"states": states, "kept": kept}

    def _for_burn_in(
        self, tensordict: TensorDictBase, after: PackedState, steps: torch.Size
    ) -> list[Tensor]:
        """Next states of all `steps` [B, T] from those computed: of all steps, or the last."""
        before = after
        if after.real.shape[1] < steps[1]:
            kept = (tensordict.get(key) for key in self.out_keys_source[1:])
            before = PackedState(*(vector.reshape(*steps, -1) for vector in kept))
        done = tensordict.get(("next", "done"), None)
        if done is not None:
            done = done.reshape(steps) if done.numel() == steps.numel() else None
        return burnt_in_last(after, before, done).vectors()

    def forward_state(
        self,
        features: Float[Tensor, "*N I"],
        state: Mapping[NestedKey, Tensor] | TensorDictBase,
        is_init: Bool[Tensor, "*S"],
        *,
        recurrent: bool,
    ) -> tuple[Float[Tensor, "*N O"], TensorDict]:
        """Output and next state; states are [*B, ...], under the keys of `state_spec`.

        One step of `features` [*B, I]; if `recurrent`, a scan of rows [*B, T, I] from `state`, and
        the state after them. Memory is reset wherever `is_init` [*B (T)] is True, also at a row's
        first step. Gradients flow through the states.
        """
        batch = features.shape[: -2 if recurrent else -1]
        vectors = [state.get(key, None) for key in self.state_keys]
        flat = self._flatten(features, is_init, vectors, time=recurrent, every=not recurrent)
        run = self._scan if recurrent else self._step
        y, *after = run_under_vmap(run, self.core, *flat)
        leaves = (vector.reshape(*batch, vector.shape[-1]) for vector in after)
        next_state = TensorDict(dict(zip(self.state_keys, leaves, strict=True)), batch)
        return y.reshape(*features.shape[:-1], y.shape[-1]), next_state

    def _flatten(
        self, x: Tensor, start: Tensor, vectors: Sequence[Any], *, time: bool, every: bool
    ) -> list[Tensor]:
        """Inputs [B, (T), ...] with a single batch dimension; a `UsageError` if a shape is wrong.

        State vectors belong to every step if `every`, else to the first step of a row.
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
        flat = [x.reshape(*steps, -1), start.reshape(steps).bool()]
        sizes = (self._packing.real_size, self._packing.integer_size)
        for key, vector, size in zip(self.state_keys, vectors, sizes, strict=False):
            if vector is None:
                raise _missing([key], self.in_keys[0])
            if vector.shape != (*begins, size):
                raise UsageError(f"{key!r} must be {[*begins, size]}, not {list(vector.shape)}")
            # A buffer may store states in a lower precision than the core's.
            vector = vector.to(self.core.state_dtype) if vector.is_floating_point() else vector
            flat.append(vector.reshape(*(steps if every else steps[:1]), size))
        return flat

    def _step(self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor) -> Tensors:
        """Output and next state of one step."""
        stored = PackedState(*vectors)
        y, state = core.step(x, self._packing.unpack(stored), start | ~stored.valid())
        return (y, *self._packing.pack(state).vectors())

    def _scan(self, core: MemoryCore[Any], x: Tensor, start: Tensor, *vectors: Tensor) -> Tensors:
        """Outputs and last state of rows with one stored state each."""
        stored = PackedState(*vectors)
        first = start[:, :1] | ~stored.valid()[:, None]
        start = torch.cat([first, start[:, 1:]], dim=1)
        y, state = core.scan(x, self._packing.unpack(stored), start)
        return (y, *self._packing.pack(state).vectors())

    def _scan_rows(
        self,
        core: MemoryCore[Any],
        x: Tensor,
        start: Tensor,
        *vectors: Tensor,
        states: States,
        kept: bool,
    ) -> Tensors:
        """Outputs of rows with one stored state each, and the last or the first next state."""
        # As in `scan_stored`: `is_init` at a row's first step may mark a slice, not an episode.
        begin = torch.cat([torch.zeros_like(start[:, :1]), start[:, 1:]], dim=1)
        y, *after = self._scan(core, x, begin, *vectors)
        if states == "last":
            return (y, *(vector.unsqueeze(1) for vector in after))
        if not (kept and PackedState(*vectors).burnt_in()):
            return (y,)
        with torch.no_grad():
            _, *after = self._step(core, x[:, 0], begin[:, 0], *vectors)
        return (y, *(vector[:, None].expand(-1, x.shape[1], -1) for vector in after))

    def _scan_steps(
        self,
        core: MemoryCore[Any],
        x: Tensor,
        start: Tensor,
        *vectors: Tensor,
        cut: bool,
        states: States,
        kept: bool,
    ) -> Tensors:
        """Outputs, and if requested next states, of rows with a stored state at every step."""
        stored = PackedState(*vectors)
        if kept and stored.burnt_in():
            # The batch has next states from before the burn-in.
            states = "all"
        y, after = scan_stored(core, self._packing, x, start, stored, cut=cut, states=states)
        return (y, *after.vectors()) if after else (y,)


def _burns_in(x: Tensor) -> bool:
    """Whether `BurnInTransform` runs the module, on inputs [*B, T, I]."""
    possible = x.dim() > 2 and not torch.is_grad_enabled()
    return possible and not torch.compiler.is_compiling() and in_burn_in()


def _missing(keys: Sequence[NestedKey], source: NestedKey) -> UsageError:
    """The error for `keys` that are not in the data; `source` is the key of the input."""
    key = keys[0]
    lost = dropped(keys)
    if lost is not None:
        return lost
    if key == source:
        return UsageError(f"MemoryModule finds no input {key!r} in its data")
    transform = "InitTracker()" if key == "is_init" else "module.make_tensordict_primer()"
    return UsageError(
        f"MemoryModule finds no {key!r} in its data: the environment lacks the transform "
        f"{transform}, or a later one (such as SelectTransform) removes the key. Needed are both: "
        "TransformedEnv(env, Compose(InitTracker(), module.make_tensordict_primer()))"
    )


def _make_core(
    core: str | MemoryCore[Any],
    input_size: int | None,
    hidden_size: int | None,
    num_layers: int,
    options: dict[str, Any],
) -> MemoryCore[Any]:
    """`core` itself if it is one; else the core of that name, with these sizes and options."""
    if isinstance(core, MemoryCore):
        if input_size is not None or hidden_size is not None or num_layers != 1 or options:
            raise UsageError("a core object takes no sizes and no options; they go with a name")
        return core
    if input_size is None:
        raise UsageError(f"core {core!r} needs input_size")
    if hidden_size is not None:
        if "output_size" in options:
            raise UsageError("hidden_size and output_size are the same option; give only one")
        options = {**options, "output_size": hidden_size}
    if num_layers == 1:
        return cores.make(core, input_size=input_size, **options)
    sizes = {"input_size": input_size, "output_size": options.pop("output_size", None)}
    return cores.make("stack", core=core, layers=num_layers, options=options, **sizes)
