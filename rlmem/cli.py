"""The program `rlmem`: what a command line means, and what its end looks like.

Exit codes: 0 done, 2 bad input (one line on stderr), 130 interrupted. This file and `cli_help`
import neither torch nor Hydra, so that help and lists come at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rlmem import __version__, cli_help
from rlmem.errors import UsageError, unknown

COMMANDS = {
    "train": "train an agent and leave a run folder (rlmem train env=popgym-repeat core=ffm)",
    "eval": "play greedy episodes with a trained agent (rlmem eval run=<dir>)",
    "play": "watch episodes step by step (rlmem play env=tmaze-passive, or run=<dir>)",
    "list": "name the cores, environments and algorithms there are",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with `argv` (default: the process's arguments); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UsageError as error:
        complain(error)
        return 2
    except BrokenPipeError:
        # Whoever read this (`rlmem list | head`) has seen enough; nothing may be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        return 130


def complain(error: Exception) -> None:
    """Say what is wrong in one line on stderr."""
    print("rlmem:", " ".join(str(error).split()), file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help"):
        print(cli_help.program(COMMANDS))
    elif command == "--version":
        print(f"rlmem {__version__}")
    elif command in COMMANDS and ("-h" in rest or "--help" in rest):
        print(cli_help.command(command, COMMANDS[command], rest))
    elif command == "list":
        if rest:
            raise UsageError(f"rlmem list takes no arguments, not {rest[0]!r}")
        print(cli_help.listing())
    elif command in COMMANDS:
        from rlmem.cli_run import run

        return run(command, rest)
    elif not command:
        raise UsageError(f"a command is missing: {', '.join(COMMANDS)} (rlmem --help says more)")
    else:
        raise unknown("command", command, COMMANDS)
    return 0
