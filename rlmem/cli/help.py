"""Help and lists, read from the comments of the YAML files; imports only the standard library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple

CONFIGS = Path(__file__).parents[1] / "configs"
# Configuration groups with a registry, and their entry point groups for other packages.
ENTRY_POINT_GROUPS = {"core": "rlmem.cores", "env": "rlmem.envs", "algo": "rlmem.algos"}

FLAGS = """\
Flags
  -m, --multirun     sweep: one run for each combination of core=ffm,gru seed=0,1,2
  --cfg job          print the configuration and exit (--resolve fills in the ${...})
  --config-dir DIR   add YAML files from DIR (DIR/core/mine.yaml is core=mine)
  --hydra-help       flags of Hydra, which reads this command line
  --help             this text; with core=NAME env=NAME, their options"""

THIRD_PARTY = """\
Cores, environments and algorithms from other packages
  An installed package adds them with the entry points rlmem.cores, rlmem.envs and rlmem.algos.
  They need no YAML: core=NAME uses the defaults of the class, core.OPTION=VALUE sets an option.
  --config-dir DIR or hydra.searchpath=[pkg://their.configs] adds your own YAML files."""


class Option(NamedTuple):
    """A line of a YAML file: `key: default  # comment`."""

    key: str
    default: str
    comment: str


def program_help(commands: Mapping[str, str]) -> str:
    """The text of `rlmem --help`."""
    lines = ["rlmem: reinforcement learning with memory", "", "Commands"]
    lines += _table([(name, text) for name, text in commands.items()])
    lines += ["", "rlmem COMMAND --help lists the options; rlmem --version prints the version."]
    lines += ["Exit codes: 0 done, 2 bad input (explained in one line), 130 interrupted."]
    return "\n".join(lines)


def command_help(name: str, summary: str, arguments: Sequence[str]) -> str:
    """The text of `rlmem train --help`: each option with its default and its YAML comment.

    Arguments like `core=NAME` choose the group members whose options are listed.
    """
    path = CONFIGS / f"{name}.yaml"
    if not path.exists():
        return f"rlmem {name}: {summary}"
    lines = [f"rlmem {name} [KEY=VALUE ...] [FLAG ...]: {summary}", ""]
    groups = _groups(path)
    if groups:
        lines += ["Groups (rlmem list shows their members)", *_option_table(groups), ""]
    lines += ["Options", *_option_table(options(path)), ""]
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    chosen = {group.key: group.default for group in groups} | given
    for group in groups:
        member = CONFIGS / group.key / f"{chosen[group.key]}.yaml"
        if group.key != "tuned" and member.exists():
            listed = [o for o in options(member) if o.key != "name"]
            listed = [o._replace(key=f"{group.key}.{o.key}") for o in listed]
            title = f"{group.key}={member.stem}: {first_comment(member)}"
            lines += [title, *_option_table(listed), ""]
    tuned = CONFIGS / "tuned" / f"{chosen.get('env')}-{chosen.get('algo')}.yaml"
    if tuned.exists():
        title = f"tuned={tuned.stem}, applied unless tuned=none: {first_comment(tuned)}"
        lines += [title, *_option_table(options(tuned)), ""]
    return "\n".join([*lines, FLAGS, *(["", THIRD_PARTY] if groups else [])])


def list_members() -> str:
    """The text of `rlmem list`: one line per core, environment and algorithm."""
    lines: list[str] = []
    for group, title in (("core", "Cores"), ("env", "Environments"), ("algo", "Algorithms")):
        rows = {path.stem: first_comment(path) for path in (CONFIGS / group).glob("*.yaml")}
        rows |= {e.name: f"from {_origin(e)}" for e in third_party_members(group)}
        lines += [f"{title} ({group}=NAME)", *_table(sorted(rows.items())), ""]
    return "\n".join(lines[:-1])


def third_party_members(group: str) -> list[EntryPoint]:
    """The entry points of a group that have no YAML file in this package."""
    found = entry_points(group=ENTRY_POINT_GROUPS[group])
    return [entry for entry in found if not (CONFIGS / group / f"{entry.name}.yaml").exists()]


def first_comment(path: Path) -> str:
    """The first comment line of a YAML file, skipping Hydra's `# @package`."""
    with path.open(encoding="utf-8") as file:
        comments = (line.lstrip("# ").strip() for line in file if line.startswith("#"))
        return next((line for line in comments if not line.startswith("@")), "")


def options(path: Path) -> list[Option]:
    """The options in a YAML file, nested keys joined by dots, without Hydra's own keys."""
    found: list[Option] = []
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)([\w-]+):(?: +(\S.*?))?(?: +# (.*))?$", line)
        if not match:
            continue
        indent, key, default, comment = match.groups()
        parents = [(depth, name) for depth, name in parents if depth < len(indent)]
        names = [*(name for _, name in parents), key]
        if default is None or default.startswith("#"):
            parents.append((len(indent), key))
        elif names[0] not in ("hydra", "defaults"):
            found.append(Option(".".join(names), default.strip('"'), comment or ""))
    return found


def _groups(path: Path) -> list[Option]:
    """The groups in a YAML file's defaults list, with their default members."""
    pattern = r"^  - (?:optional )?(\w+): (\S+)(?: +# (.*))?$"
    return [Option(*match) for match in re.findall(pattern, path.read_text("utf-8"), re.M)]


def _option_table(listed: Sequence[Option]) -> list[str]:
    return _table([(f"{option.key}={option.default}", option.comment) for option in listed])


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = min(max((len(name) for name, _ in rows), default=0), 40)
    return [f"  {name:<{width}}  {text}".rstrip() for name, text in rows] or ["  (no options)"]


def _origin(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else entry.value
