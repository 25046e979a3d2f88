"""Run the notebooks in docs/notebooks, and record their outputs in them.

    pip install -c constraints.txt nbclient ipykernel
    python scripts/run_notebooks.py [NAME ...]

Each runs in a folder of its own. `tests/test_notebooks.py` runs the same cells without Jupyter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="names of notebooks; all by default")
    for name in parser.parse_args().names or sorted(
        each.stem for each in NOTEBOOKS.glob("*.ipynb")
    ):
        began = time.monotonic()
        record(NOTEBOOKS / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def record(path: Path) -> None:
    """Run a notebook and write it with its outputs, without times and versions of this machine."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
