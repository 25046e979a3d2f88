"""A newcomer's path, with the commands of the site, from an empty folder to a report.

The commands start the installed program, in an interpreter of its own.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.documented import FILES, PAGES, run
from tests.runs.report.pages import Page

PROGRAM = Path(sysconfig.get_path("scripts")) / "rlmem"


class Newcomer:
    """Somebody in an empty folder who reads the site; `said` has everything that was printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = ""

    def types(self, command: str, more: str = "") -> str:
        """Run a command of the site, with `more` options; returns what it prints.

        The command must be on a page; `more` makes it short.
        """
        assert any(re.search(rf"{re.escape(command)}(?![\w=])", page) for page in PAGES.values())
        return self.runs(f"{command} {more}".rstrip())

    def runs(self, command: str) -> str:
        """Run a command, which the program itself has printed; returns what it prints."""
        program, _, rest = command.partition(" ")
        assert program == "rlmem"
        done = run(["bash", "-c", f"{PROGRAM} {rest}"], self.folder)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        self.said += done.stdout + done.stderr
        return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM.exists(), reason="needs the installed program")
def test_the_path_of_a_newcomer(tmp_path: Path) -> None:
    reader = Newcomer(tmp_path)
    small = "total_steps=16384 eval_episodes=10"
    # The first command of the README, and the one that it names next.
    printed = reader.types("rlmem train env=popgym-repeat core=ffm", f"{small} run_dir=runs/first")
    assert re.match(r"return -?\d\.\d+ \(memory score .* after 16,384 steps", printed)
    following = printed.rpartition("next: ")[2].strip()
    assert "reward" in reader.runs(following)
    # Two cores, side by side.
    printed = reader.types("rlmem train -m core=ffm,none total_steps=10000 eval_episodes=10")
    compared = reader.types("rlmem compare", "multirun by=core")
    for table in (printed, compared):
        rows = re.findall(r"^popgym-repeat\S* +(?:core=)?(ffm|none) ", table, re.M)
        assert sorted(rows) == ["ffm", "none"], table
    # An environment of one's own.
    (tmp_path / "signal_task.py").write_text(FILES["signal_task.py"])
    reader.types("rlmem check env=./signal_task.py:Signal")
    own = "rlmem train env=./signal_task.py:Signal core=gru total_steps=20000 eval_every=50%"
    reader.types(own, "run_dir=runs/signal")
    # An agent in a file, and a program without torch that plays it.
    reader.types("rlmem export run=runs/signal to=agent.onnx")
    (tmp_path / "act_onnx.py").write_text(FILES["act_onnx.py"])
    acted = run([sys.executable, "act_onnx.py"], tmp_path)
    assert acted.stdout.strip() in ("0.0", "1.0"), acted.stderr
    session = onnxruntime.InferenceSession(tmp_path / "agent.onnx")
    inputs = {each.name for each in session.get_inputs()}
    assert inputs == {"obs", "start", "state"}
    # One page about everything.
    reader.types("rlmem report", "runs multirun out=all.html")
    page = Page((tmp_path / "all.html").read_text())
    assert len(page.attributes("data-run")) == 4
    last = [float(value) for value in page.attributes("data-last")]
    assert np.isfinite(last).all()
