"""Help and lists, read from the comments of the YAML files, without slow imports."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rlmem.cli import third_party
from rlmem.cli.output import unknown_key
from rlmem.cli.third_party import CONFIGS, Option, first_comment, third_party_members
from rlmem.errors import unknown

# Arguments of the commands without Hydra, whose options are in configs/command.
PLAIN = {
    "bench": "[NAME] [KEY=VALUE ...]",
    "compare": "DIR ... [KEY=VALUE ...]",
    "diagnose": "[core=NAME,... or run=DIR] [KEY=VALUE ...]",
    "plot": "RUN [KEY=VALUE ...]",
    "report": "DIR ... [KEY=VALUE ...]",
    "tune": "[KEY=RANGE ...] [KEY=VALUE ...]",
}

FLAGS = [
    (
        "-m, --multirun",
        "sweep: one run for each combination of core=ffm,gru seed=0,1,2 (with "
        "hydra/launcher=joblib several at once: docs/sweeps.md)",
    ),
    ("--cfg job", "print the configuration and exit (--resolve fills in the ${...})"),
    ("--config-dir DIR", "add YAML files from DIR (DIR/core/mine.yaml is core=mine)"),
    ("--hydra-help", "flags of Hydra, which reads this command line"),
    ("--help", "this text; with core=NAME env=NAME, their options"),
]

HYDRA_FLAGS = [
    ("-m, --multirun", "one run for each combination of values with commas"),
    ("-c, --cfg WHAT", "print a configuration and exit: job, hydra or all"),
    ("--resolve", "with --cfg: fill in the ${...}"),
    ("-p, --package NAME", "with --cfg: only this part, such as core"),
    ("-i, --info WHAT", "all, config, defaults, defaults-tree, plugins or searchpath"),
    ("-cd, --config-dir DIR", "add a folder of YAML files"),
]

HYDRA = (
    "Options are overrides of Hydra: KEY=VALUE changes a value, +KEY=VALUE adds one, and a group "
    "such as core=NAME chooses a YAML file. Lists are [1,2] and dicts {a:1}; text with commas or "
    "brackets needs quotes inside the shell's: \"key='a,b'\". With -m also choice(a,b), "
    "range(1,10) and glob(*). hydra.sweep.dir=DIR is the folder of a sweep, and "
    "hydra.searchpath=[pkg://their.configs] adds YAML files of a package. Grammar: "
    "https://hydra.cc/docs/advanced/override_grammar/basic"
)

THIRD_PARTY = (
    "An installed package adds them with the entry points rlmem.cores, rlmem.envs and rlmem.algos. "
    "They need no YAML: core=NAME uses the defaults of the class, core.OPTION=VALUE sets an "
    "option. A file configs/core/NAME.yaml in the package is used if it is there; --config-dir DIR "
    "or hydra.searchpath=[pkg://their.configs] adds your own. rlmem new core NAME writes such a "
    "package. Encoders have the entry point rlmem.encoders, and policy.encoder=NAME."
)


# Commands without options of their own.
USAGE = {
    "list": "rlmem list, or one of: rlmem list cores, envs, algos, encoders, tuned",
    "show": "Takes the options of rlmem train (rlmem train --help), such as algo=NAME core=NAME.",
    "check": "Takes the options of rlmem train (rlmem train --help), such as env.kwargs.KEY=VALUE.",
}

# The lists of `rlmem list`: the option of each, and its title.
LISTS = {
    "cores": ("core", "Cores"),
    "envs": ("env", "Environments"),
    "algos": ("algo", "Algorithms"),
    "encoders": ("policy.encoder", "Encoders"),
    "tuned": ("tuned", "Tuned settings"),
}


def program_help(commands: Mapping[str, str]) -> str:
    """The text of `rlmem --help`."""
    lines = [*_wrap("rlmem: reinforcement learning with memory"), "", "Commands"]
    lines += table(list(commands.items()))
    lines += ["", *_wrap("rlmem COMMAND --help lists the options; rlmem --version the version.")]
    lines += _wrap(
        "Exit codes: 0 done, 2 bad input or a failed run (explained in one line), 130 stopped by "
        "Ctrl-C, 143 by SIGTERM."
    )
    return "\n".join(lines)


def hydra_help() -> str:
    """The text of `rlmem COMMAND --hydra-help`: the flags of Hydra that the program takes."""
    return "\n".join(["Flags of Hydra", *table(HYDRA_FLAGS), "", *_wrap(HYDRA)])


def command_help(name: str, summary: str, arguments: Sequence[str]) -> str:
    """The text of `rlmem train --help`: each option with its default and its YAML comment.

    Arguments like `core=NAME` choose the group members whose options are listed. Raises
    `UsageError` for an unknown member or key.
    """
    path = CONFIGS / f"{name}.yaml"
    if (plain := CONFIGS / "command" / f"{name}.yaml").exists():
        head = _wrap(f"rlmem {name} {PLAIN[name]}: {summary}")
        return "\n".join([*head, "", "Options", *_option_table(options(plain))])
    if not path.exists():
        return "\n".join([*_wrap(f"rlmem {name}: {summary}"), *_wrap(USAGE.get(name, ""))])
    lines = [*_wrap(f"rlmem {name} [KEY=VALUE ...] [FLAG ...]: {summary}"), ""]
    groups = groups_in(path)
    if groups:
        lines += [*_wrap("Groups (rlmem list shows their members)"), *_option_table(groups), ""]
    lines += ["Options", *_option_table(options(path)), ""]
    given = dict(each.lstrip("+").split("=", 1) for each in arguments if "=" in each)
    if ":" in given.get("env", ""):
        given["env"] = "gym"  # env=FILE.py:NAME
    free = ("env.kwargs.", "policy.encoder_options.")
    given = {key: value for key, value in given.items() if not key.startswith(free)}
    chosen = {group.key: group.default for group in groups} | given
    folders = config_folders(arguments)
    known = [option.key for option in options(path)]
    for group in groups:
        for member in chosen[group.key].split(","):
            found = member_options(group.key, member, folders)
            if found is None or group.key in ("tuned", "experiment"):
                continue
            text, listed, checked = found
            listed = [o._replace(key=f"{group.key}.{o.key}") for o in listed if o.key != "name"]
            if checked:
                known += [f"{group.key}.name", *(option.key for option in listed)]
            lines += [*_wrap(f"{group.key}={member}: {text}"), *_option_table(listed), ""]
    _check_keys(given, known, [group.key for group in groups])
    tuned = CONFIGS / "tuned" / f"{chosen.get('env')}-{chosen.get('algo')}.yaml"
    if tuned.exists():
        title = f"tuned={tuned.stem}, applied unless tuned=none: {first_comment(tuned)}"
        lines += [*_wrap(title), *_option_table(options(tuned)), ""]
    lines += ["Flags", *table(FLAGS)]
    if groups:
        lines += ["", *_wrap("Cores, environments and algorithms from other packages")]
        lines += _wrap(THIRD_PARTY)
    return "\n".join(lines)


def list_members(kinds: Sequence[str] = ()) -> str:
    """The text of `rlmem list`: one line per core, environment, algorithm and encoder.

    `kinds` are the lists to show, of `LISTS`; a `UsageError` for another one.
    """
    lines: list[str] = []
    for kind in kinds or ("cores", "envs", "algos", "encoders"):
        if kind not in LISTS:
            raise unknown("list", kind, LISTS)
        group, title = LISTS[kind]
        rows = {path.stem: first_comment(path) for path in (CONFIGS / group).glob("*.yaml")}
        if kind == "encoders":
            rows = third_party.encoders()
        if group in third_party.ENTRY_POINT_GROUPS:
            members = third_party.third_party_members(group)
            rows |= {e.name: third_party.summary(group, e) for e in members}
        # One line each for other programs, such as grep.
        columns = None if sys.stdout.isatty() else 10_000
        lines += [f"{title} ({group}=NAME)", *table(sorted(rows.items()), columns), ""]
    return "\n".join(lines[:-1])


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


def groups_in(path: Path) -> list[Option]:
    """The groups in a YAML file's defaults list, with their default members."""
    pattern = r"^  - (?:optional )?(\w+): (\S+)(?: +# (.*))?$"
    return [Option(*match) for match in re.findall(pattern, path.read_text("utf-8"), re.M)]


