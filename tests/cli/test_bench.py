"""`rlmem bench`, `compare` and `plot` as programs: grids, lists, errors, output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlmem.cli.main import main
from tests.runs.run_folders import write_run

CURVE = [(100, -0.5, 10), (200, 0.5, 10)]


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["bench", *arguments, "list=true"]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_grid_is_listed_with_commands(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys, "cores=[gru,ffm]", "envs=[copy]", "seeds=2", "total_steps=512")
    assert len(lines) == 4
    assert lines[0] == (
        "waiting  copy-gru-seed0: rlmem train seed=0 core=gru env=copy total_steps=512"
    )
    assert not Path("runs").exists()


def test_options_with_commas_are_dimensions(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys, "core=gru", "env=copy", "algo.gamma=0,0.9", "seeds=[3,5]")
    names = [line.split()[1] for line in lines]
    assert names == [f"copy-gru-gamma={gamma}-seed{seed}:" for seed in (3, 5) for gamma in (0, 0.9)]


def test_a_benchmark_takes_options_for_all_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys, "popgym", "total_steps=99", "seeds=1", "only=repeat-medium")
    (line,) = [line for line in lines if "transformer_xl" in line]
    assert "popgym-repeat-medium-transformer_xl-seed0" in line
    assert "total_steps=99" in line
    assert "1500000" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench"], "needs NAME, or cores"),
        (["bench", "popgim"], "did you mean popgym"),
        (["bench", "popgym", "popgym"], "takes one benchmark"),
        (["bench", "popgym", "only=xyz"], "no cell has this text"),
        (["bench", "popgym", "jobs=two"], "jobs must be an integer"),
        (["bench", "popgym", "jobs=0"], "jobs must be an integer of at least 1"),
        (["bench", "popgym", "--jobs"], "has no flag --jobs"),
        (["bench", "popgym", "--resume"], "there is no folder runs/bench-popgym"),
        (["bench", "cores=[gur]", "envs=[copy]"], "unknown core 'gur'; did you mean mgu or gru"),
        (["bench", "cores=[gru]", "gama=0"], "unknown key 'gama'"),
        (["compare"], "needs folders"),
        (["compare", "here"], "there is no such folder"),
        (["compare", ".", "bye=core"], "unknown option of rlmem compare 'bye'; did you mean by"),
        (["plot"], "needs one run folder"),
        (["plot", "."], "is not a run folder"),
    ],
)
def test_bad_input_gets_one_line(
    arguments: list[str], message: str, error_line: Callable[..., str]
) -> None:
    assert message in error_line(*arguments)


def test_compare_prints_and_writes_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("x/a"), CURVE, [0.0, 1.0])
    write_run(Path("x/b"), CURVE, [0.0], core="ffm")
    assert main(["compare", "x"]) == 0
    out = capsys.readouterr().out
    assert out.index("gru") < out.index("ffm")
    files = {path.name for path in Path("x").iterdir() if path.is_file()}
    assert files == {"compare.md", "compare.csv", "compare.tex", "curves.png"}
    assert main(["compare", "x/a", "x/b", "by=core", "plot=false"]) == 0
    assert {path.name for path in Path("comparison").iterdir()} == {
        "compare.md",
        "compare.csv",
        "compare.tex",
    }


def test_plot_draws_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), CURVE, [0.0, 1.0])
    assert main(["plot", "a"]) == 0
    assert capsys.readouterr().out == "a/curve.png\n"
    assert Path("a/curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", ["bench", "compare", "plot", "report"])
def test_help_lists_the_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"rlmem {command} ")
    assert "Options" in text
