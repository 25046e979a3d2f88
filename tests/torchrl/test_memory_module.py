"""`MemoryModule` with any core: steps, recurrent mode and the core itself agree."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.modules import set_recurrent_mode

from rlmem import tree
from rlmem.cores.base import MemoryCore
from rlmem.torchrl import MemoryModule
from rlmem.torchrl.state import PackedState, Packing
from tests.cores.common import INPUT, OUTPUT, B, T, every_core, make, some_starts, warm_state
from tests.torchrl.memories import KEYS, collect, data, module, recurrent, rows

TIGHT = {"rtol": 1e-5, "atol": 1e-5}
# Complex and real states, tuples, counters, ring buffers, a nonzero initial state.
some_cores = pytest.mark.parametrize("name", ["ffm", "gru", "aaren", "xlstm", "titans", "gtrxl"])


def slices(memory: MemoryModule, batch: TensorDict) -> TensorDict:
    """The batch shifted by one step, so that starts have stored states to load.

    Observations are the next ones, states are those after a step.
    """
    next_states = batch["next"].select(*memory.state_keys)
    return data(memory, batch["obs"].roll(-1, 1), batch["is_init"], next_states)


@torch.no_grad()
def stepped(memory: MemoryModule, batch: TensorDict) -> tuple[Tensor, Tensor]:
    """Outputs and the real vectors of the next states, [B, T], step by step.

    The stored state is loaded at the first step and at each `is_init`.
    """
    outputs, after, state = [], [], None
    for t in range(batch.shape[1]):
        now = batch[:, t]
        stored = memory._packing.unpack(PackedState(*(now[key] for key in memory.state_keys)))
        state = stored if state is None else tree.select(now["is_init"][:, 0], stored, state)
        y, state = memory.core.update(now["obs"], state)
        outputs.append(y)
        after.append(memory._packing.pack(state).real)
    return torch.stack(outputs, 1), torch.stack(after, 1)


@every_core
def test_steps_rows_and_the_core_agree(name):
    memory = module(name, next_states="always")
    obs, start = rows()
    batch = collect(memory, obs, start)
    core = memory.core
    want, _ = core.scan(obs, core.initial_state(B), start.squeeze(-1))
    torch.testing.assert_close(batch["y"], want, **TIGHT)
    # The next states are recomputed; those in the batch are ignored.
    wrong = batch.clone()
    for key in memory.state_keys:
        wrong["next", key].zero_()
    again = recurrent(memory, wrong)
    torch.testing.assert_close(again["y"], want, **TIGHT)
    for key in memory.state_keys:
        assert not again["next", key].requires_grad
        torch.testing.assert_close(again["next", key], batch["next", key], rtol=1e-4, atol=1e-5)


@some_cores
def test_stored_states_are_loaded_at_starts(name):
    memory = module(name)
    batch = slices(memory, collect(memory, *rows()))
    y, after = stepped(memory, batch)
    # Missing next states are computed.
    got = recurrent(memory, batch)
    torch.testing.assert_close(got["y"], y, **TIGHT)
    torch.testing.assert_close(got["next", memory.state_keys[0]], after, **TIGHT)
    # A flat batch, as from a SliceSampler, is cut into slices.
    batch[:, 0].set_("is_init", torch.ones(B, 1, dtype=torch.bool))
    flat = recurrent(memory, batch.reshape(-1))
    torch.testing.assert_close(flat["y"], y.flatten(0, 1), **TIGHT)
    torch.testing.assert_close(flat["next", memory.state_keys[0]], after.flatten(0, 1), **TIGHT)


@some_cores
def test_vmap_equals_a_loop_over_batches(name):
    memory = module(name)
    batch = collect(memory, *rows())
    both = torch.stack([batch.select(*memory.in_keys), slices(memory, batch)])
    memory.next_states = "never"
    want = torch.stack([recurrent(memory, part)["y"] for part in both])
    with set_recurrent_mode(True):
        got = torch.vmap(memory)(both)["y"]
    torch.testing.assert_close(got, want, **TIGHT)
    assert got.requires_grad


@every_core
def test_packing_is_lossless_and_marks_states_valid(name):
    core = make(name)
    packing = Packing(core)
    state = warm_state(core, B)
    packed = packing.pack(state)
    assert packed.valid().all()
    assert all(vector.dtype in (torch.float32, torch.int64) for vector in packed.vectors())
    for got, want in zip(tree.leaves(packing.unpack(packed)), tree.leaves(state), strict=True):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)
    assert packing.pack(core.initial_state(B)).valid().all()


class LearnedStart(MemoryCore[Tensor]):
    """A moving average whose initial state is a parameter."""

    def __init__(self, input_size: int) -> None:
        super().__init__(input_size)
        self.first = nn.Parameter(torch.zeros(input_size))

    def initial_state(self, batch_size: int) -> Tensor:
        return self.first.expand(batch_size, -1)

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = (state + x) / 2
        return state, state


def test_an_initial_state_may_be_a_parameter():
    memory = MemoryModule(LearnedStart(INPUT), **KEYS)
    memory.core.first.data.fill_(3.0)
    obs, start = rows()
    batch = collect(memory, obs, start)
    torch.testing.assert_close(batch["y"][:, 0], (obs[:, 0] + 3) / 2)
    y = recurrent(memory, batch)["y"]
    torch.testing.assert_close(y, batch["y"])
    y[:, 0].sum().backward()
    torch.testing.assert_close(memory.core.first.grad, torch.full((INPUT,), B / 2))


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
def test_a_step_takes_any_batch_shape(lead):
    memory = module("lstm")
    state = memory.state_spec.expand(lead).rand()
    obs, start = torch.randn(*lead, INPUT), torch.rand(*lead, 1) < 0.5
    out = memory(data(memory, obs, start, state))
    many = memory.core.step(
        obs.reshape(-1, INPUT),
        memory._packing.unpack(PackedState(state[memory.state_keys[0]].reshape(-1, 17))),
        start.flatten(),
    )[0]
    torch.testing.assert_close(out["y"], many.reshape(*lead, OUTPUT))
    assert out["next", memory.state_keys[0]].shape == (*lead, 17)


@pytest.mark.parametrize("recurrently", [False, True])
def test_a_batch_may_have_several_dimensions(recurrently):
    memory = module("gru")
    batch = collect(memory, *rows())
    both = torch.stack([batch, batch.flip(0)])
    with set_recurrent_mode(recurrently):
        got = memory(both.select(*memory.in_keys))
    torch.testing.assert_close(got["y"][1], batch["y"].flip(0), **TIGHT)
    torch.testing.assert_close(got["next"][0], batch["next"], **TIGHT)


def test_rows_start_from_the_stored_state():
    memory = module("ffm")
    batch = collect(memory, *rows())
    begin = batch[:, 4:].clone()
    torch.testing.assert_close(recurrent(memory, begin)["y"], begin["y"], **TIGHT)
    # A sampler marks the first steps of slices like those of episodes; the result is the same.
    begin[:, 0].set_("is_init", torch.ones(B, 1, dtype=torch.bool))
    torch.testing.assert_close(recurrent(memory, begin)["y"], begin["y"], **TIGHT)
    for key in memory.state_keys:
        begin[key].zero_()
    assert (recurrent(memory, begin)["y"] - begin["y"]).abs().amax((1, 2)).min() > 1e-3


def test_next_states_are_kept_computed_or_omitted():
    memory = module("gru")
    batch = collect(memory, *rows())
    key = ("next", *memory.state_keys)
    marked = batch.select(*memory.in_keys).set(key, batch[key] + 1)
    torch.testing.assert_close(recurrent(memory, marked)[key], batch[key] + 1)
    torch.testing.assert_close(recurrent(memory, marked.exclude("next"))[key], batch[key], **TIGHT)
    memory.next_states = "never"
    assert "next" not in recurrent(memory, marked.exclude("next"))


@some_cores
@pytest.mark.parametrize("recurrently", [False, True])
def test_forward_state_equals_the_core(name, recurrently):
    memory = module(name)
    x, start = torch.randn(B, T, INPUT), some_starts("cpu")
    state = warm_state(memory.core, B)
    vectors = memory._packing.pack(state).vectors()
    packed = dict(zip(memory.state_keys, vectors, strict=True))
    if recurrently:
        got, after = memory.forward_state(x, packed, start, recurrent=True)
        want, final = memory.core.scan(x, state, start)
    else:
        got, after = memory.forward_state(x[:, 0], packed, start[:, :1], recurrent=False)
        want, final = memory.core.step(x[:, 0], state, start[:, 0])
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert set(after.keys()) == set(memory.state_spec.keys())
    for key, vector in zip(memory.state_keys, memory._packing.pack(final).vectors(), strict=True):
        torch.testing.assert_close(after[key], vector, rtol=0, atol=0)