def config_folders(arguments: Sequence[str]) -> list[Path] | None:
    """The folders of YAML files; None if some are in packages, which only Hydra finds."""
    folders = [CONFIGS]
    for flag, value in pairwise([*arguments, ""]):
        if flag.startswith("hydra.searchpath="):
            return None
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value))
        elif flag.startswith("--config-dir="):
            folders.append(Path(flag.partition("=")[2]))
    return folders


def _member(group: str, name: str, folders: Sequence[Path] | None) -> Path | None:
    """The YAML file of a member of a group, if it has one; a `UsageError` if it is unknown."""
    for folder in folders or [CONFIGS]:
        if (path := folder / group / f"{name}.yaml").exists():
            return path
    if folders is None or name == "null" or "$" in name:
        return None
    members = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    others = {entry.name: entry for entry in third_party_members(group)}
    if name in others:
        return third_party.yaml_file(group, others[name])
    if name not in members:
        raise unknown(group, name, members | others.keys())
    return None


def member_options(
    group: str, name: str, folders: Sequence[Path] | None
) -> tuple[str, list[Option], bool] | None:
    """What a member is, its options, and whether they are all that it has; None if unknown."""
    file = _member(group, name, folders)
    if file is not None:
        return first_comment(file), options(file), True
    for entry in third_party_members(group):
        listed = third_party.signature(group, entry) if entry.name == name else None
        if listed is not None:
            return third_party.summary(group, entry), listed, False
    return None


