"""`rlmem train`, `eval` and `play`: Hydra reads the options, then the command runs.

Hydra raises its errors instead of printing them, so that every error becomes one line here. In a
sweep, the error of one job is printed at once and the other jobs still run.
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

from rlmem.cli import help as cli_help
from rlmem.cli.config import prepare_eval, prepare_play, prepare_train
from rlmem.cli.hydra_errors import GROUPS, to_usage_error
from rlmem.cli.output import print_error
from rlmem.errors import UsageError


def run(command: str, arguments: Sequence[str]) -> int:
    """Run `train`, `eval` or `play` with Hydra's flags and overrides; returns the exit code."""
    body = {"train": _train, "eval": _eval, "play": _play}[command]
    flags, overrides = _parse(command, arguments)
    _check_overrides(overrides)
    failures: list[Exception] = []

    def job(cfg: DictConfig) -> float | None:
        try:
            return body(cfg)
        except UsageError as error:
            failures.append(error)
            print_error(error)
            return float("nan")

    _register_third_party()
    program = hydra.main(
        version_base="1.3", config_path="pkg://rlmem.configs", config_name=command
    )(job)
    with _hydra_process([f"rlmem {command}", *flags, *overrides]):
        try:
            program()
        except (HydraException, OmegaConfBaseException) as error:
            read = [*overrides, *_search_path(flags)]
            raise to_usage_error(error, command, read) from error
    return 2 if failures else 0


def _train(cfg: DictConfig) -> float:
    cfg = prepare_train(cfg)
    from rlmem.runs import train

    try:
        return train.run(cfg)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_interrupt_message(cfg.run_dir)) from None


def _eval(cfg: DictConfig) -> None:
    cfg = prepare_eval(cfg)
    if cfg.split is not None:
        from rlmem.runs import meta_evaluate

        print(meta_evaluate.run(cfg))
        return
    from rlmem.runs import evaluate

    result = evaluate.run(cfg)
    # `eval.json` also lists the return of every episode.
    print(json.dumps({key: value for key, value in result.items() if key != "returns"}))


def _play(cfg: DictConfig) -> None:
    cfg = prepare_play(cfg)
    from rlmem.cli import play

    play.run(cfg)


def _interrupt_message(run_dir: str) -> str:
    from rlmem.runs import checkpoint

    saved = checkpoint.last(run_dir)
    if saved is None:
        return "interrupted before anything was saved"
    return f"saved {saved}; resume with: rlmem train resume={run_dir}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parse(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split `arguments` into Hydra's flags and the overrides; unlike Hydra, in any order."""
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


def _check_overrides(overrides: Sequence[str]) -> None:
    """Raise a `UsageError` for a removed group or key; Hydra allows it, but all are needed."""
    for override in overrides:
        if override.startswith("~"):
            raise UsageError(f"{override}: an option cannot be removed, only changed")
        key, _, value = override.partition("=")
        if key == "tuned" and value in ("", "null"):
            raise UsageError("tuned needs a name (tuned=none: plain defaults of the groups)")
        if key in GROUPS and "=" in override and value in ("", "null"):
            raise UsageError(f"{key} needs a name (rlmem list shows the names)")


def _search_path(flags: Sequence[str]) -> list[str]:
    """`--config-dir` as an override."""
    if "--config-dir" not in flags:
        return []
    folder = Path(flags[flags.index("--config-dir") + 1]).absolute()
    return [f"hydra.searchpath=[file://{folder}]"]


def _register_third_party() -> None:
    """Add the entry points of other packages, which have no YAML file, to Hydra's groups.

    These members accept any option; their class checks it when constructed.
    """
    for group in cli_help.ENTRY_POINT_GROUPS:
        for entry in cli_help.third_party_members(group):
            node = OmegaConf.create({"name": entry.name}, flags={"struct": False})
            ConfigStore.instance().store(entry.name, node, group=group, provider=entry.value)


@contextmanager
def _hydra_process(argv: Sequence[str]) -> Iterator[None]:
    """Set the process's arguments and the environment variable that Hydra reads."""
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
