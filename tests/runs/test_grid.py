"""Cells of benchmarks: names, dimensions, errors; and the benchmarks of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlmem.cli.hydra_errors import compose
from rlmem.errors import UsageError
from rlmem.runs import grid
from rlmem.runs.scores import PUBLISHED, REFERENCES

BENCHMARKS = sorted(path.stem for path in grid.BENCHMARKS.glob("*.yaml"))


def test_values_with_commas_are_dimensions() -> None:
    cells = grid.cells([["core=gru,ffm", "env=copy", "algo.gamma=0,0.9", "seed=0,1"]])
    assert len(cells) == 8
    assert cells[0] == (
        "copy-gru-gamma=0-seed0",
        ("core=gru", "env=copy", "algo.gamma=0", "seed=0"),
    )
    assert cells[-1].name == "copy-ffm-gamma=0.9-seed1"


def test_brackets_and_quotes_keep_their_commas() -> None:
    (cell,) = grid.cells([["env=gym", "core=gru", "env.kwargs={a:1,b:2}", "x='a,b'"]])
    assert cell.options["env.kwargs"] == "{a:1,b:2}"
    assert cell.options["x"] == "'a,b'"


def test_a_later_option_of_a_line_wins() -> None:
    (cell,) = grid.cells([["seed=0", "env=copy", "core=gru", "total_steps=5", "total_steps=9"]])
    assert cell.overrides == ("seed=0", "env=copy", "core=gru", "total_steps=9")


def test_names_have_the_difficulty_and_no_separators() -> None:
    (cell,) = grid.cells([["env=a.py:Task", "env.difficulty=hard", "core=ffm"]])
    assert cell.name == "a.py_Task-hard-ffm-seed0"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["env=copy", "gru"]], "cannot read 'gru'"),
        ([["env=copy", "core=gru"], ["env=copy", "core=gru"]], "two cells have the name"),
    ],
)
def test_bad_lines_are_refused(lines: list[list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid.cells(lines)


def test_seeds_are_a_number_or_a_list() -> None:
    assert grid.seeds("3") == "0,1,2"
    assert grid.seeds(["5", "7"]) == "5,7"
    assert grid.seeds("5,7") == "5,7"
    for bad in ("0", "x", "1.5"):
        with pytest.raises(UsageError, match="seeds must be"):
            grid.seeds(bad)


def test_a_benchmark_is_a_name_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seeds: 2\ncells:\n  - env=copy core=gru,ffm\n")
    assert grid.load(str(path)) == ([["env=copy", "core=gru,ffm"]], "2")
    with pytest.raises(UsageError, match="did you mean popgym"):
        grid.load("popgim")
    path.write_text("cell: 1")
    with pytest.raises(UsageError, match="no list `cells`"):
        grid.load(str(path))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_of_the_package_have_valid_options(name: str) -> None:
    cells = grid.cells(grid.load(name).lines)
    kinds = {tuple(o for o in cell.overrides if not o.startswith("seed=")) for cell in cells}
    # Every ninth, since composing takes a fifth of a second.
    for overrides in sorted(kinds)[::9]:
        compose("train", overrides)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_all_cells_of_the_package_have_valid_options(name: str) -> None:
    for cell in grid.cells(grid.load(name).lines):
        compose("train", cell.overrides)


def test_popgym_has_every_task_and_level() -> None:
    cells = grid.cells(grid.load("popgym").lines)
    there = {(cell.options["env"], cell.options["env.difficulty"]) for cell in cells}
    levels = ("easy", "medium", "hard")
    assert there == {(env, level) for env in REFERENCES for level in levels}
    published = {(env, level) for env in PUBLISHED for level in levels}
    seeded = {
        (cell.options["env"], cell.options["env.difficulty"])
        for cell in cells
        if cell.options.get("seed") == "2"
    }
    assert published <= seeded, "a cell with a published score has three seeds"
