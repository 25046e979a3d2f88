"""`MemoryModule` meets torchrl's expectations of a recurrent module; its errors are clear."""

from __future__ import annotations

import copy
import io
import subprocess
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchrl")

from tensordict import TensorDict, TensorDictParams, from_module
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import LSTMModule, canonicalize_rnn_subset, set_recurrent_mode
from torchrl.modules.utils import get_primers_from_module

from rlmem import cores
from rlmem.errors import UsageError
from rlmem.torchrl import MemoryModule, keep_threads
from tests.cores.common import INPUT, OUTPUT, B
from tests.torchrl.memories import KEYS, collect, data, module, recurrent, rows
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]


def fresh(name: str = "gru") -> tuple[MemoryModule, TensorDict]:
    """A module and an environment's first data for it."""
    memory = module(name)
    start = torch.ones(B, 1, dtype=torch.bool)
    return memory, data(memory, torch.randn(B, INPUT), start, memory.state_spec.expand(B).zero())


def test_state_keys_follow_the_output_key_alone():
    first, again = (MemoryModule("gru", INPUT, in_key="obs", out_key="own") for _ in range(2))
    assert first.in_keys == ["obs", "own_memory", "is_init"]
    assert first.out_keys == ["own", ("next", "own_memory")]
    assert again.in_keys == first.in_keys
    assert again.out_keys == first.out_keys
    assert copy.deepcopy(first).state_keys == first.state_keys
    nested = MemoryModule("titans", INPUT, in_key=("a", "obs"), out_key=("a", "own"))
    assert nested.state_keys == [("a", "own_memory"), ("a", "own_memory_counts")]
    assert nested.out_keys[1] == ("next", "a", "own_memory")


def test_keys_can_be_given_as_for_torchrls_modules():
    sizes = {"input_size": INPUT, "hidden_size": OUTPUT}
    memory = MemoryModule(
        "gru", **sizes, in_keys=["obs", "rs", "is_init"], out_keys=["y", ("next", "rs")]
    )
    assert memory.in_keys == ["obs", "rs", "is_init"]
    assert memory.core.output_size == OUTPUT
    half = MemoryModule("gru", **sizes, in_keys=["obs", "rs"], out_key="y")
    assert half.out_keys == memory.out_keys
    deep = MemoryModule("gru", **sizes, num_layers=3, **KEYS)
    assert len(deep.core.blocks) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_key": "obs"}, "give either out_key"),
        ({"in_key": "obs", "in_keys": ["obs"], "out_key": "y"}, "give either in_key"),
        ({"in_keys": ["obs", "h", "c"], "out_key": "y"}, "has 1 key"),
        ({"in_keys": ["obs", "h"], "out_keys": ["y", ("next", "c")]}, "out_keys must be"),
        ({"in_key": "obs", "out_keys": ["y", "h"]}, "written under"),
        ({**KEYS, "hidden_size": 3, "output_size": 3}, "are the same option"),
        ({**KEYS, "next_states": "sometimes"}, "next_states"),
        ({**KEYS, "dropout": 0.1}, "dropout"),
        ({**KEYS, "core": "lstn"}, "lstm"),
        ({**KEYS, "input_size": None}, "needs input_size"),
        ({**KEYS, "core": cores.make("gru", input_size=INPUT)}, "a core object takes no sizes"),
    ],
)
def test_invalid_options_are_usage_errors(options, message):
    with pytest.raises(UsageError, match=message):
        MemoryModule(**{"core": "gru", "input_size": INPUT, **options})


@pytest.mark.parametrize("recurrently", [False, True])
@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ("obs", "no input 'obs'"),
        ("is_init", "InitTracker"),
        ("y_memory", "make_tensordict_primer"),
    ],
)
def test_missing_keys_are_named(lacks, message, recurrently):
    memory = module("gru", in_keys=["obs", "y_memory"], out_key="y", in_key=None)
    batch = collect(memory, *rows())
    with set_recurrent_mode(recurrently), pytest.raises(UsageError, match=message):
        memory(batch.select(*memory.in_keys).exclude(lacks))


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("obs", (B, INPUT + 1), "must be .* with I = 6"),
        ("is_init", (B, 2), "is_init"),
        ("y_memory", (B, 5), "y_memory"),
    ],
)
def test_wrong_shapes_are_named(key, shape, message):
    memory = module("gru", in_keys=["obs", "y_memory"], out_key="y", in_key=None)
    batch = collect(memory, *rows())[:, 0].select(*memory.in_keys)
    with pytest.raises(UsageError, match=message):
        memory(batch.set(key, torch.zeros(shape, dtype=batch[key].dtype)))


def test_the_context_overrides_the_module_s_default_mode():
    memory = module("gru", default_recurrent_mode=True)
    assert memory.recurrent_mode
    with set_recurrent_mode(False):
        assert not memory.recurrent_mode
    assert not module("gru").recurrent_mode
    batch = collect(memory, *rows())
    with set_recurrent_mode("recurrent"):
        inside = memory(batch.select(*memory.in_keys))["y"]
    torch.testing.assert_close(memory(batch.select(*memory.in_keys))["y"], inside)
    with pytest.raises(UsageError, match="T, I"):
        memory(batch[0, 0].select(*memory.in_keys))


def test_the_module_can_be_called_with_tensors():
    memory, td = fresh()
    y, state = memory(*(td[key] for key in memory.in_keys))
    out = memory(td)
    assert torch.equal(y, out["y"])
    assert torch.equal(state, out["next", memory.state_keys[0]])