def _check_keys(given: Iterable[str], known: Sequence[str], groups: Sequence[str]) -> None:
    """Raise a `UsageError` for an unknown key; options of members without YAML can be any."""
    for key in given:
        if key in (*known, *groups) or key.startswith(("-", "hydra")):
            continue
        if any(name.startswith(f"{key}.") or key.startswith(f"{name}.") for name in known):
            continue  # a group of options, or an entry of a dict
        group = key.partition(".")[0]
        if group in groups and not any(name.startswith(f"{group}.") for name in known):
            continue
        top = [name for name in known if "." not in name]
        raise unknown_key(key, [*groups, *top], known)


def _option_table(listed: Sequence[Option]) -> list[str]:
    rows = [(f"{option.key}={_readable(option.default)}", option.comment) for option in listed]
    return table(rows)


def _readable(default: str) -> str:
    """A default value, with ENV for ${env.name} and TIME for the time of the start."""
    default = re.sub(r"\$\{now:[^}]*\}", "TIME", default)
    return re.sub(r"\$\{(\w+)(?:\.name)?\}", lambda found: found[1].upper(), default)


def table(rows: Sequence[tuple[str, str]], columns: int | None = None) -> list[str]:
    """Lines of two columns, wrapped at the width of the terminal (80 if there is none)."""
    columns = columns or _columns()
    # Longer names have their own lines.
    longest = max(8, min(40, columns * 45 // 100, columns - 28))
    width = max((len(name) for name, _ in rows if len(name) <= longest), default=0)
    lines = []
    for name, text in rows:
        names = _fill(name, columns - 2, "    ")
        texts = _fill(text, max(columns - width - 4, 20), "")
        if len(names) > 1 or len(name) > width:
            lines += [f"  {part}" for part in names]
        else:
            lines.append(f"  {name:<{width}}  {texts.pop(0) if texts else ''}".rstrip())
        lines += [f"{'':{width + 4}}{part}" for part in texts]
    return lines or ["  (no options)"]


def _wrap(text: str) -> list[str]:
    return _fill(text, _columns(), "  ")


def _fill(text: str, width: int, indent: str) -> list[str]:
    """Lines of whole words."""
    return textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _columns() -> int:
    return shutil.get_terminal_size((80, 24)).columns
