"""Progress: a line at intervals where stderr is no terminal."""

from __future__ import annotations

import time

import pytest

from rlmem.runs.progress import Progress


def test_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlmem.runs.progress.INTERVAL", 0.05)
    with Progress("steps", 1000, start=100) as progress:
        time.sleep(0.2)  # lines also come while a single iteration runs
        progress.show(300, "return 0.500")
        time.sleep(0.2)
    out, err = capsys.readouterr()
    first, *_, last = err.splitlines()
    assert (out, first) == ("", "100/1,000 steps after 0 s")
    assert last.startswith("300/1,000 steps after 0 s, ")
    assert last.endswith(" s left, return 0.500")
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_speed_and_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr("rlmem.runs.progress.time.monotonic", lambda: now)
    with Progress("steps", 100_000, start=10_000, shown=False) as progress:
        now += 60
        progress.show(40_000, "return 1.000")
        expected = "40,000/100,000 steps after 60 s, 500 steps/s, about 120 s left, return 1.000"
        assert progress.line() == expected


def test_progress_can_be_disabled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlmem.runs.progress.INTERVAL", 0.01)
    with Progress("steps", 1000, shown=False) as progress:
        progress.show(1)
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "")
