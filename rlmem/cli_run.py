"""`rlmem train`, `eval` and `play`: Hydra reads the options, this file hands them on.

Hydra is told to raise what it finds wrong, so that one place here puts every mistake into one
line. A mistake within one job of a sweep is said at once and the sweep goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlmem import cli_help
from rlmem.cli import complain
from rlmem.cli_config import prepare_eval, prepare_play, prepare_train
from rlmem.cli_errors import GROUPS, explain
from rlmem.errors import UsageError


def run(command: str, arguments: Sequence[str]) -> int:
    """Run `train`, `eval` or `play` with Hydra's flags and overrides; returns the exit code."""
    body = {"train": _train, "eval": _eval, "play": _play}[command]
    flags, overrides = _parse(command, arguments)
    _refuse_holes(overrides)
    failures: list[Exception] = []

    def task(cfg: DictConfig) -> float | None:
        try:
            return body(cfg)
        except UsageError as error:
            failures.append(error)
            complain(error)
            return float("nan")

    _offer_entry_points()
    program = hydra.main(
        version_base="1.3", config_path="pkg://rlmem.configs", config_name=command
    )(task)
    with _process([f"rlmem {command}", *flags, *overrides]):
        try:
            program()
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, command, [*overrides, *_search_path(flags)]) from error
    return 2 if failures else 0


def _train(cfg: DictConfig) -> float:
    ready = prepare_train(cfg)
    from rlmem import train

    try:
        return train.run(ready)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_where_it_stopped(ready.run_dir)) from None


def _eval(cfg: DictConfig) -> None:
    ready = prepare_eval(cfg)
    if ready.split is not None:
        from rlmem import adapt

        print(adapt.run(ready))
        return
    from rlmem import evaluate

    result = evaluate.run(ready)
    # `eval.json` has the return of every episode besides.
    print(json.dumps({key: value for key, value in result.items() if key != "returns"}))


def _play(cfg: DictConfig) -> None:
    ready = prepare_play(cfg)
    from rlmem import play

    play.run(ready)


def _where_it_stopped(run_dir: str) -> str:
    from rlmem import checkpoint

    saved = checkpoint.last(run_dir)
    if saved is None:
        return "interrupted before anything was saved"
    return f"saved {saved}; resume with: rlmem train resume={run_dir}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help says what is allowed)")


def _parse(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags and the overrides, apart: in any order, unlike in Hydra's own parser."""
    parser = _Parser(f"rlmem {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--multirun", "-m", action="store_true")
    mode.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    mode.add_argument("--info", "-i", nargs="?", const="all")
    mode.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd")
    given = vars(parser.parse_intermixed_args(arguments))
    overrides = given.pop("overrides")
    flags: list[str] = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        flags += [flag] if value is True else [flag, value] if value else []
    return flags, overrides


def _refuse_holes(overrides: Sequence[str]) -> None:
    """Hydra lets a group or key be taken out; what reads the configuration needs them all."""
    for override in overrides:
        if override.startswith("~"):
            raise UsageError(f"{override}: an option cannot be taken away, only changed")
        key, _, value = override.partition("=")
        if key == "tuned" and value in ("", "null"):
            raise UsageError("tuned needs a name (tuned=none for the defaults of the groups)")
        if key in GROUPS and "=" in override and value in ("", "null"):
            raise UsageError(f"{key} needs a name (rlmem list says which there are)")


def _search_path(flags: Sequence[str]) -> list[str]:
    """`--config-dir` as an override."""
    if "--config-dir" not in flags:
        return []
    folder = Path(flags[flags.index("--config-dir") + 1]).absolute()
    return [f"hydra.searchpath=[file://{folder}]"]


def _offer_entry_points() -> None:
    """Make `core=NAME` work for what other packages register, though they bring no YAML file.

    The node is open: its options are checked when it is made, by the class that takes them.
    """
    for group in cli_help.REGISTERED:
        for entry in cli_help.foreign(group):
            node = OmegaConf.create({"name": entry.name}, flags={"struct": False})
            ConfigStore.instance().store(entry.name, node, group=group, provider=entry.value)


@contextmanager
def _process(argv: Sequence[str]) -> Iterator[None]:
    """Hydra reads the command line and its own settings from the process."""
    before, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = list(argv), "1"
    try:
        yield
    finally:
        sys.argv = before
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
