"""Small files of a run: sealed, with copies in checkpoints, and plain values only."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from rlmem.errors import UsageError
from rlmem.runs import checkpoint, run_files

CONFIG = "seed: 0\nname: gru\nenv:\n  kwargs: {}\n  length: 4\nrun_dir: a\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(run_files.seal_config(CONFIG))
    checkpoint.save(tmp_path, 7, nn.Linear(1, 1), {})
    return tmp_path


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: text, None),
        (lambda text: run_files.seal_config("seed: 5\n"), None),  # written by rlmem itself
        (lambda text: text.replace("run_dir: a", "run_dir: b"), None),
        (lambda text: CONFIG, None),
        (lambda text: text.replace("seed: 0", "seed: 1"), "seed is 1, and was 0; using it"),
        (lambda text: text.replace("{}", "{x: 2}"), "env.kwargs.x is 2, and was None; using it"),
        (lambda text: text.replace("seed:", "sded:"), "is missing or unknown; using its copy"),
        (lambda text: text.replace("length: 4", "length: [4"), "it is not YAML: .*using its copy"),
        (lambda text: text.replace("length: 4", "length: x"), "length is 'x', .*using its copy"),
        (lambda text: "", "using its copy of step 7"),
        (lambda text: "\0", "using its copy of step 7"),
        (None, "No such file or directory; using its copy of step 7"),
    ],
)
def test_changes_of_the_configuration_are_named(
    run: Path,
    change: Callable[[str], str] | None,
    line: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = run / "config.yaml"
    text = file.read_text()
    file.unlink()
    if change is not None:
        file.write_text(change(text))
    found = run_files.config_text(run)
    err = capsys.readouterr().err
    assert found == (text if line and "copy" in line else file.read_text())
    if line is None:
        assert err == ""
    else:
        assert re.search(line, err)
        assert err.count("\n") == 1


def test_a_damaged_file_without_a_copy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UsageError, match=r"cannot read .*config.yaml: it is not YAML"):
        run_files.config_text(tmp_path)
    (tmp_path / "agent.json").write_text('{"a": 1, "sha256": "0"}')
    with pytest.raises(UsageError, match=r"agent.json is damaged: its content was changed"):
        run_files.sealed_text(tmp_path, "agent.json", str)
    assert run_files.sealed_text(tmp_path, "tasks.json", str) is None
