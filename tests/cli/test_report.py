"""`rlmem report` as a program: the place of the page, and bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlmem.cli.main import main
from tests.runs.run_folders import write_run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "needs folders"),
        (["report", "here"], "here: there is no such folder"),
        (["report", "."], ".: there is no run in this folder"),
        (["report", ".", "to=a"], "unknown option of rlmem report 'to'"),
        (["report", "a", "out=a"], "out=a is a folder"),
        (["report", "a", "by=cor"], "unknown option in by 'cor'; did you mean core"),
        (["report", "a", "out=a/config.yaml/x.html"], "a/config.yaml/x.html: "),
    ],
)
def test_bad_input_gets_one_line(
    arguments: list[str], message: str, error_line: Callable[..., str]
) -> None:
    if "a" in arguments:
        write_run(Path("a"), [(100, 0.5, 1)])
    assert message in error_line(*arguments)


def test_the_page_is_written_beside_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("x/a"), [(100, 0.25, 1)], [0.5])
    write_run(Path("x/b"), [(100, 0.25, 1)], [0.5], core="ffm")
    assert main(["report", "x"]) == 0
    assert capsys.readouterr().out == "x/report.html\n"
    assert "Report of 2 runs" in Path("x/report.html").read_text()
    assert main(["report", "x/a", "x/b"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert main(["report", "x/a", "out=new/page.html", "by=core"]) == 0
    assert "Report of a" in Path("new/page.html").read_text()
