"""`check_core` finds the broken law of a core, and says why; a good core passes as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
import unittest
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rlmem import cores, testing
from rlmem.errors import UsageError
from rlmem.testing.law import LAWS
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]


class Average(cores.MemoryCore[Tensor]):
    """A good core, from which the broken ones derive: a leaky average."""

    def __init__(self, input_size: int, output_size: int | None = None, leak: float = 0.3) -> None:
        super().__init__(input_size, output_size)
        self.leak = leak
        self.map = nn.Linear(self.input_size, self.output_size)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.zeros(batch_size, self.output_size)

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.lerp(state, torch.tanh(self.map(x).to(state.dtype)), self.leak)
        return h.to(x.dtype), h


class IgnoresStarts(Average):
    """`scan` does not reset."""

    def scan(self, x: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        return super().scan(x, state, torch.zeros_like(start))


class MultipliesByZero(Average):
    """A reset that lets NaN pass."""

    def step(self, x: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        return self.update(x, state * ~start[:, None])


class SeesTheFuture(Average):
    """An output reads the last input of the row."""

    def scan(self, x: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        y, state = super().scan(x, state, start)
        return y + 1e-3 * x[:, -1:].mean(-1, keepdim=True), state


class MixesRows(Average):
    """An output reads the mean over the rows."""

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().update(x - x.mean(0), state)


class UnusedWeight(Average):
    """A parameter without influence."""

    def __init__(self, input_size: int, output_size: int | None = None) -> None:
        super().__init__(input_size, output_size)
        self.unused = nn.Parameter(torch.zeros(3))


class Forgets(Average):
    """A state that no output reads."""

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, h = super().update(x, torch.zeros_like(state))
        return y, h


class KeepsTheRow(Average):
    """The state is a view of the whole row."""

    def scan(self, x: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = super().scan(x, state, start)
        return y, y[:, -1].to(state.dtype)


class Explodes(Average):
    """A state that doubles at every step."""

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = 2 * state + self.map(x).to(state.dtype)
        return torch.tanh(h).to(x.dtype), h


class NarrowState(Average):
    """A state in the precision of the products."""

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = self.map(x) + self.leak * state.to(self.map(x).dtype)
        return h, h


class Hoards(Average):
    """All past inputs, outside of the state."""

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.past = [*getattr(self, "past", []), x]
        y, h = super().update(x, state)
        return y + torch.stack(self.past).mean(), h


class Crashes(Average):
    """An error of the core itself."""

    def update(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        raise KeyError("no such table")


BROKEN = {
    IgnoresStarts: "scan equals a loop over step",
    MultipliesByZero: "steps before a start have no influence",
    SeesTheFuture: "outputs do not depend on later inputs",
    MixesRows: "rows do not depend on each other",
    UnusedWeight: "every parameter has a gradient",
    Forgets: "a core with a state remembers",
    KeepsTheRow: "a state does not hold the memory of its row",
    Explodes: "very long rows stay finite",
    NarrowState: "results in half precision are near those in float32",
    Hoards: "memory use of a step is constant in time",
    Crashes: "rows may have any length",
}


def test_a_good_core_breaks_no_law(capsys: pytest.CaptureFixture[str]) -> None:
    report = testing.check_core(Average, traced=False, leak=0.5)
    assert report.ok
    assert {outcome.result for outcome in report.outcomes} == {"holds"}
    assert [outcome.law for outcome in report.outcomes] == [
        law.name for law in LAWS if not law.traced
    ]
    printed = capsys.readouterr().out
    assert printed == f"{report}\n"
    assert printed.startswith("laws of Average: all hold\n  scan equals a loop over step ")


def reason(core: type[Average], law: str) -> str:
    """The reason for which `check_core` finds that `core` breaks a law."""
    with pytest.raises(testing.BrokenLaws) as found:
        testing.check_core(core, only=law)
    text = str(found.value)
    (outcome,) = found.value.report.broken
    assert text.startswith(f"laws of {core.__name__}: 1 broken\n  {law}  BROKEN    ")
    return outcome.reason


@pytest.mark.parametrize(("core", "law"), BROKEN.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_a_broken_law_is_found(core: type[Average], law: str) -> None:
    assert reason(core, law)


def test_a_broken_core_gets_the_whole_table() -> None:
    with pytest.raises(testing.BrokenLaws) as found:
        testing.check_core(UnusedWeight, traced=False)
    report = found.value.report
    assert not report.ok
    assert [outcome.law for outcome in report.broken] == ["every parameter has a gradient"]
    assert len(report.outcomes) == len([law for law in LAWS if not law.traced])


def test_reasons_name_case_and_error() -> None:
    assert reason(UnusedWeight, "every parameter has a gradient") == "unused has no influence"
    assert reason(MultipliesByZero, "steps before a start have no influence") == (
        "nan, scan: results after the start at 0 differ (4 of 6 cases)"
    )
    crash = reason(Crashes, "rows may have any length")
    assert crash == "1: KeyError: 'no such table' (6 of 6 cases)"
    with pytest.raises(
        UsageError, match=r"unknown law 'rows may have any size'; did you mean rows"
    ):
        testing.check_core(Average, only="rows may have any size")


def test_a_core_may_give_up_a_guarantee() -> None:
    class Honest(Explodes):
        claims_length = False

    law = "very long rows stay finite"
    report = testing.check_core(Honest, only=law, quiet=True)
    assert report.outcomes == ((law, "no claim", "claims_length = False"),)
    (skipped,) = testing.laws(Honest, only=law)
    with pytest.raises(unittest.SkipTest, match="claims_length = False"):
        skipped()


def test_laws_are_tests_with_names() -> None:
    tests = {str(test): test for test in testing.laws(UnusedWeight, traced=False)}
    assert len(tests) == sum(len(list(law.cases())) for law in LAWS if not law.traced)
    tests["scan equals a loop over step (float32, 6)"]()
    with pytest.raises(AssertionError, match="unused has no influence"):
        tests["every parameter has a gradient"]()
    before = torch.random.get_rng_state()
    tests["rows may have any length (1)"]()
    assert torch.equal(torch.random.get_rng_state(), before)


PLUGIN_TEST = """
import pytest
from tests.testing.test_check_core import Average, UnusedWeight

