"""`check_core`: all laws for one core, as a table; `laws`: the same as functions for pytest."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rlmem.cores.base import registry
from rlmem.errors import unknown
from rlmem.testing import precision_laws, program_laws, row_laws  # noqa: F401 (they fill LAWS)
from rlmem.testing.law import LAWS, Case, Law, NoClaim, Subject


class Outcome(NamedTuple):
    """The result of one law, `holds`, `broken` or `no claim`, and the reason."""

    law: str
    result: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The results of all laws for a core; as text, a table."""

    core: str
    outcomes: tuple[Outcome, ...]

    @property
    def ok(self) -> bool:
        """Whether no law is broken."""
        return not self.broken

    @property
    def broken(self) -> list[Outcome]:
        """The broken laws."""
        return [outcome for outcome in self.outcomes if outcome.result == "broken"]

    def __str__(self) -> str:
        width = max(len(outcome.law) for outcome in self.outcomes)
        lines = [
            f"  {law:<{width}}  {result.upper() if result == 'broken' else result:8}  {reason}"
            for law, result, reason in self.outcomes
        ]
        count = len(self.broken)
        verdict = f"{count} broken" if count else "all hold"
        return "\n".join([f"laws of {self.core}: {verdict}", *(line.rstrip() for line in lines)])


class BrokenLaws(AssertionError):
    """A core breaks laws; the message is the table, `report` the results."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def check_core(
    core: str | Callable[..., Any],
    /,
    *,
    device: str = "cpu",
    traced: bool = True,
    only: str = "",
    quiet: bool = False,
    **options: Any,
) -> Report:
    """Check a core against all laws, print a table of the results and return them.

    `core` is a class (or a registered name), `options` are its constructor's arguments but for the
    sizes. Without `traced`, the laws about compilers are left out, which take most of the time;
    `only` is a part of the names of the laws to check. Raises `BrokenLaws` if a law does not hold.
    """
    subject = _subject(core, device, options)
    report = Report(_name(core), tuple(_outcome(law, subject) for law in _chosen(traced, only)))
    if not report.ok:
        raise BrokenLaws(report)
    if not quiet:
        print(report)
    return report


def laws(
    core: str | Callable[..., Any],
    /,
    *,
    device: str = "cpu",
    traced: bool = True,
    only: str = "",
    **options: Any,
) -> list[Callable[[], None]]:
    """One function for each case of each law, for `pytest.mark.parametrize(..., ids=str)`.

    It raises an AssertionError if the law is broken, and `unittest.SkipTest`, which pytest knows,
    if the core does not claim the property. Takes the arguments of `check_core`.
    """
    subject = _subject(core, device, options)
    return [_Test(case, subject) for law in _chosen(traced, only) for case in law.cases()]


class _Test:
    """A case for one core, as a test without arguments."""

    def __init__(self, case: Case, subject: Subject) -> None:
        self.case, self.subject = case, subject
        self.__name__ = str(self)

    def __call__(self) -> None:
        try:
            _run(self.case, self.subject)
        except NoClaim as reason:
            raise unittest.SkipTest(str(reason)) from None

    def __str__(self) -> str:
        values = str(self.case)
        return self.case.law.name + (f" ({values})" if values else "")


def _chosen(traced: bool, only: str) -> list[Law]:
    """The laws whose names contain `only`, without the traced ones unless `traced`."""
    known = [law for law in LAWS if traced or not law.traced]
    found = [law for law in known if only in law.name]
    if not found:
        raise unknown("law", only, [law.name for law in known])
    return found


def _outcome(law: Law, subject: Subject) -> Outcome:
    problems, excuses, count = [], [], 0
    for case in law.cases():
        count += 1
        place = f"{case}: " if case.values else ""
        try:
            _run(case, subject)
        except NoClaim as reason:
            excuses.append(str(reason))
        except AssertionError as error:
            problems.append(place + _line(error))
        except Exception as error:  # a core may fail in any way
            problems.append(f"{place}{type(error).__name__}: {_line(error)}")
    if problems:
        more = f" ({len(problems)} of {count} cases)" if count > 1 else ""
        return Outcome(law.name, "broken", problems[0] + more)
    if len(excuses) == count:
        return Outcome(law.name, "no claim", excuses[0])
    return Outcome(law.name, "holds", f"but {excuses[0]}" if excuses else "")


def _run(case: Case, subject: Subject) -> None:
    """Run a case with a fixed seed; the caller's random numbers stay as they are."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        if case.law.traced:
            warnings.simplefilter("ignore")  # of the compilers
        case(subject)


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__


def _subject(core: str | Callable[..., Any], device: str, options: dict[str, Any]) -> Subject:
    return Subject(registry.get(core) if isinstance(core, str) else core, options, device)


def _name(core: str | Callable[..., Any]) -> str:
    return core if isinstance(core, str) else getattr(core, "__name__", str(core))
