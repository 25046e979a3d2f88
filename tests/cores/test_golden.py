"""Cores against golden vectors of published models: outputs, states, gradients, with resets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rlmem import cores
from rlmem.cores.conv import ConvState
from rlmem.cores.lstm import LSTMState
from tests.cores.common import DTYPES, fold, scan
from tests.golden import Golden, under

Tensors = dict[str, Tensor]


class Case(NamedTuple):
    """The conversion between a golden file and a core.

    `params` computes the core's parameters from the file's, differentiably, so that the file's
    gradients can be compared. `state` and `unstate` convert the state to and from the core's.
    """

    make: Callable[[], cores.MemoryCore[Any]]
    params: Callable[[Tensors], Tensors]
    x: str = "x"
    state: Callable[[Tensors], Any] = lambda state: next(iter(state.values()))
    unstate: Callable[[Any], tuple[Tensor, ...]] = lambda state: (state,)


def ffm(p: Tensors) -> Tensors:
    # pre has outputs y [4], thru [6], g_in [4], g_out [6]; the core splits it in two maps.
    maps = {}
    for kind in ("weight", "bias"):
        y, thru, g_in, g_out = p[f"pre.{kind}"].split((4, 6, 4, 6))
        maps[f"write.{kind}"] = torch.cat([y, g_in])
        maps[f"skip.{kind}"] = torch.cat([thru, g_out])
        maps[f"mix.{kind}"] = p[f"mix.{kind}"]
    return maps | {"a": p["ffa.a"].flatten(), "b": p["ffa.b"].flatten()}


def rnn(p: Tensors) -> Tensors:
    return {key.removesuffix("_l0"): each for key, each in p.items()}


def s5(p: Tensors) -> Tensors:
    return {
        "Lambda_re": p["Lambda_re"],
        "Lambda_im": p["Lambda_im"],
        "B": p["B"],
        "C": p["C"],
        "D.weight": p["D"],
        "log_step": p["log_step"][:, 0],
    }


def lru(p: Tensors) -> Tensors:
    pairs = {name: torch.stack([p[f"{name}_re"], p[f"{name}_im"]], dim=-1) for name in "BC"}
    logs = {name: p[name] for name in ("nu_log", "theta_log", "gamma_log")}
    return pairs | logs | {"D.weight": p["D"]}


def linear(p: Tensors) -> Tensors:
    return {f"linear.{key}": each for key, each in p.items()}


def without_window(state: Tensors) -> ConvState:
    h = state["h"]
    return ConvState(h.new_zeros(len(h), 0, 6), h)


def maker(name: str, input_size: int, output_size: int | None = None, **options: Any):
    return lambda: cores.make(name, input_size=input_size, output_size=output_size, **options)


CASES = {
    "ffm": Case(
        maker("ffm", 5, 6, memory_size=4, context_size=3),
        ffm,
        state=lambda state: state["s"].flatten(1),
        unstate=lambda state: (state.unflatten(1, (4, 3)),),
    ),
    "gru": Case(maker("gru", 5, 6), rnn),
    "lstm": Case(
        maker("lstm", 5, 6),
        rnn,
        state=lambda state: LSTMState(state["h"], state["c"]),
        unstate=tuple,
    ),
    "s4d": Case(maker("s4d", 4, channel_states=6, glu=False), dict, x="u"),
    "s5": Case(maker("s5", 5, ssm_size=8, blocks=1, block=False), s5, x="u"),
    "s5_full": Case(maker("s5", 5, ssm_size=4, blocks=1, conj_sym=False, block=False), s5, x="u"),
    "lru": Case(maker("lru", 5, state_size=4, block=False), lru),
    "mingru": Case(
        maker("mingru", 6, conv_size=1, positive=True, bias=False),
        linear,
        state=without_window,
        unstate=lambda state: (state.h,),
    ),
    "mingru_plain": Case(
        maker("mingru", 6, conv_size=1),
        linear,
        state=without_window,
        unstate=lambda state: (state.h,),
    ),
    "minlstm": Case(
        maker("minlstm", 6, conv_size=1, positive=True, bias=False),
        linear,
        state=without_window,
        unstate=lambda state: (state.h,),
    ),
    "minlstm_plain": Case(
        maker("minlstm", 6, conv_size=1),
        linear,
        state=without_window,
        unstate=lambda state: (state.h,),
    ),
}


class CoreModule(nn.Module):
    """A module that runs `how` on a core, for `functional_call`."""

    def __init__(self, core: cores.MemoryCore[Any]) -> None:
        super().__init__()
        self.core = core

    def forward(self, how: Callable[..., Any], *args: Any) -> Any:
        return how(self.core, *args)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("how", [scan, fold])
def test_core_equals_the_published_model(name, dtype, how):
    case, golden = CASES[name], Golden(name, dtype)
    core = case.make().to(dtype)
    leaves = golden.leaves("in", "param", "state0")
    params = case.params(under("param", leaves))
    assert params.keys() == dict(core.named_parameters()).keys()
    firsts = under("state0", leaves)
    state = case.state(firsts) if firsts else core.initial_state(len(golden["start"]))
    y, final = functional_call(
        CoreModule(core),
        {f"core.{key}": each for key, each in params.items()},
        (how, leaves[f"in.{case.x}"], state, golden["start"]),
    )
    golden.check("out.y", y)
    if firsts:
        for key, leaf in zip(firsts, case.unstate(final), strict=True):
            golden.check(f"state.{key}", leaf)
    golden.check_gradients(y, leaves)
