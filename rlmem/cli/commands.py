"""`rlmem train`, `eval`, `play` and `export`: Hydra reads the options, then the command runs.

Hydra raises its errors instead of printing them, so that every error becomes one line here. In a
sweep, the error of one job is printed at once and the other jobs still run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlmem.cli import collector, third_party
from rlmem.cli import sweep as sweeps
from rlmem.cli.config import (
    AUTO,
    has_own_folder,
    prepare_eval,
    prepare_export,
    prepare_play,
    prepare_show,
    prepare_train,
    with_saved_groups,
)
from rlmem.cli.hydra_errors import to_usage_error
from rlmem.cli.output import print_error
from rlmem.cli.overrides import check, readable
from rlmem.errors import UsageError
from rlmem.ranks import group as ranks


def run(command: str, arguments: Sequence[str]) -> int:
    """Run a command with Hydra's flags and overrides; returns the exit code."""
    body, config = COMMANDS[command]
    flags, overrides = _parse(command, arguments)
    if "--multirun" in flags and body in (_show, _check):
        raise UsageError(f"rlmem {command} takes one value for each option, without -m")
    if "--multirun" in flags and command == "train" and ranks.launched()[1] > 1:
        raise UsageError("rlmem train -m trains many runs in one process, without torchrun")
    check(overrides)
    overrides = with_saved_groups(command, readable(overrides, command in WITH_ENV))
    single = _Job(command, overrides)
    register_third_party()
    program = hydra.main(version_base="1.3", config_path="pkg://rlmem.configs", config_name=config)(
        single
    )
    read = [*overrides, *_search_path(flags)]
    with sweeps.opened(config, flags, read) as sweep:
        words = [f"rlmem {command}", *flags, *overrides]
        words += sweep.options(overrides) if sweep is not None else []

        def begun() -> bool:
            return single.begun or (sweep is not None and len(sweep.outcomes()) > 0)

        with (
            sweeps.one_thread(sweep is not None and sweep.parallel),
            _hydra_process(words),
            sweeps.going_on(sweep, command, arguments),
            _errors_of_options(config, read, flags, begun),
        ):
            program()
        if sweep is None:
            return 2 if single.failed else 0
        return _end_sweep(command, sweep)


@contextmanager
def _errors_of_options(
    config: str, read: Sequence[str], flags: Sequence[str], begun: Callable[[], bool]
) -> Iterator[None]:
    """Turn errors of Hydra into one line; other errors too, before a job has `begun`."""
    try:
        # Hydra's own message would be a second line.
        with redirect_stderr(StringIO()) if "--package" in flags else nullcontext():
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise to_usage_error(error, config, read) from error
    except OSError as error:
        raise file_error(error) from error
    except SystemExit as exit:
        if exit.code:
            place = flags[flags.index("--package") + 1]
            raise UsageError(f"--package: the configuration has no part {place!r}") from exit
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # Hydra has not read the options to the end.
        if begun() or isinstance(error, UsageError):
            raise
        raise to_usage_error(error, config, read) from error


class _Job:
    """A run of a command with the options `overrides`; launchers send it to other processes."""

    def __init__(self, command: str, overrides: Sequence[str]) -> None:
        self.command, self.overrides = command, list(overrides)
        self.begun = self.failed = False

    def __call__(self, cfg: DictConfig) -> float | None:
        """Run it; after an error, which is one line, the other jobs of a sweep still run."""
        from rlmem.runs import memory

        collector.resume()
        self.begun = True
        body, config = COMMANDS[self.command]
        place = sweeps.place_of_job()
        if place is not None:
            place.note()
        try:
            with memory.errors():
                result = body(cfg)
        except (UsageError, HydraException, OmegaConfBaseException, OSError) as error:
            self.failed = True
            shown = _as_usage_error(error, cfg, config, self.overrides)
            if place is None or place.launcher == sweeps.BASIC:
                print_error(shown)
            if place is not None:
                place.note(ended=True, error=" ".join(str(shown).split()))
            return float("nan")
        if place is not None:
            place.note(ended=True)
        return result


def _end_sweep(command: str, sweep: sweeps.Sweep) -> int:
    """Print errors and the comparison of all runs of a sweep; returns the exit code."""
    outcomes = sweep.outcomes()
    failed = [each for each in outcomes if each.error is not None]
    for each in failed if sweep.parallel else []:
        print_error(UsageError(f"{Path(each.run_dir).name}: {each.error}"))
    if command == "train":
        _print_comparison([each.run_dir for each in outcomes if each.error is None])
    return 2 if failed else 0


def _print_comparison(finished: Sequence[str]) -> None:
    """Compare the runs of a sweep, in their common folder; a single run has its own line."""
    runs = [os.path.relpath(path) for path in finished if (Path(path) / "config.yaml").is_file()]
    if len(runs) > 1:
        from rlmem.cli.compare import comparison

        print("\n" + comparison(runs, [], Path(os.path.commonpath(runs))))


