"""The notebooks in docs run from top to bottom, and have the outputs of a run."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.warm_python import warm_python

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
# In place of IPython, which need not be installed.
IMPORT = "from IPython.display import Image, display"
DISPLAY = "Image, display = lambda filename: open(filename, 'rb').read(4), print"


def code(path: Path) -> list[str]:
    """The code cells of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_is_code_with_its_output(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), path.name, "exec")
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    assert outputs
    assert not any(out["output_type"] == "error" for out in outputs)
    # A path of the machine that has run it says nothing to a reader.
    assert tempfile.gettempdir() not in json.dumps(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    program = "\n\n".join(code(path)).replace(IMPORT, DISPLAY)
    began = time.monotonic()
    done = subprocess.run(
        [*warm_python(), "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"{path.stem}: {time.monotonic() - began:.0f} s")
    printed = json.loads(path.read_text())["cells"]
    # The last lines of the last cell with output begin as those that are recorded.
    last = [cell for cell in printed if cell.get("outputs")][-1]["outputs"]
    recorded = "".join(text for out in last for text in out.get("text", [])).split()
    assert recorded
    assert recorded[0] in done.stdout


def test_there_are_three() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["adaptation", "compare-memories", "own-environment"]
