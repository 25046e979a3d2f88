"""The plan of the house: no import runs upward, rooms stay small and light to enter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlmem"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_SOURCES = SOURCES + sorted(
    p for part in ("tests", "scripts", "examples") for p in ROOT.glob(f"{part}/**/*.py")
)

# From the ground up: each room and what it may import, all of it further down.
FLOOR = {"errors", "tree", "registry"}
MAY_IMPORT = {
    "configs": set(),
    "errors": set(),
    "tree": set(),
    "registry": {"errors"},
    "kernels": {"errors"},
    "cores": FLOOR | {"kernels"},
    "policies": FLOOR | {"kernels", "cores"},
    "envs": FLOOR,
    "algos": FLOOR | {"kernels", "cores", "policies", "envs.base"},
    "stats": FLOOR,
    "checkpoint": FLOOR,
    "log": FLOOR,
    "tasks": FLOOR | {"envs"},
    "torchrl": FLOOR | {"cores", "envs"},
    "gym": FLOOR | {"envs"},
    "record": FLOOR | {"algos", "envs"},
    "minari_data": FLOOR | {"algos", "envs", "record"},
    "evaluate": FLOOR | {"policies", "envs", "algos", "checkpoint", "stats", "train"},
    "train": FLOOR
    | {"policies", "envs", "algos", "checkpoint", "log", "tasks", "evaluate", "record"},
    "plot": FLOOR | {"stats"},
    "adapt": FLOOR | {"envs", "evaluate", "stats", "tasks", "train", "plot"},
    "play": FLOOR | {"policies", "envs", "checkpoint", "train"},
    "cli": FLOOR | {"envs", "checkpoint", "log", "train", "evaluate", "adapt", "play"},
}


def room(path: Path) -> str:
    """The room that a file of the package lies in: its sub-package, or its own name."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if name.startswith("cli_") or name == "__main__" else name


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it, relative ones made absolute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["rlmem", *path.relative_to(PACKAGE).parts[:-1]]
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            # What is imported from the package itself is a room.
            yield from ([f"rlmem.{a.name}" for a in node.names] if base == "rlmem" else [base])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_upward(path):
    if path == PACKAGE / "__init__.py":
        assert not list(imports(path))
        return
    here = room(path)
    assert here in MAY_IMPORT, f"give {here} its place among the rooms"
    for module in imports(path):
        if not module.startswith("rlmem.") or module == "rlmem.__version__":
            continue
        inside = module.removeprefix("rlmem.")
        there = "cli" if inside.startswith("cli_") else inside.split(".")[0]
        fine = there == here or there in MAY_IMPORT[here] or inside in MAY_IMPORT[here]
        assert fine, f"{here} must not know {module}"


def test_the_plan_itself_has_no_way_up():
    order = list(MAY_IMPORT)
    for here, others in MAY_IMPORT.items():
        for there in {other.split(".")[0] for other in others}:
            # Training evaluates, and evaluation builds what was trained: one floor.
            level = {here, there} == {"train", "evaluate"}
            assert level or order.index(there) < order.index(here), f"{here} sees {there}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_side_door_imports_torchrl(path):
    # Replay keeps its steps in torchrl's storages.
    if room(path) != "torchrl" and path != PACKAGE / "algos" / "replay.py":
        foreign = {module.split(".")[0] for module in imports(path)}
        assert not foreign & {"torchrl", "tensordict"}
    assert path.stem not in ("torch", "triton", "gymnasium"), "hides the package of that name"


HEAVY = ("hydra", "omegaconf", "gymnasium", "torchrl", "tensordict", "matplotlib", "popgym")


@pytest.mark.parametrize("module", ["rlmem.cores", "rlmem.kernels"])
def test_memory_can_be_used_without_the_rest(module):
    # Also after every core was imported, which the registry does at the first question.
    ask = "rlmem.cores.names()" if module == "rlmem.cores" else "None"
    code = f"import sys, {module}; {ask}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = done.stdout.split()
    assert "torch" in loaded
    assert not set(loaded) & set(HEAVY)


@pytest.mark.parametrize(
    "path",
    [*ALL_SOURCES, *sorted(PACKAGE.rglob("*.[ch]"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize("path", ALL_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kernel = any("triton" in ast.unparse(each) for each in node.decorator_list)
            length = node.end_lineno - node.lineno + 1
            assert length <= (120 if kernel else 60), f"{node.name} has {length} lines"
