"""The command for a machine with a GPU: a dry run on the CPU, crashes, hangs, missing packages."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import gpu_check_kernels
import gpu_check_ppo
import ops
import pytest
import torch
from gpu_check_report import MOST_PRINTED, Report
from gpu_check_steps import Runner, Step
from ops.base import Case, errors, prepare, relative_error

from rlmem.kernels.gated_rnn import CELLS

ROOT = Path(__file__).parents[1]
LIMIT = {"float32": 1e-4, "bfloat16": 0.1}
CASES = [
    Case(name, ops.get(name).tiny, variant, "both", dtype)
    for name in ops.names()
    for variant in ops.get(name).variants
    for dtype in ops.get(name).precisions(variant)
]

# Packages that a machine with a GPU may lack. The first ones must not be needed by anything here.
MISSING = [
    *("hydra", "omegaconf", "torchrl", "tensordict", "popgym", "beartype", "matplotlib"),
    *("tensorboard", "rich", "cffi", "_cffi_backend", "triton"),
]
HIDE = f"""
import importlib.machinery

finder = importlib.machinery.PathFinder
found = finder.find_spec

def find_spec(cls, name, path=None, target=None):
    if name.split(".")[0] in {MISSING!r} or name == "rlmem.kernels._c":
        return None
    return found(name, path, target)

finder.find_spec = classmethod(find_spec)
"""
EVERYTHING = """
import warnings
from rlmem import algos, cores, envs, kernels, policies
assert algos.names() and cores.names() and envs.names()
from rlmem.algos.ppo import PPO
env = envs.make("popgym-repeat", num_envs=2)
policy = policies.ActorCritic(env.observation_space, env.action_space, core="ffm", hidden_size=8)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    metrics = PPO(env, policy, [0, 2], num_steps=8, num_minibatches=1, num_epochs=1).iterate(0)
assert metrics["entropy"] > 0
assert any("C kernels were not built" in str(each.message) for each in caught)
"""
TESTS = """
import pytest

@pytest.mark.gpu
def test_good():
    pass

@pytest.mark.gpu
def test_bad():
    assert 1 == 2, "planted"

def test_that_needs_no_gpu():
    assert False
"""
CHILD = """
import os, signal, time
from argparse import Namespace
from gpu_check_worker import emit, parser, serve

def run(case, deadline):
    if case == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case == "hang":
        time.sleep(600)
    if case == "error":
        raise ValueError("planted")
    emit("row", op=case)

