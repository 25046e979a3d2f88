"""`rlmem completion SHELL`: completion of commands, names, options and folders in a shell.

The shell calls `rlmem complete WORD...` at the Tab key. Like help, it reads YAML files as text and
imports nothing slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rlmem.cli import help as cli_help
from rlmem.cli import third_party
from rlmem.cli.third_party import CONFIGS
from rlmem.errors import UsageError, unknown

SCRIPTS = Path(__file__).parent / "templates" / "completion"
SHELLS = ("bash", "zsh", "fish")
# Options of `rlmem train` for commands that have no file of their own.
LIKE_TRAIN = {"show": "train", "check": "train"}
# Commands that also take all options of `rlmem train`.
WITH_TRAIN = ("bench", "tune")
# Words of commands without options.
WORDS: dict[str, Sequence[str]] = {
    "list": tuple(cli_help.LISTS),
    "new": ("core",),
    "completion": SHELLS,
    "bench": ("popgym",),
}
# Commands whose words are folders of runs.
RUNS = ("compare", "plot", "report")
# Options whose values are folders or files.
PATHS = {
    *("run", "resume", "run_dir", "dir", "out", "to", "record", "baseline", "twin"),
    *("algo.dataset", "algo.replay.directory"),
}
# Options with the names of a group as values, besides the group's own.
NAMES = {"cores": "core", "envs": "env", "policy.encoder": "policy.encoder"}
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "checkpoint": ("best", "last"),
    "compile": ("auto", "graphs", "inductor", "none"),
    "precision": ("bf16", "fp32"),
    "threads": ("auto",),
    "on_nonfinite": ("rollback", "skip", "stop"),
    "player": ("agent", "human", "random"),
    "split": ("heldout", "train"),
    "objective": ("return", "mean"),
    "analyses": ("interference", "probes", "retention", "saliency", "use"),
}


def script(arguments: Sequence[str]) -> str:
    """The completion script of a shell; raises `UsageError` for another one."""
    if len(arguments) != 1:
        raise UsageError("write: rlmem completion bash, zsh or fish")
    if arguments[0] not in SHELLS:
        raise unknown("shell", arguments[0], SHELLS)
    return (SCRIPTS / f"{arguments[0]}.txt").read_text("utf-8").rstrip("\n")


def complete(words: Sequence[str], commands: Mapping[str, str]) -> list[str]:
    """Completions of the last of `words`, which follow the program's name; sorted.

    A completed key ends with `=`, a folder with `/`. Wrong words before it are passed over.
    """
    command, *before = words or [""]
    if not before:
        return _starting(command, [*commands, "--help", "--version"])
    *before, last = before
    key, equals, value = last.partition("=")
    if not equals:
        found = _starting(last, _words(command, before, last.startswith("-")))
        return found + (_paths(last) if command in RUNS else [])
    # The values of a list or of a sweep: core=gru,ffm or cores=[gru,ffm].
    opened = "[" if value.startswith("[") else ""
    *earlier, begun = value.removeprefix("[").split(",")
    head = f"{key}={opened}" + "".join(f"{each}," for each in earlier)
    return [head + each for each in _values(command, before, key, begun)]


def _starting(text: str, words: Iterator[str] | Sequence[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(text)})


def _words(command: str, before: Sequence[str], flag: bool) -> Iterator[str]:
    """The words, keys or flags that may follow in a command."""
    if flag:
        for names, _ in cli_help.FLAGS:
            yield from (name.split()[0] for name in names.split(", ") if name.startswith("--"))
        return
    yield from WORDS.get(command, ())
    given = {word.partition("=")[0].lstrip("+") for word in before}
    yield from (f"{key}=" for key in _keys(command, before) if key not in given)


def _keys(command: str, before: Sequence[str]) -> dict[str, str]:
    """The options of a command and of the chosen members of its groups, with their defaults."""
    file = CONFIGS / "command" / f"{command}.yaml"
    if not file.exists():
        file = CONFIGS / f"{LIKE_TRAIN.get(command, command)}.yaml"
    if not file.exists():
        return {}
    found = _keys("train", before) if command in WITH_TRAIN else {}
    found |= {option.key: option.default for option in cli_help.options(file)}
    given = dict(word.lstrip("+").split("=", 1) for word in before if "=" in word)
    for group in cli_help.groups_in(file):
        found[group.key] = group.default
        member = given.get(group.key, group.default).split(",")[0]
        try:
            listed = cli_help.member_options(group.key, member, cli_help.config_folders(before))
        except UsageError:
            continue  # an unknown name
        if listed is not None and group.key not in ("tuned", "experiment"):
            options = listed[1]
            found |= {f"{group.key}.{o.key}": o.default for o in options if o.key != "name"}
    return found


def _values(command: str, before: Sequence[str], key: str, begun: str) -> list[str]:
    """Values of an option that start with `begun`."""
    key = key.lstrip("+")
    if key in PATHS:
        return _starting(begun, ["auto"] if key == "resume" else []) + _paths(begun)
    group = NAMES.get(key, key)
    if (CONFIGS / group).is_dir() or group == "policy.encoder":
        return _starting(begun, _members(group))
    if key in CHOICES:
        return _starting(begun, CHOICES[key])
    if _keys(command, before).get(key) in ("true", "false"):
        return _starting(begun, ("true", "false"))
    return []


def _members(group: str) -> Iterator[str]:
    yield from (path.stem for path in (CONFIGS / group).glob("*.yaml"))
    if group == "policy.encoder":
        yield from third_party.encoders()
    if group in third_party.ENTRY_POINT_GROUPS:
        yield from (entry.name for entry in third_party.third_party_members(group))


def _paths(begun: str) -> list[str]:
    """Files and folders that start with `begun`; hidden ones only after a dot."""
    folder, slash, name = begun.rpartition("/")
    head = folder + slash
    try:
        entries = list(Path(head or ".").expanduser().iterdir())
    except OSError:
        return []
    names = [f"{each.name}/" if each.is_dir() else each.name for each in entries]
    return [head + each for each in _starting(name, names) if begun or not each.startswith(".")]
