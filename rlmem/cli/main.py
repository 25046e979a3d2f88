"""The program `rlmem`: dispatch of commands, and exit codes.

Exit codes: 0 done, 2 bad input or a failed run (one line on stderr), 128 + its number for a signal
(130 Ctrl-C, 143 SIGTERM). To start fast, this module and `rlmem.cli.help` import neither torch nor
Hydra.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rlmem import __version__
from rlmem.cli import help as cli_help
from rlmem.cli.output import print_error
from rlmem.errors import UsageError, need, unknown
from rlmem.ranks import group as ranks

COMMANDS = {
    "train": "train an agent and write a run folder (rlmem train env=popgym-repeat core=ffm)",
    "eval": "evaluate a trained agent on unseen seeds or tasks (rlmem eval run=<dir>)",
    "play": "print episodes step by step (rlmem play env=tmaze-passive, or run=<dir>)",
    "show": "describe an environment, its scores and the time of a training (rlmem show env=NAME)",
    "check": "look for faults in your environment (rlmem check env=./file.py:Name)",
    "export": "write an agent's step for ONNX or torch (rlmem export run=<dir> to=agent.onnx)",
    "bench": "train and evaluate a grid of runs (rlmem bench popgym, or cores=[...] envs=[...])",
    "tune": "search for good options with Optuna (rlmem tune env=NAME core=gru trials=30)",
    "compare": "compare runs: table and learning curves (rlmem compare <dir> ... by=core)",
    "report": "write one HTML page about runs: curves, scores, options (rlmem report <dir> ...)",
    "diagnose": "test memory cores (rlmem diagnose core=gru,s5), or an agent's memory (run=<dir>)",
    "plot": "draw the learning curve of a run (rlmem plot <run>)",
    "list": "list cores, environments, algorithms, encoders, tuned settings (rlmem list cores)",
    "new": "write a package for a core of your own (rlmem new core NAME)",
    "completion": "print the Tab completion of a shell (rlmem completion bash, zsh or fish)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with `argv` (default: the process's arguments); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A waiting thread of libgomp uses its core for milliseconds, and keeps it from a thread with
    # work: beside another program, two threads are then far slower than one. libgomp reads this
    # number when torch is imported. Measured with scripts/bench_threads.py: more than half of one
    # thread's speed beside a busy core, but up to a third less than libgomp on an idle machine.
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "2000"
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print_error(error)
        return 2
    except BrokenPipeError:
        # The reader has closed the pipe (`rlmem list | head`). Python flushes stdout at exit, which
        # would fail again, so stdout goes to the null device.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as interrupt:
        if ranks.launched()[0] == 0:
            print(str(interrupt) or "interrupted", file=sys.stderr)
        # A signal other than Ctrl-C has its own code.
        return getattr(interrupt, "exit_code", 130)


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help", "help") and rest and rest[0] in COMMANDS:
        command, rest = rest[0], [*rest[1:], "--help"]
    if command in ("-h", "--help", "help"):
        if rest:
            raise unknown("command", rest[0], COMMANDS)
        print(cli_help.program_help(COMMANDS))
    elif command == "--version":
        print(f"rlmem {__version__}")
    elif command in COMMANDS and ("-h" in rest or "--help" in rest):
        print(cli_help.command_help(command, COMMANDS[command], rest))
    elif command in COMMANDS and "--hydra-help" in rest:
        print(cli_help.hydra_help())
    elif command == "list":
        print(cli_help.list_members(rest))
    elif command == "new":
        from rlmem.cli.new import new

        print(new(rest))
    elif command in ("completion", "complete"):
        from rlmem.cli.completion import complete, script

        # The scripts call `rlmem complete WORD...` at the Tab key.
        asked = command == "complete"
        print("\n".join(complete(rest, COMMANDS)) if asked else script(rest))
    elif command == "diagnose":
        from rlmem.cli.diagnose import run_diagnose

        return run_diagnose(rest)
    elif command == "tune":
        need("hydra", "rlmem tune", "train", "hydra-core")
        from rlmem.cli.tune import run_tune

        return run_tune(rest)
    elif command in ("bench", "compare", "plot", "report"):
        need("hydra", f"rlmem {command}", "train", "hydra-core")
        from rlmem.cli.bench import run_bench
        from rlmem.cli.compare import run_compare, run_plot
        from rlmem.cli.report import run_report

        programs = {
            "bench": run_bench, "compare": run_compare, "plot": run_plot, "report": run_report
        }  # fmt: skip
        return programs[command](rest)
    elif command in COMMANDS:
        need("hydra", f"rlmem {command}", "train", "hydra-core")
        from rlmem.cli import collector

        with collector.paused():
            from rlmem.cli.commands import run

            return run(command, rest)
    elif not command:
        raise UsageError(f"missing command: {', '.join(COMMANDS)} (see rlmem --help)")
    else:
        raise unknown("command", command, COMMANDS)
    return 0
