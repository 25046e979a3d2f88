"""Results read from run folders: curves, MMER, references, damaged files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlmem.errors import UsageError
from rlmem.runs import records
from rlmem.runs.records import Curve
from tests.runs.run_folders import write_run

CURVE = [(100, -0.5, 10), (200, None, 0), (300, 0.5, 30)]


def curve(*rows: tuple[int, float, float]) -> Curve:
    steps, returns, episodes = (np.array(column) for column in zip(*rows, strict=True))
    return Curve(steps, returns.astype(float), episodes.astype(float))


def test_a_run_is_read_with_its_curve_and_evaluation(tmp_path: Path) -> None:
    run = records.read(write_run(tmp_path / "a", CURVE, [0.0, 1.0], num_envs=4))
    assert run.curve.steps.tolist() == [100, 300]  # no episode has ended between
    assert run.curve.returns.tolist() == [-0.5, 0.5]
    assert (run.steps, run.seconds, run.speed) == (300, 0.3, 1000)
    assert run.score == 0.5
    assert run.env == "popgym-repeat/easy"
    assert run.options["num_envs"] == 4
    assert run.memoryless == -0.490


def test_the_score_before_the_evaluation_is_the_last_training_return(tmp_path: Path) -> None:
    run = records.read(write_run(tmp_path / "a", CURVE[:2]))
    assert (run.score, run.evaluation, run.steps) == (-0.5, None, 200)
    assert records.read(write_run(tmp_path / "b", [])).score is None


def test_the_memoryless_score_depends_on_the_previous_action(tmp_path: Path) -> None:
    env = {"name": "popgym-bandit", "difficulty": "easy", "previous_action": True}
    assert records.read(write_run(tmp_path / "a", CURVE, env=env)).memoryless == 0.467
    env["previous_action"] = False
    assert records.read(write_run(tmp_path / "b", CURVE, env=env)).memoryless == 0.0
    assert records.read(write_run(tmp_path / "c", CURVE, env="copy")).reference is None


def test_a_row_that_a_killed_process_has_left_is_ignored(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", CURVE)
    with (path / "metrics.csv").open("a") as file:
        file.write("400,0.4,10")
    assert records.read(path).steps == 300
    assert records.newest(path / "metrics.csv") == (300, "0.500", 1000.0)
    assert records.newest(tmp_path / "missing.csv") == (0, "", 0.0)


def test_mmer_is_the_best_epoch_with_every_episode_counted_once() -> None:
    # Epoch 1: (10 * 0 + 30 * 1) / 40; epoch 2: 0.5, although one iteration in it reaches 0.9.
    found = curve((50, 0.0, 10), (100, 1.0, 30), (150, 0.9, 10), (200, 0.1, 10))
    assert records.mmer(found, 100) == pytest.approx(0.75)
    assert records.mmer(found, 50) == pytest.approx(1.0)
    # The beginning of an epoch is too short for its mean.
    longer = curve((50, 0.0, 10), (100, 1.0, 30), (120, 5.0, 1))
    assert records.mmer(longer, 100) == pytest.approx(0.75)
    assert records.mmer(curve((120, 0.2, 1)), 1000) == pytest.approx(0.2)
    assert records.mmer(Curve(*(np.array([]) for _ in range(3)))) is None


def test_runs_are_found_below_folders_once(tmp_path: Path) -> None:
    for name in ("x/a", "x/b/c", "y"):
        write_run(tmp_path / name, CURVE)
    (tmp_path / "x/.hidden").mkdir()
    found = records.find([tmp_path / "x", tmp_path / "x/a", tmp_path / "y"])
    assert found == [tmp_path / name for name in ("x/a", "x/b/c", "y")]
    (tmp_path / "empty").mkdir()
    for bad, message in (("empty", "no run in this folder"), ("z", "no such folder")):
        with pytest.raises(UsageError, match=message):
            records.find([tmp_path / bad])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "{a: [", "cannot read .*config.yaml"),
        ("config.yaml", "a: 1", "not the configuration of a run"),
        ("config.yaml", "{env: {}, core: {}, algo: {}}", "not the configuration of a run"),
        ("eval.json", "{", "cannot read .*eval.json"),
        ("eval.json", "{}", "cannot read .*eval.json: it has no 'return_mean'"),
        ("eval.json", '{"return_mean": 0, "returns": ["x"]}', "eval.json: it is damaged: could"),
        ("metrics.csv", "a,b\n1,2\n", "no column 'step'"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    path = write_run(tmp_path / "a", CURVE)
    (path / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        records.read(path)


def test_reading_needs_no_torch() -> None:
    program = "import rlmem.cli.compare, rlmem.cli.bench, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_many_runs_are_read_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_run(tmp_path / str(i), [(100, float(i), 1)]) for i in range(3)]
    before = records.read_all(paths)
    asked: list[int] = []

    class Pool:
        """In place of processes: their start takes a second."""

        def __init__(self, workers: int, *_: object) -> None:
            asked.append(workers)

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...

        map = staticmethod(map)

    monkeypatch.setattr(records, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(records, "PARALLEL_BYTES", 0)
    after = records.read_all(paths, processes=2)
    assert asked == [2]
    assert [run.curve.returns.tolist() for run in after] == [[0.0], [1.0], [2.0]]
    assert [run.path for run in after] == [run.path for run in before]


@pytest.mark.slow
def test_processes_read_what_this_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_run(tmp_path / str(i), [(100, float(i), 1)], [0.5]) for i in range(3)]
    here = records.read_all(paths)
    monkeypatch.setattr(records, "PARALLEL_BYTES", 0)
    for one, other in zip(here, records.read_all(paths, 2), strict=True):
        assert (one.path, one.options, one.evaluation) == (
            other.path,
            other.options,
            other.evaluation,
        )
        assert (one.curve.returns == other.curve.returns).all()


def test_tables_with_and_without_quotes_are_the_same(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", CURVE * 700)  # more rows than are split at once
    plain = records.read(path).curve
    text = (path / "metrics.csv").read_text()
    (path / "metrics.csv").write_text(text.replace("step,", '"step",', 1))
    quoted = records.read(path).curve
    assert len(plain.steps) == 1400
    for one, other in zip(plain, quoted, strict=True):
        assert (one == other).all()
