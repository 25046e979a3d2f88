"""The laws of `rlmem.testing`, for every registered core."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rlmem.testing.check import LAWS
from rlmem.testing.law import Case, NoClaim
from tests.cores.common import NAMES, every_core, every_device, subject
from tests.warm_python import warm_python

CASES = [case for law in LAWS if not law.traced for case in law.cases()]
# Their result does not depend on the device.
FOR_ONE_DEVICE = {
    "a_copy_is_equal_and_independent",
    "a_core_with_a_state_remembers",
    "a_state_does_not_hold_the_memory_of_its_row",
    "autocast_of_the_caller_wins_over_the_parameters",
    "checkpointing_changes_no_gradient",
    "every_parameter_has_a_gradient",
    "float32_inputs_are_read_by_half_precision_parameters",
    "float64_and_integers_are_not_mixed_with_float32",
    "half_precision_inputs_are_read_in_float32",
    "invalid_sizes_are_named",
    "large_inputs_give_finite_results_near_those_in_float64",
    "memory_use_of_a_step_is_constant_in_time",
    "saved_weights_restore_the_core",
}


def name_of(case: Case) -> str:
    return "-".join([case.law.check.__name__, *str(case).split(", ")]).rstrip("-")


@every_core
@every_device
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_law(case: Case, device: str, name: str) -> None:
    if device != "cpu" and case.law.check.__name__ in FOR_ONE_DEVICE:
        pytest.skip("tested on the CPU")
    try:
        case(subject(name, device))
    except NoClaim as reason:
        pytest.skip(str(reason))


TRACED = """
import json, sys, torch
from rlmem.testing import program_laws
from tests.cores.common import subject
law = getattr(program_laws, sys.argv[1])
options = {key: getattr(torch, value, value) for key, value in json.loads(sys.argv[3]).items()}
for name in sys.argv[4:]:
    for method in sys.argv[2].split():
        torch.manual_seed(0)
        try:
            law(subject(name), method, **options)
            problem = ""
        except Exception as e:
            problem = f"{type(e).__name__}: {e}"[:1500]
        print(json.dumps([f"{name}.{method}", problem]), flush=True)
"""
# One core for each operator.
MAIN = ["deltanet", "ffm", "gru", "mlstm", "titans", "transformer_xl"]
COMPILE, EXPORT = (
    "torch_compile_traces_it_as_one_graph",
    "exported_programs_take_any_number_of_rows",
)


@pytest.mark.parametrize(
    ("law", "methods", "options", "names"),
    [
        pytest.param(EXPORT, "step", {}, NAMES, marks=pytest.mark.slow),
        (EXPORT, "step scan", {}, ["gru", "ffm"]),
        pytest.param(EXPORT, "step scan", {}, MAIN, marks=pytest.mark.slow),
        (COMPILE, "scan", {}, ["gru", "ffm"]),
        pytest.param(COMPILE, "scan", {}, NAMES, marks=pytest.mark.slow),
        # `step` is plain torch: no operator of ours to trace.
        pytest.param(COMPILE, "step", {"backend": "eager"}, NAMES, marks=pytest.mark.slow),
        pytest.param(
            COMPILE, "step scan", {"dtype": "bfloat16"}, ["gru", "titans"], marks=pytest.mark.slow
        ),
        pytest.param(
            COMPILE, "step scan", {"backend": "inductor"}, ["lru"], marks=pytest.mark.slow
        ),
    ],
)
def test_traced_law(law: str, methods: str, options: dict[str, str], names: list[str]) -> None:
    # In a separate process: the shape checks of the tests cannot be traced.
    done = subprocess.run(
        [*warm_python(), "-W", "ignore", "-c", TRACED, law, methods, json.dumps(options), *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = dict(json.loads(line) for line in done.stdout.splitlines() if line[:1] == "[")
    assert len(results) == len(methods.split()) * len(names)
    assert not {key: problem for key, problem in results.items() if problem}
