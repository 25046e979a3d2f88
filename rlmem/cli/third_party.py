"""Cores, environments and algorithms of other packages: their YAML files, docstrings and options.

They are found by entry points. Their source is read as text, not imported: help stays fast, and a
package with an error cannot break it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]
CONFIGS = PACKAGE / "configs"
ENCODERS = PACKAGE / "policies" / "encoders"
# Configuration groups with a registry, and their entry point groups for other packages.
ENTRY_POINT_GROUPS = {"core": "rlmem.cores", "env": "rlmem.envs", "algo": "rlmem.algos"}
# Arguments that the command line gives itself.
GIVEN = {
    "core": {"input_size", "output_size"},
    "env": {"num_envs", "device"},
    "algo": {"env", "policy", "seed"},
}


class Option(NamedTuple):
    """An option with its default, both as text, and a comment."""

    key: str
    default: str
    comment: str


def third_party_members(group: str) -> list[EntryPoint]:
    """The entry points of a group that have no YAML file in this package."""
    found = entry_points(group=ENTRY_POINT_GROUPS.get(group, f"rlmem.{group}"))
    return [entry for entry in found if not (CONFIGS / group / f"{entry.name}.yaml").exists()]


def yaml_file(group: str, entry: EntryPoint) -> Path | None:
    """The file `configs/GROUP/NAME.yaml` in the package of an entry point, if there is one."""
    files = (folder / "configs" / group / f"{entry.name}.yaml" for folder in _folders(entry))
    return next((file for file in files if file.is_file()), None)


def origin(entry: EntryPoint) -> str:
    """The package of an entry point, for people."""
    return f"the package {entry.dist.name}" if entry.dist else entry.value


def first_comment(path: Path) -> str:
    """The first comment line of a YAML file, skipping Hydra's `# @package`."""
    with path.open(encoding="utf-8") as file:
        comments = (line.lstrip("# ").strip() for line in file if line.startswith("#"))
        return next((line for line in comments if not line.startswith("@")), "")


def summary(group: str, entry: EntryPoint) -> str:
    """What a member is: the first line of its YAML file or docstring, and its package."""
    file, found = yaml_file(group, entry), _definition(entry)
    docstring = (ast.get_docstring(found) if found is not None else None) or ""
    line = first_comment(file) if file else docstring.partition("\n")[0].rstrip(".")
    return f"{line} (from {origin(entry)})" if line else f"from {origin(entry)}"


def signature(group: str, entry: EntryPoint) -> list[Option] | None:
    """The options in the signature of a registered class or function; None if it is not found."""
    found = _definition(entry)
    if isinstance(found, ast.ClassDef):
        methods = [each for each in found.body if isinstance(each, ast.FunctionDef)]
        made = [method for method in methods if method.name == "__init__"]
        if not made:
            return []
        found = made[0]
    if found is None:
        return None
    arguments = found.args
    names = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(names) - len(arguments.defaults))
    pairs = [*zip(names, [*defaults, *arguments.defaults], strict=True)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [
        Option(argument.arg, _yaml(default), _annotation(argument))
        for argument, default in pairs
        if argument.arg not in {"self", *GIVEN.get(group, ())}
    ]


def encoders() -> dict[str, str]:
    """The names of all encoders, which have no YAML files, and the first lines of their docstrings.

    Those of other packages too.
    """
    found = {}
    for path in sorted(ENCODERS.glob("*.py")):
        for name, node in _registered(path):
            found[name] = (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
    return found | {
        each.name: summary("encoders", each) for each in third_party_members("encoders")
    }


def _definition(entry: EntryPoint) -> ast.ClassDef | ast.FunctionDef | None:
    """The class or function in the module of an entry point that registers itself by its name."""
    for path in _sources(entry):
        try:
            found = [node for name, node in _registered(path) if name == entry.name]
        except (OSError, SyntaxError, ValueError):
            return None
        if found:
            return found[0]
    return None


def _registered(path: Path) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """The classes and functions in a file with a decorator that has a name, and this name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            for call in node.decorator_list:
                names = (
                    [_constant(each) for each in call.args] if isinstance(call, ast.Call) else []
                )
                yield from ((name, node) for name in names if isinstance(name, str))


def _folders(entry: EntryPoint) -> list[Path]:
    """The folders of the top package of an entry point's module."""
    try:
        spec = find_spec(entry.module.partition(".")[0])
    except (ImportError, ValueError):
        return []
    return [Path(place) for place in (spec and spec.submodule_search_locations) or []]


def _sources(entry: EntryPoint) -> Iterator[Path]:
    """The file of an entry point's module, without importing any package."""
    top, _, rest = entry.module.partition(".")
    parts = rest.split(".") if rest else []
    for folder in _folders(entry):
        module = folder.joinpath(*parts)
        files = [module / "__init__.py", *([module.with_suffix(".py")] if parts else [])]
        yield from (file for file in files if file.is_file())
    spec = None if parts or _folders(entry) else find_spec(top)
    if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
        yield Path(spec.origin)


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _annotation(argument: ast.arg) -> str:
    return "" if argument.annotation is None else ast.unparse(argument.annotation)


def _yaml(default: ast.expr | None) -> str:
    """A default as YAML writes it."""
    if default is None:
        return "(required)"
    text = {"None": "null", "True": "true", "False": "false"}
    return text.get(ast.unparse(default), re.sub(r"^(['\"])(.*)\1$", r"\2", ast.unparse(default)))
