"""Logs of a run: a consistent `metrics.csv`, and the progress."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlmem.runs.log import RunLogger


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert {len(line) for line in lines} == {len(lines[0])}
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def _column(run: Path, name: str) -> list[str]:
    return [row[name] for row in _rows(run)]


def test_new_metrics_become_new_columns(tmp_path: Path) -> None:
    with RunLogger(tmp_path, 30) as logger:
        logger.log(10, {"loss": 0.5})
        logger.log(20, {"loss": 0.25, "episode_return": -1})
        logger.log(30, {"episode_return": 0.1 + 0.2, 'a "name", quoted': 1})
    assert list(_rows(tmp_path)[0]) == [
        "step",
        "seconds",
        "steps_per_second",
        "loss",
        "episode_return",
        'a "name", quoted',
    ]
    assert _column(tmp_path, "step") == ["10", "20", "30"]
    assert _column(tmp_path, "loss") == ["0.5", "0.25", ""]
    assert _column(tmp_path, "episode_return") == ["", "-1.0", repr(0.1 + 0.2)]


def test_a_row_is_written_at_once(tmp_path: Path) -> None:
    with RunLogger(tmp_path, 20) as logger:
        for step in (10, 20):
            logger.log(step, {"loss": step})
            assert _column(tmp_path, "loss")[-1] == f"{step}.0"


def test_speed_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rlmem.runs.log.time.monotonic", lambda: now)
    with RunLogger(tmp_path, 1000) as logger:
        now += 2
        logger.log(100, {})
        now += 0.5
        logger.log(200, {})
    now += 1000
    with RunLogger(tmp_path, 1000, start_step=200) as logger:
        now += 4
        logger.log(300, {})
    assert _column(tmp_path, "seconds") == ["2.0", "2.5", "6.5"]
    assert _column(tmp_path, "steps_per_second") == ["50.0", "200.0", "25.0"]


def test_resuming_drops_rows_after_the_checkpoint(tmp_path: Path) -> None:
    with RunLogger(tmp_path, 40) as logger:
        for step in (10, 20, 30):
            logger.log(step, {"loss": step})
    with RunLogger(tmp_path, 40, start_step=20) as logger:
        logger.log(30, {"loss": -1, "entropy": 2})
    assert _column(tmp_path, "step") == ["10", "20", "30"]
    assert _column(tmp_path, "loss") == ["10.0", "20.0", "-1.0"]
    assert _column(tmp_path, "entropy") == ["", "", "2.0"]


def test_resuming_drops_an_incomplete_row(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,seconds,loss\n10,1.5,0.5\n20,2")
    with RunLogger(tmp_path, 40, start_step=20) as logger:
        logger.log(30, {"loss": 3})
    assert _column(tmp_path, "step") == ["10", "30"]
    assert float(_column(tmp_path, "seconds")[-1]) >= 1.5


@pytest.mark.parametrize("content", [b"name,age\nx,3\n", b"\xff\xfe\x00", None])
def test_a_file_without_metrics_is_set_aside(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "metrics.csv"
    (tmp_path / "metrics.damaged.csv").write_text("an older one")
    file.mkdir() if content is None else file.write_bytes(content)
    with RunLogger(tmp_path, 10) as logger:
        logger.log(10, {"loss": 1})
    assert _column(tmp_path, "step") == ["10"]
    aside = tmp_path / "metrics.damaged-2.csv"
    assert aside.is_dir() if content is None else aside.read_bytes() == content
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("; it is now metrics.damaged-2.csv")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text, False),
        (lambda text: text + "40,3,1.0,9.0,\n", False),  # after the checkpoint
        (lambda text: text.replace("2.5", "2.6"), True),
        (lambda text: "".join(text.splitlines(True)[:-1]), True),
        (lambda text: text.replace("\n20,", "\nx0,"), True),
        (lambda text: "", True),
    ],
)
def test_rows_other_than_those_of_the_checkpoint_are_named(
    tmp_path: Path, change: Callable[[str], str], named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLogger(tmp_path, 40) as logger:
        logger.log(10, {"loss": 2.5})
        logger.log(20, {"loss": 3, "entropy": 0.1})
        logs = logger.describe()
    assert logs["metrics.csv"]["rows"] == 2
    # Metrics that are new after the checkpoint add a column to all rows.
    with RunLogger(tmp_path, 40, start_step=20, logs=logs) as logger:
        logger.log(30, {"loss": 4, "other": 1})
    file = tmp_path / "metrics.csv"
    file.write_text(change(file.read_text().rpartition("30,")[0]))
    with RunLogger(tmp_path, 40, start_step=20, logs=logs):
        pass
    assert ("metrics.csv is not the one of step 20" in capsys.readouterr().err) == named


def test_only_one_file_is_written(tmp_path: Path) -> None:
    with RunLogger(tmp_path, 10) as logger:
        logger.log(10, {"loss": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_an_error_closes_the_files(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, 10)
    with pytest.raises(ValueError, match="not a number"), logger:
        _log_then_fail(logger)
    assert _column(tmp_path, "loss") == ["1.0"]
    with pytest.raises(ValueError, match="closed file"):
        logger.log(20, {"loss": 1})


def _log_then_fail(logger: RunLogger) -> None:
    logger.log(10, {"loss": 1})
    raise ValueError("not a number")


def test_without_a_terminal_only_one_line_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLogger(tmp_path, 2000) as logger:
        logger.log(2000, {"episode_return": 1})
        assert capsys.readouterr() == ("", "")
        logger.finish("return 0.975", "rlmem play run=a")
    out, err = capsys.readouterr()
    assert out.startswith("return 0.975 after 2,000 steps (")
    assert out.endswith(" steps/s); next: rlmem play run=a\n")
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.parametrize("progress", [True, False])
def test_a_terminal_gets_a_progress_bar(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    progress: bool,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with RunLogger(tmp_path, 3000, progress=progress) as logger:
        logger.log(1000, {"episode_return": -0.5})
        logger.log(2000, {})
    out, err = capsys.readouterr()
    assert out == ""
    assert ("2,000/3,000 steps" in err) is progress
    assert ("return -0.500" in err) is progress
    assert ("ETA" in err) is progress
