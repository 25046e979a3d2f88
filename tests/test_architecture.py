"""Rooms of the package: no import runs upward or in a circle, files and functions are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.marks import by_night

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rlmem"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_SOURCES = SOURCES + sorted(
    p for part in ("tests", "scripts", "examples") for p in ROOT.glob(f"{part}/**/*.py")
)

# From the floor upward: each room and the rooms that it may import, all of them below it.
TOOLS = {"compiled", "errors", "files", "imports", "options", "ranks", "registry", "spaces", "tree"}
MAY_IMPORT = {
    "configs": set(),
    "errors": set(),
    "files": set(),
    "tree": set(),
    "imports": {"errors"},
    "options": {"errors"},
    "registry": {"errors", "options"},
    "spaces": {"errors"},
    "ranks": {"errors"},
    "compiled": {"errors"},
    "kernels": {"errors"},
    "cores": TOOLS | {"kernels"},
    "policies": TOOLS | {"cores", "kernels"},
    "envs": TOOLS,
    "data": TOOLS | {"kernels", "policies", "envs"},
    "algos": TOOLS | {"data", "policies", "envs.base"},
    "torchrl": TOOLS | {"cores", "envs"},
    "gym": TOOLS | {"envs"},
    "runs": TOOLS | {"policies", "envs", "data", "algos"},
    "diagnose": TOOLS | {"cores", "policies", "envs", "runs"},
    "cli": TOOLS | {"policies", "envs", "runs", "diagnose"},
    "testing": TOOLS | {"cores"},
}


def room(path: Path) -> str:
    """The room of a file: its sub-package of rlmem, or its own name."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if name == "__main__" else name


def run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of `if TYPE_CHECKING:`, which never run."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from run_nodes(node)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it, relative ones made absolute."""
    for node in run_nodes(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["rlmem", *path.relative_to(PACKAGE).parts[:-1]]
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            found = [name for name in submodules if name in MODULES]
            # `from package import name` also imports the package, if a name is not a module.
            yield from found
            if len(found) < len(submodules):
                yield base


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in SOURCES}


def test_no_import_runs_upward():
    for path in SOURCES:
        if path == PACKAGE / "__init__.py":
            # The front door imports its modules at their first use.
            assert set(imports(path)) == {"importlib", "sys", "typing"}
            continue
        text = path.read_text()
        assert "TYPE_CHECKING" not in text, f"{path} hides an import from this test"
        here = room(path)
        assert here in MAY_IMPORT, f"give {here} its place among the rooms"
        for name in imports(path):
            inside = name.removeprefix("rlmem.")
            there = inside.split(".")[0]
            allowed = there == here or there in MAY_IMPORT[here] or inside in MAY_IMPORT[here]
            assert allowed or inside == name, f"{here} must not import {name}"


def test_the_rooms_are_in_order():
    order = list(MAY_IMPORT)
    for here, others in MAY_IMPORT.items():
        for there in {other.split(".")[0] for other in others}:
            assert order.index(there) < order.index(here), f"{here} imports {there}"


def test_no_modules_import_each_other_in_a_circle():
    # `from package import name` runs the package's own file, and its imports, before anything else.
    graph = {
        name: {other for other in imports(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_only_the_side_door_imports_torchrl():
    for path in SOURCES:
        # Replay uses torchrl's storages.
        if room(path) != "torchrl" and path != PACKAGE / "data" / "allocation.py":
            foreign = {module.split(".")[0] for module in imports(path)}
            assert not foreign & {"torchrl", "tensordict"}, path
        assert path.stem not in ("torch", "triton", "gymnasium"), "hides the package of that name"


HEAVY = ("hydra", "omegaconf", "gymnasium", "torchrl", "tensordict", "matplotlib", "popgym")


@pytest.mark.parametrize("module", ["rlmem.cores", *by_night(["rlmem.kernels"])])
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


def test_files_are_short():
    for path in [*ALL_SOURCES, *sorted(PACKAGE.rglob("*.[ch]"))]:
        assert len(path.read_text().splitlines()) <= 350, path


def test_functions_are_short():
    for path in ALL_SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                kernel = any("triton" in ast.unparse(each) for each in node.decorator_list)
                length = node.end_lineno - node.lineno + 1
                limit = 120 if kernel else 60
                assert length <= limit, f"{path}: {node.name} has {length} lines"
