"""Help and lists, read from the comments of the YAML files: nothing here imports more than text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple

CONFIGS = Path(__file__).parent / "configs"
# Groups whose members have names in a registry, with the entry point group of third parties.
REGISTERED = {"core": "rlmem.cores", "env": "rlmem.envs", "algo": "rlmem.algos"}

FLAGS = """\
Flags
  -m, --multirun     sweep: a run for every combination of core=ffm,gru seed=0,1,2
  --cfg job          print the configuration and do nothing (--resolve fills in the ${...})
  --config-dir DIR   take more YAML files from DIR (DIR/core/mine.yaml is core=mine)
  --hydra-help       flags of Hydra, which reads this command line
  --help             this text; with core=NAME env=NAME the options of those"""

THIRD_PARTY = """\
Cores, environments and algorithms of other packages
  An installed package adds them with the entry points rlmem.cores, rlmem.envs and rlmem.algos.
  They need no YAML: core=NAME takes the defaults of the class, core.OPTION=VALUE sets an option.
  YAML files of your own come with --config-dir DIR or hydra.searchpath=[pkg://their.configs]."""


class Option(NamedTuple):
    """A line of a YAML file: `key: default  # comment`."""

    key: str
    default: str
    comment: str


def program(commands: Mapping[str, str]) -> str:
    """What `rlmem --help` says."""
    lines = ["rlmem: reinforcement learning with memory", "", "Commands"]
    lines += _table([(name, text) for name, text in commands.items()])
    lines += ["", "rlmem COMMAND --help says more; rlmem --version names the version."]
    lines += ["Exit codes: 0 done, 2 bad input (one line says what), 130 interrupted."]
    return "\n".join(lines)


def command(name: str, summary: str, arguments: Sequence[str]) -> str:
    """What `rlmem train --help` says: every option with its default, as the YAML comments do.

    `core=NAME` and the like among the `arguments` choose whose options are shown.
    """
    path = CONFIGS / f"{name}.yaml"
    if not path.exists():
        return f"rlmem {name}: {summary}"
    lines = [f"rlmem {name} [KEY=VALUE ...] [FLAG ...]: {summary}", ""]
    groups = _groups(path)
    if groups:
        lines += ["Groups (rlmem list names their members)", *_option_table(groups), ""]
    lines += ["Options", *_option_table(options(path)), ""]
    chosen = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    for group in groups:
        member = CONFIGS / group.key / f"{chosen.get(group.key, group.default)}.yaml"
        if member.exists():
            shown = [o for o in options(member) if o.key != "name"]
            shown = [o._replace(key=f"{group.key}.{o.key}") for o in shown]
            lines += [f"{group.key}={member.stem}: {summary_of(member)}", *_option_table(shown), ""]
    picked = {group.key: group.default for group in groups} | chosen
    tuned = CONFIGS / "tuned" / f"{picked.get('env')}-{picked.get('algo')}.yaml"
    if tuned.exists():
        about = f"tuned={tuned.stem}, taken unless tuned=none: {summary_of(tuned)}"
        lines += [about, *_option_table(options(tuned)), ""]
    return "\n".join([*lines, FLAGS, *(["", THIRD_PARTY] if groups else [])])


def listing() -> str:
    """What `rlmem list` says: every core, environment and algorithm with one line."""
    lines: list[str] = []
    for group, title in (("core", "Cores"), ("env", "Environments"), ("algo", "Algorithms")):
        rows = {path.stem: summary_of(path) for path in (CONFIGS / group).glob("*.yaml")}
        rows |= {e.name: f"from {_origin(e)}" for e in foreign(group)}
        lines += [f"{title} ({group}=NAME)", *_table(sorted(rows.items())), ""]
    return "\n".join(lines[:-1])


def foreign(group: str) -> list[EntryPoint]:
    """Entry points of other packages for which there is no YAML file here."""
    found = entry_points(group=REGISTERED[group])
    return [entry for entry in found if not (CONFIGS / group / f"{entry.name}.yaml").exists()]


def summary_of(path: Path) -> str:
    """The first comment line of a YAML file, Hydra's own apart."""
    with path.open(encoding="utf-8") as file:
        said = (line.lstrip("# ").strip() for line in file if line.startswith("#"))
        return next((line for line in said if not line.startswith("@")), "")


def options(path: Path) -> list[Option]:
    """The options in a YAML file, nested keys joined by dots; what is Hydra's is left out."""
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
    text = path.read_text(encoding="utf-8")
    return [Option(*m) for m in re.findall(r"^  - (\w+): (\S+)(?: +# (.*))?$", text, re.M)]


def _option_table(shown: Sequence[Option]) -> list[str]:
    return _table([(f"{option.key}={option.default}", option.comment) for option in shown])


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = min(max((len(name) for name, _ in rows), default=0), 40)
    return [f"  {name:<{width}}  {text}".rstrip() for name, text in rows] or ["  (no options)"]


def _origin(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else entry.value
