"""Write docs/cores.md, environments.md, algorithms.md and the laws in contract.md from the code.

    python scripts/generate_pages.py [--check]

Descriptions, equations and papers are those of the docstrings, options and their sources those of
rlmem/configs; sizes and spaces are measured. With `--check` nothing is written, and the exit code
is 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIGS = ROOT / "rlmem" / "configs"
WIDTH = 64
# Environments whose packages are extras, and those of any id: their spaces are not listed.
WITHOUT_SPACES = {"gym", "minigrid-memory", "meta-dmc-projection", "meta-half-cheetah-vel"}
WITHOUT_SPACES |= {"meta-metaworld"}
# Names in a citation, such as "Gu and Dao 2023" and "Ni et al. 2023".
CITATION = r"[A-Z][\w-]+(?: and [A-Z][\w-]+| et al\.)? (?:19|20)\d\d"
# Packages with public names, and their titles.
API = {
    "rlmem": "rlmem",
    "rlmem.cores": "Cores",
    "rlmem.kernels": "Kernels",
    "rlmem.envs": "Environments",
    "rlmem.algos": "Algorithms",
    "rlmem.policies": "Policies",
    "rlmem.policies.encoders": "Encoders",
    "rlmem.torchrl": "torchrl",
    "rlmem.testing": "Testing",
}
FOLDERS = {"core": "cores", "env": "envs", "algo": "algos"}


class Entry(NamedTuple):
    """A registered name: its source file, docstrings (`package`: of its folder) and YAML file."""

    name: str
    file: Path
    package: str
    module: str
    text: str
    yaml: Path

    @property
    def title(self) -> str:
        """The first sentence of its docstring; that of the YAML file if it has none."""
        from rlmem.cli.third_party import first_comment

        first = self.text.partition("\n\n")[0].replace("\n", " ").strip()
        return first or sentence(first_comment(self.yaml)) + "."

    @property
    def citations(self) -> set[str]:
        """The papers that code and YAML name, such as `Morad et al. 2023`."""
        sources = (self.package, self.module, self.text, self.yaml.read_text())
        joined = "\n".join(re.sub(r"\s+", " ", each) for each in sources)
        return set(re.findall(CITATION, joined.replace(",", "")))

    @property
    def arxiv(self) -> list[str]:
        """The numbers of its papers in arXiv."""
        found = re.findall(r"\b\d{4}\.\d{5}\b", f"{self.package}\n{self.module}\n{self.text}")
        return list(dict.fromkeys(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    print(", ".join(stale) or "nothing", "out of date" if check else "written")
    sys.exit(bool(stale) and check)


@cache
def entries(group: str) -> dict[str, Entry]:
    """All registered names of a group (core, env or algo) that have a YAML file."""
    found = {}
    for path in sorted((ROOT / "rlmem" / FOLDERS[group]).rglob("*.py")):
        tree = ast.parse(path.read_text())
        module = ast.get_docstring(tree) or ""
        package = ast.get_docstring(ast.parse((path.parent / "__init__.py").read_text())) or ""
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef):
                continue
            for name in filter(None, map(_registered, node.decorator_list)):
                yaml = CONFIGS / group / f"{name}.yaml"
                text = ast.get_docstring(node) or ""
                found[name] = Entry(name, path.relative_to(ROOT), package, module, text, yaml)
    known = {each.stem for each in (CONFIGS / group).glob("*.yaml")}
    return {name: found[name] for name in sorted(found) if name in known}


def _registered(decorator: ast.expr) -> str | None:
    """The name that a decorator registers, if it does."""
    if not isinstance(decorator, ast.Call) or not decorator.args:
        return None
    first = decorator.args[0]
    known = ast.unparse(decorator.func) in ("register", "task", "meta", "register_with_state")
    return str(first.value) if known and isinstance(first, ast.Constant) else None


def cores_page() -> str:
    """The page of all cores: a table of sizes, then each core."""
    sizes = {name: core_size(name) for name in entries("core")}
    rows = [
        f"| [`{name}`](#{name}) | {state:,} | {kind} | {parameters:,} |"
        for name, (state, kind, parameters) in sizes.items()
    ]
    table = ["| core | state | dtypes | parameters |", "|---|---:|---|---:|", *rows]
    about = (
        f"State: real numbers that one row carries from step to step, with input and output of "
        f"{WIDTH} numbers and the default options (a complex number counts twice). `s4` is another "
        "name of `s4d`. What each core can remember is measured in [diagnose](diagnose.md)."
    )

    def facts(entry: Entry) -> list[str]:
        state, kind, parameters = sizes[entry.name]
        return [f"State: {state:,} numbers ({kind}); {parameters:,} parameters, at width {WIDTH}."]

    return _page("Cores", [about, "\n".join(table)], "core", facts)


def core_size(name: str) -> tuple[int, str, int]:
    """Numbers in the state of one row, their dtypes, and the number of parameters."""
    from rlmem import cores, tree

    core = cores.make(name, input_size=WIDTH)
    leaves = [leaf for leaf in tree.leaves(core.initial_state(1)) if leaf.numel()]
    numbers = sum(leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in leaves)
    kinds = sorted({str(leaf.dtype).removeprefix("torch.") for leaf in leaves})
    return numbers, ", ".join(kinds) or "none", sum(p.numel() for p in core.parameters())


def environments_page() -> str:
    """The page of all environments."""

    def facts(entry: Entry) -> list[str]:
        if entry.name in WITHOUT_SPACES:
            return []
        return [*spaces(entry.name), *scores(entry.name)]

    about = (
        "`rlmem show env=NAME` plays an environment, and estimates the time of a training. Spaces "
        "are those with the default options; `rlmem train env=NAME` adds previous actions and "
        "rewards where the algorithm needs them."
    )
    return _page("Environments", [about], "env", facts)


def spaces(name: str) -> list[str]:
    """Observations and actions of an environment."""
    from rlmem import envs

    env = envs.make(name, num_envs=1)
    parts = [
        f"{kind}: {', '.join(f'`{key}` {_space(space)}' for key, space in found.items())}."
        for kind, found in (("Observations", env.observation_space), ("Actions", env.action_space))
    ]
    env.close()
    return parts


def _space(space: object) -> str:
    text = re.sub(r"\s+", " ", str(space))
    return f"`{text}`" if len(text) < 90 else f"`{text[:86]}…`"


def scores(name: str) -> list[str]:
    """The known scores of a POPGym task."""
    from rlmem.runs.scores import REFERENCES

    levels = REFERENCES.get(name)
    if levels is None:
        return []
    rows = [
        f"{level} {each.memoryless:.3f} and {each.optimal:.3f}" for level, each in levels.items()
    ]
    return [f"Best known return without memory, and optimum: {'; '.join(rows)}."]


def algorithms_page() -> str:
    """The page of all algorithms."""
    about = (
        "Every algorithm is one file, works with every core, and is chosen with `algo=NAME`. "
        "`rlmem list tuned` shows settings for some environments, which apply by themselves."
    )
    return _page("Algorithms", [about], "algo", lambda entry: [])


def api_page() -> str:
    """The page of the API: a line for mkdocstrings for every public name."""
    about = (
        "Public names, from their docstrings. `rlmem.cores`, `rlmem.envs`, `rlmem.algos` and "
        "`rlmem.policies.encoders` are registries: `make(name, **options)`, `names()` and "
        "`register(name)`. The site shows the docstrings here; a checkout has them in the code."
    )
    parts = ["# API", about]
    for module, title in API.items():
        parts += [f"## {title}", *(f"::: {place(module, name)}" for name in public(module))]
    return "\n\n".join(parts) + "\n"


def place(module: str, name: str) -> str:
    """The path of a public name; a function may have the name of its own module."""
    path = f"{module}.{name}"
    folder = ROOT / path.replace(".", "/")
    return f"{path}.{name}" if folder.is_dir() else path


def public(module: str) -> list[str]:
    """The names in `__all__` of a package, without its modules and the functions of its registry.

    The file is read, not imported: torchrl takes seconds.
    """
    folder = ROOT / module.replace(".", "/")
    text = (folder / "__init__.py").read_text()
    (names,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    shared = {"make", "names", "register"} if "registry.make" in text else set()
    own = {name for name in names if module == "rlmem" and (folder / name).is_dir()}
    return [name for name in names if name not in shared | own]


def contract_page() -> str:
    """The page of the contract, with the table of all laws."""
    from rlmem.testing.law import LAWS

    rows = [f"| {sentence(law.name)} | {len(list(law.cases()))} |" for law in LAWS]
    lines = "\n".join(["| law | cases |", "|---|---:|", *rows])
    text = (DOCS / "contract.md").read_text()
    before, rest = text.split("<!-- generated: laws -->\n")
    after = rest[rest.index("<!-- end -->") :]
    return f"{before}<!-- generated: laws -->\n{lines}\n{after}"


def _page(title: str, head: list[str], group: str, facts: Callable[[Entry], list[str]]) -> str:
    command = "`python scripts/generate_pages.py`"
    note = f"This page is written by {command} from docstrings and `rlmem/configs/{group}`."
    parts = [f"# {title}", note, *head]
    for entry in entries(group).values():
        parts += [f"## {entry.name}", entry.title, *facts(entry), _source(entry)]
        parts += [_documentation(entry), _options(entry)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _source(entry: Entry) -> str:
    links = [f"[arXiv {n}](https://arxiv.org/abs/{n})" for n in entry.arxiv]
    return ", ".join([f"Source: `{entry.file}`", *links]) + "."


def _documentation(entry: Entry) -> str:
    """The docstrings, with the equations."""
    rest = entry.text.partition("\n\n")[2]
    text = "\n\n".join(filter(None, [entry.module, rest]))
    return f"```text\n{text}\n```" if text else ""


def _options(entry: Entry) -> str:
    """The options with defaults and comments of the YAML file."""
    from rlmem.cli.help import options

    rows = [each for each in options(entry.yaml) if each.key != "name"]
    if not rows:
        return "No options."
    cells = [[f"`{o.key}`", f"`{o.default}`", o.comment] for o in rows]
    lines = ["| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in cells]
    return "\n".join(["| option | default | meaning and source |", "|---|---|---|", *lines])


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


PAGES: dict[str, Callable[[], str]] = {
    "cores.md": cores_page,
    "environments.md": environments_page,
    "algorithms.md": algorithms_page,
    "contract.md": contract_page,
    "api.md": api_page,
}


if __name__ == "__main__":
    main()