@pytest.mark.core_laws(Average, leak=0.2, traced=False)
def test_good(law):
    law()

@pytest.mark.core_laws(UnusedWeight, traced=False)
def test_bad(law):
    law()
"""


@pytest.mark.slow
def test_the_plugin_gives_one_test_per_law(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = "rlmem.testing.plugin"\n')
    (tmp_path / "test_mine.py").write_text(PLUGIN_TEST)
    options = ["--strict-markers", "-p", "no:cacheprovider", "-k", "gradient"]
    options += ["-o", "markers=slow: a test of this file"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert "test_good[every parameter has a gradient] PASSED" in done.stdout
    assert "test_bad[every parameter has a gradient] FAILED" in done.stdout
    assert "unused has no influence" in done.stdout
    assert "no gradient crosses a start (scan)] PASSED" in done.stdout
    assert done.stdout.count("FAILED ") <= 2


@pytest.mark.slow
def test_all_laws_hold_with_compiler_and_export() -> None:
    # In a separate process: the shape checks of the tests cannot be traced.
    code = """
import sys
from rlmem.testing import check_core
report = check_core("elman", activation="relu")
assert len(report.outcomes) == int(sys.argv[1])
"""
    done = subprocess.run(
        [*warm_python(), "-c", code, str(len(LAWS))],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout.startswith("laws of elman: all hold\n"), done.stderr
    assert re.search(r"^  exported programs take any number of rows +holds$", done.stdout, re.M)
    # The profiler may trace its start on stderr.
    lines = done.stderr.splitlines()
    assert not [line for line in lines if not line.startswith("USDT:")]