def test_out_keys_can_be_selected():
    memory, td = fresh()
    memory.select_out_keys(("next", memory.state_keys[0]))
    out = memory(td)
    assert "y" not in out
    assert out["next", memory.state_keys[0]].any()


def test_copies_states_and_functional_parameters_compute_the_same():
    memory, td = fresh("ffm")
    want = memory(td.copy())["y"]
    twin = copy.deepcopy(memory)
    torch.testing.assert_close(twin(td.copy())["y"], want)
    other = MemoryModule("ffm", INPUT, OUTPUT, in_keys=memory.in_keys, out_key="y")
    other.load_state_dict(memory.state_dict())
    torch.testing.assert_close(other(td.copy())["y"], want)
    assert all(key.startswith("core.") for key in memory.state_dict())
    third = MemoryModule("ffm", INPUT, OUTPUT, in_keys=memory.in_keys, out_key="y")
    assert (third(td.copy())["y"] - want).abs().max() > 1e-3
    with TensorDictParams(from_module(memory).data.clone()).to_module(third):
        torch.testing.assert_close(third(td.copy())["y"], want)
    assert (third(td.copy())["y"] - want).abs().max() > 1e-3
    saved = io.BytesIO()
    torch.save(memory, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    torch.testing.assert_close(loaded(td.copy())["y"], memory(td.copy())["y"])


def test_double_precision_stores_double_states():
    memory = module("ffm").double()
    assert memory.state_spec[memory.state_keys[0]].dtype == torch.float64
    obs, start = rows()
    batch = collect(memory, obs.double(), start)
    assert batch["next", memory.state_keys[0]].dtype == torch.float64
    torch.testing.assert_close(recurrent(memory, batch)["y"], batch["y"], rtol=1e-10, atol=1e-10)


def test_vmap_over_parameters_and_rows_equals_a_loop():
    memory = module("s5")
    batch = collect(memory, *rows()).select(*memory.in_keys)
    own = from_module(memory).data.clone()
    other = own.apply(lambda leaf: leaf * 0.9)

    def call(td: TensorDict, params: TensorDict) -> torch.Tensor:
        with params.to_module(memory, preserve_module_state=False), set_recurrent_mode(True):
            return memory(td)["y"]

    want = torch.stack([call(batch.clone(), params) for params in (own, other)])
    got = torch.vmap(call, (None, 0))(batch, torch.stack([own, other]))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


COMPILE = """
import torch
from torchrl.modules import set_recurrent_mode
from tests.torchrl.memories import collect, module, rows
for name, stored, time in (("gru", "steps", False), ("ffm", "steps", True), ("gru", "rows", True)):
    memory = module(name, stored=stored, next_states="never")
    batch = collect(memory, *rows())
    batch = (batch if time else batch[:, 1]).select(*memory.in_keys)
    torch._dynamo.reset()
    with set_recurrent_mode(time):
        got = torch.compile(memory, fullgraph=True, backend="aot_eager")(batch.copy())
        torch.testing.assert_close(got["y"], memory(batch.copy())["y"])
    print(name)
"""


def test_steps_and_rows_compile_as_one_graph():
    # In a separate process: the shape checks of the tests cannot be traced.
    command = [*warm_python(), "-W", "ignore", "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["gru", "ffm", "gru"]


def test_states_can_be_stored_in_half_precision():
    memory = module("ffm")
    batch = collect(memory, *rows())
    halved = batch.clone().set(memory.state_keys[0], batch[memory.state_keys[0]].half())
    torch.testing.assert_close(
        recurrent(memory, halved[:, 4:])["y"], batch["y"][:, 4:], rtol=0.01, atol=0.01
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ffm", "gru", "titans", "aaren"])
def test_a_gpu_computes_the_same(name):
    memory = module(name)
    batch = collect(memory, *rows())
    memory.to("cuda")
    there = batch.to("cuda")
    torch.testing.assert_close(
        recurrent(memory, there)["y"].cpu(), batch["y"], rtol=1e-3, atol=1e-3
    )
    stepped = memory(there[:, 3].select(*memory.in_keys))
    torch.testing.assert_close(stepped["y"].cpu(), batch["y"][:, 3], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [LSTMModule, MemoryModule])
def test_all_keys_become_contiguous_for_torchrl(kind):
    core = {"core": "titans"} if kind is MemoryModule else {}
    memory = kind(**core, input_size=INPUT, hidden_size=OUTPUT, **KEYS)
    batch = memory.make_tensordict_primer().primers.expand(B, 5).zero()
    batch["obs"], batch["other"] = torch.randn(5, B, INPUT).transpose(0, 1), torch.randn(5, B).T
    out = canonicalize_rnn_subset(batch, [memory])
    for key in set(memory.in_keys) - {"is_init"}:
        assert out[key].is_contiguous()
        assert torch.equal(out[key], batch[key])
    assert not out["other"].is_contiguous()


def test_primers_of_all_memories_are_found():
    policy = TensorDictSequential(
        module("gru"),
        module("titans", in_key="y", out_key="z"),
        TensorDictModule(nn.Identity(), ["z"], ["w"]),
    )
    found = get_primers_from_module(policy)
    keys = {key for primer in found for key in primer.primers.keys(True, True)}
    assert keys == {*policy[0].state_keys, *policy[1].state_keys}


@keep_threads()
def _changes_threads() -> None:
    torch.set_num_threads(2)


def test_keep_threads_restores_the_number_of_threads():
    _changes_threads()
    assert torch.get_num_threads() == 1