def _train(cfg: DictConfig) -> float:
    auto = cfg.resume == AUTO
    cfg = prepare_train(cfg)
    from rlmem.runs import checkpoint, records, train, trust
    from rlmem.runs.build import plain

    if auto and cfg.resume is not None:
        step = max(checkpoint.steps(cfg.resume), default=0)
        if train.is_finished(cfg, step):  # a cluster may start a finished job again
            if ranks.launched()[0] == 0:
                print(f"{cfg.resume} is finished: it has trained {step:,} steps", file=sys.stderr)
            score = records.read(Path(cfg.resume)).score
            return float("nan") if score is None else score
    try:
        return train.run(cfg, unique=not has_own_folder(cfg))
    except KeyboardInterrupt as interrupt:
        again = f"rlmem train resume={cfg.run_dir}{trust.option(plain(cfg))}"
        interrupt.args = (interrupt_message(cfg.run_dir, cfg.total_steps, again),)
        raise


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


def _show(cfg: DictConfig) -> None:
    prepare_show(cfg)
    from rlmem.cli import show

    print(show.run(cfg))


def _check(cfg: DictConfig) -> None:
    prepare_show(cfg)
    from rlmem.cli import check_env

    print(report := check_env.run(cfg))
    if report.faults:
        raise UsageError(f"{cfg.env.get('id', cfg.env.name)} has faults, listed above")


def _export(cfg: DictConfig) -> None:
    cfg = prepare_export(cfg)
    from rlmem.runs.agent import load

    load(cfg.run, "cpu", cfg.checkpoint, cfg.trust).export(cfg.to, cfg.deterministic, cfg.batch)
    print(f"wrote {cfg.to} ({Path(cfg.to).stat().st_size / 1e6:.2f} MB)")


# The functions of the commands, and the names of their configurations.
COMMANDS: dict[str, tuple[Callable[[DictConfig], float | None], str]] = {
    "train": (_train, "train"),
    "eval": (_eval, "eval"),
    "play": (_play, "play"),
    "export": (_export, "export"),
    "show": (_show, "train"),
    "check": (_check, "train"),
}


# The commands that take all options of an environment.
WITH_ENV = ("train", "play", "show", "check")


def interrupt_message(run_dir: str, total_steps: int, again: str) -> str:
    """The place of the last checkpoint of a run that a signal has stopped; `again` resumes it."""
    from rlmem.runs import checkpoint

    saved = checkpoint.last(run_dir)
    if saved is None:
        return "interrupted before anything was saved"
    if checkpoint.steps(run_dir)[-1] >= total_steps:
        return f"saved {saved}, trained to the end; evaluate with: rlmem eval run={run_dir}"
    return f"saved {saved}; resume with: {again}"


def _as_usage_error(
    error: Exception, cfg: DictConfig, command: str, overrides: Sequence[str]
) -> Exception:
    """The error of a job as one line."""
    from rlmem.runs.guard import EnvironmentFailure, report

    if isinstance(error, EnvironmentFailure):
        run = cfg.get("run")
        return report(error, Path(run) if isinstance(run, str) else None)
    if isinstance(error, OSError):
        return file_error(error)
    if isinstance(error, UsageError):
        return error
    return to_usage_error(error, command, overrides)


def file_error(error: OSError) -> UsageError:
    """The error of a file or folder as one line; raises `error` if it is of another kind."""
    if error.errno is None:
        raise error
    place = f"{error.filename}: " if error.filename else "cannot read or write a file: "
    return UsageError(f"{place}{error.strerror}")


# Arguments of Hydra's flag --info.
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


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
    mode.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd")
    given = vars(parser.parse_intermixed_args(arguments))
    overrides = given.pop("overrides")
    if flag := next((each for each in overrides if each.startswith("-")), None):
        raise UsageError(f"cannot read {flag!r}: write options as KEY=VALUE")  # after --
    if not given["cfg"] and (alone := next((n for n in ("resolve", "package") if given[n]), None)):
        raise UsageError(f"--{alone} needs --cfg job")
    flags: list[str] = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        flags += [flag] if value is True else [flag, value] if value else []
    return flags, overrides


def _search_path(flags: Sequence[str]) -> list[str]:
    """`--config-dir` as an override."""
    if "--config-dir" not in flags:
        return []
    folder = Path(flags[flags.index("--config-dir") + 1]).absolute()
    return [f"hydra.searchpath=[file://{folder}]"]


def register_third_party() -> None:
    """Add the entry points of other packages to Hydra's groups, with the YAML in their packages.

    Members without YAML accept any option; their class checks it when constructed.
    """
    for group in third_party.ENTRY_POINT_GROUPS:
        for entry in third_party.third_party_members(group):
            file = third_party.yaml_file(group, entry)
            node = OmegaConf.create({"name": entry.name}, flags={"struct": False})
            if file is not None:
                node = OmegaConf.create({**OmegaConf.load(file), "name": entry.name})
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