import faulthandler
faulthandler.register(signal.SIGUSR1)
cases = ["first", "crash", "hang", "error", "last"]
serve(cases, run, str, parser("").parse_args())
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a process for which packages are missing."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_dry_run_needs_few_packages(tmp_path: Path, bare: dict[str, str]) -> None:
    """Tests, an operator and PPO on a CPU; failures are reported, and the exit status is 0."""
    (tmp_path / "test_planted.py").write_text(TESTS)
    out = tmp_path / "out"
    command = [sys.executable, "scripts/gpu_check.py", "--out", str(out)]
    command += ["--device", "cpu", "--small", "--minutes", "4", "--ops", "linear_scan"]
    command += ["--cores", "ffm", "--tests", str(tmp_path / "test_planted.py")]
    done = subprocess.run(
        command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {file.name for file in out.iterdir()} == {"results.csv", "results.md", "failures.txt"}
    printed = done.stdout
    assert "FAILURES (1;" in printed, printed
    assert "test_bad: AssertionError: planted" in printed, printed
    assert "tests: 1 passed, 1 failed, 0 skipped, 0 not run, of 2" in printed
    assert "linear_scan real bf16 3x40x8 |" in printed
    assert "memorax is not importable here" in printed
    assert "assert 1 == 2" in (out / "failures.txt").read_text()
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert {row["section"] for row in rows} == {"device", "tests", "kernels", "ppo"}
    assert all(
        float(row["steps_s"]) > 0 for row in rows if row["section"] == "ppo" and not row["goal"]
    )
    kernels = [row for row in rows if row["section"] == "kernels" and row["form"] == "rlmem"]
    assert {row["passes"] for row in kernels} == {"forward", "both"}
    for row in kernels:
        assert max(float(row["error"]), float(row["grad_error"])) < LIMIT[row["dtype"]]


@pytest.mark.slow
def test_a_crash_and_a_hang_cost_one_case_each(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    command = [str(tmp_path / "child.py"), "--device", "cpu"]
    step = Step("rivals", "planted", command, 60, patience=8)
    after = Step("rivals", "after", command, 60, patience=8)
    report = Report(tmp_path / "out")
    runner = Runner(report, time.monotonic() + 120, tmp_path)
    runner.run([step])
    assert [row["op"] for row in report.rows] == ["first", "last"]
    assert len(report.failures) == 3, report.failures
    crash, hang, error = report.failures
    assert crash[:2] == ("crash", "ended with status -11")
    assert hang[:2] == ("hang", "hangs: no message for 8 s")
    assert error[:2] == ("error", "ValueError: planted")
    text = (tmp_path / "out" / "failures.txt").read_text()
    assert "in run" in text.split("== hang")[1], "the place where it hangs"
    # Without time, nothing starts.
    Runner(report, time.monotonic() + 1, tmp_path).run([after])
    assert report.notes == ["no time for after: not started"]


def test_everything_but_the_command_line_needs_few_packages(bare: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING], env=bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_summary_is_short(tmp_path: Path) -> None:
    report = Report(tmp_path)
    step = Step("kernels", "kernels", [], 1)
    for i in range(200):
        names = {
            "op": "o" * 60,
            "variant": "v",
            "dtype": "float32",
            "shape": str(i),
            "passes": "both",
        }
        values = {"ms": 1.0, "bytes": 1e6, "flops": 1e6, "error": 1e-7, "grad_error": 1e-7}
        report.add(step, {"kind": "row", "form": "rlmem", **names, **values})
        failure = {"title": f"case {i}", "error": "E" * 300, "minor": False, "traceback": "T\n"}
        report.add(step, {"kind": "failure", **failure})
    summary = report.summary()
    assert len(summary) <= MOST_PRINTED
    assert "FAILURES (200;" in summary
    assert "more lines in results.md" in summary


def test_waits_for_the_device_are_counted_by_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def iterate(progress: float) -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setenv("GPU_CHECK_MESSAGES", str(tmp_path / "messages"))
    trainer = SimpleNamespace(
        collector=SimpleNamespace(), collect=None, ppo=SimpleNamespace(iterate=iterate)
    )
    gpu_check_ppo.count_waits(trainer, {"core": "ffm", "envs": 4})
    count, places = map(json.loads, (tmp_path / "messages").read_text().splitlines())
    assert count == {"kind": "update", "core": "ffm", "envs": 4, "waits": 3}
    assert places["text"].startswith("waits of ffm at 4 environments: test_gpu_check.py:")
    assert places["text"].endswith(" x3")
    assert modes == ["warn", "default"]


@pytest.mark.by_day(3)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # by torch.compile
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.variant}-{case.dtype}")
def test_every_form_agrees_with_the_definition(case: Case) -> None:
    op = ops.get(case.op)
    forms = {name: form for name, form in op.forms(case, "cpu") if "compiled" not in name}
    assert next(iter(forms)) == "rlmem"
    for name, form in forms.items():
        found = max(errors(op, case, name, form, "cpu"))
        # Other forms may compute in bfloat16; ours sums in float32.
        assert found < (LIMIT[case.dtype] if name == "rlmem" else 100 * LIMIT[case.dtype]), name


@pytest.mark.parametrize("name", ops.names())
def test_the_plan_covers_every_variant(name: str) -> None:
    op = ops.get(name)
    plan = gpu_check_kernels.plan(op, small=False, compiled=False)
    assert len(set(plan)) == len(plan)
    wanted = {(v, dtype) for v in op.variants for dtype in op.precisions(v)}
    assert {(case.variant, case.dtype) for case in plan} == wanted
    assert {case.shape for case in plan} == set(op.gpu_shapes or op.quick)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_weights_in_one_block_are_those_of_the_layer(cell: str) -> None:
    from ops.gated_rnn import in_one_block

    gates = CELLS[cell].gates
    weights = tuple(torch.randn(gates * 4, size) for size in (4, 4)) + tuple(
        torch.randn(2, gates * 4)
    )
    for got, want in zip(in_one_block(cell, weights, torch.float32), weights, strict=True):
        assert torch.equal(got.detach(), want)


def test_flex_attention_agrees_with_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled and forward only, as on a CPU; the mask is the same."""
    from ops.window_attention import OP, flex

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    case = Case("window_attention", OP.tiny, "plain", "forward")
    arguments, _ = prepare(OP, case, "flex", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for torch.compile
        got = flex()(*arguments)
    assert relative_error(got, OP.definition(case, "flex")(*arguments)) < 1e-5
