"""Comparison of runs: groups, labels, statistics, files and curves."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from rlmem.errors import UsageError
from rlmem.runs import compare, learning_curves, records
from rlmem.runs.compare import Group
from rlmem.runs.records import Curve
from rlmem.runs.table import Table, number
from tests.runs.run_folders import write_run

CURVE = [(100, -0.5, 10), (200, 0.0, 10)]


def groups(root: Path, *by: str) -> list[Group]:
    return compare.group(map(records.read, records.find([root])), by)


def names(found: list[Group]) -> list[tuple[str, str, int]]:
    return [(each.env, each.label, len(each.runs)) for each in found]


def two_cores(root: Path) -> None:
    for seed, value in enumerate((0.5, 0.7)):
        write_run(root / f"gru{seed}", CURVE, [value, value + 0.1], seed=seed)
        write_run(root / f"ffm{seed}", CURVE, [value - 0.4] * 2, core="ffm", seed=seed)


def test_seeds_are_one_group_and_the_best_is_first(tmp_path: Path) -> None:
    two_cores(tmp_path)
    found = groups(tmp_path)
    assert names(found) == [("popgym-repeat/easy", "gru", 2), ("popgym-repeat/easy", "ffm", 2)]
    values = compare.values(found[0])
    assert values["return"] == pytest.approx(0.65)
    # Student's t with one degree of freedom: 12.706 standard errors of 0.1.
    assert values["high"] - values["return"] == pytest.approx(1.2706, abs=1e-3)
    assert values["iqm"] == pytest.approx((0.6 + 0.7) / 2)
    assert values["memory_score"] == pytest.approx((0.65 + 0.49) / 1.49)


def test_differing_options_name_the_groups(tmp_path: Path) -> None:
    write_run(tmp_path / "a", CURVE, [0.0], num_envs=4, run_dir="a", threads=1)
    write_run(tmp_path / "b", CURVE, [1.0], num_envs=8, run_dir="b", threads=2)
    # Options of a core are compared within this core.
    write_run(tmp_path / "c", CURVE, [2.0], core={"name": "ffm", "memory": 3}, num_envs=8)
    labels = [each.label for each in groups(tmp_path)]
    assert labels == ["ffm num_envs=8", "gru num_envs=8", "gru num_envs=4"]
    assert [each.label for each in groups(tmp_path, "core")] == ["ffm", "gru"]
    assert [each.label for each in groups(tmp_path, "num_envs")] == ["num_envs=8", "num_envs=4"]
    with pytest.raises(UsageError, match="unknown option in by 'cores'; did you mean core"):
        groups(tmp_path, "cores")


def test_tasks_are_not_told_apart_by_their_settings(tmp_path: Path) -> None:
    write_run(tmp_path / "a", CURVE, [0.0], env="popgym-repeat", num_envs=4)
    write_run(tmp_path / "b", CURVE, [0.0], env="popgym-bandit", num_envs=8)
    assert [each.label for each in groups(tmp_path)] == ["gru", "gru"]


def test_runs_without_evaluation_are_marked(tmp_path: Path) -> None:
    write_run(tmp_path / "a", CURVE)
    write_run(tmp_path / "b", [], core="ffm")
    rows = compare.table(groups(tmp_path)).rows
    assert [row[3] for row in rows] == ["0.000*", "-"]


def test_statistics_over_tasks(tmp_path: Path) -> None:
    for env, shift in (("popgym-repeat", 0.0), ("popgym-autoencode", 0.3)):
        for seed in range(2):
            low, high = shift + seed / 10, shift + 0.5 + seed / 10
            write_run(tmp_path / f"{env}-g{seed}", CURVE, [high], env=env, seed=seed)
            write_run(tmp_path / f"{env}-f{seed}", CURVE, [low], "ffm", env, seed=seed)
    found = groups(tmp_path)
    pairs = compare.improvements(found)
    assert pairs is not None
    assert [row[:4] for row in pairs.rows] == [("gru", "ffm", "2", "1.000 [1.000, 1.000]")]
    pooled = compare.aggregates(found)
    assert pooled is not None
    assert [row[:3] for row in pooled.rows] == [("gru", "2", "4"), ("ffm", "2", "4")]
    # A run with fewer tasks cannot be compared over all of them.
    write_run(tmp_path / "s5", CURVE, [1.0], core="s5")
    assert list(compare.profiles(groups(tmp_path))) == ["gru", "ffm"]
    memory = [(score + 0.49) / 1.49 for score in (0.5, 0.6)]
    memory += [(score + 0.471) / 1.471 for score in (0.8, 0.9)]
    assert pooled.rows[0][3].startswith(number(sum(sorted(memory)[1:3]) / 2))


def test_files_hold_the_same_table(tmp_path: Path) -> None:
    two_cores(tmp_path)
    markdown, plain, latex = compare.write(groups(tmp_path), tmp_path / "out")
    with plain.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["agent"] for row in rows] == ["gru", "ffm"]
    assert float(rows[0]["return"]) == pytest.approx(0.65)
    assert "| popgym-repeat/easy | gru | 2 | 0.650 |" in markdown.read_text()
    assert r"popgym-repeat/easy & gru & 2 & 0.650 &" in latex.read_text()
    assert r"95 \% interval" in latex.read_text()


def test_table_forms() -> None:
    table = Table(("a_b", "n"), [("x|y", "1.5"), ("z", "10")])
    assert table.text() == "a_b    n\n---  ---\nx|y  1.5\nz     10"
    assert table.markdown().splitlines()[1:3] == ["| --- | ---: |", r"| x\|y | 1.5 |"]
    assert table.latex().splitlines()[2] == r"a\_b & n \\"
    assert number(-0.0001) == "0.000"
    assert number(None) == "-"


def test_bins_weigh_episodes_and_smoothing_keeps_gaps() -> None:
    curve = Curve(np.array([10, 20, 40]), np.array([0.0, 1.0, 3.0]), np.array([1.0, 3.0, 1.0]))
    found = learning_curves.binned(curve, np.array([0.0, 20.0, 30.0, 40.0, 50.0]))
    # The third bin has no end of an episode: it lies between the others.
    np.testing.assert_allclose(found, [0.75, 1.875, 3.0, np.nan])


def test_curves_and_profiles_are_drawn(tmp_path: Path) -> None:
    two_cores(tmp_path / "runs")
    write_run(tmp_path / "runs/b", CURVE[:1], [0.0], env="popgym-bandit")
    for index in range(10):
        write_run(tmp_path / f"runs/many{index}", CURVE, [0.0], num_envs=index, env="copy")
    found = groups(tmp_path / "runs")
    drawn = learning_curves.draw(found, tmp_path / "curves.png")
    assert drawn.read_bytes().startswith(b"\x89PNG")
    tasks = {"gru": [np.array([0.1, 0.5]), np.array([0.9])]}
    profile = learning_curves.draw_profiles(tasks, tmp_path / "profiles.png")
    assert profile.stat().st_size > 5000
