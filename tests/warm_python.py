"""Python processes with torch and rlmem already imported, for the tests of commands.

An interpreter takes 2 to 3 seconds of CPU time to import them. `warm_python()` starts one server
per test process; it imports them once and forks for every command. The command itself runs as in
a new interpreter: its own arguments, folder, environment, files, signals and exit status.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIENT = Path(__file__).with_name("warm_client.py")
IMPORTS = (
    "gymnasium",
    "torch._dynamo",
    "torch.onnx",
    "matplotlib.figure",
    "torch.utils.tensorboard",
    "tensordict.nn",
    "torchrl.envs",
    "torchrl.modules",
    "torchrl.objectives",
    "rlmem.torchrl",
    "rlmem.cli.commands",
    "rlmem.runs.train",
)


@cache
def warm_python() -> list[str]:
    """The words of a command line for Python with everything imported; `python` without a fork."""
    if not hasattr(os, "pidfd_open"):
        return [sys.executable]
    folder = tempfile.TemporaryDirectory(prefix="warm-python-")
    path = f"{folder.name}/server"
    # The server ends with its standard input, so also when this process is killed.
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm_python", path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server.stdout:
        assert server.stdout.readline() == b"ready\n"

    def stop() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        folder.cleanup()

    atexit.register(stop)
    return [sys.executable, "-I", "-S", str(CLIENT), path]


def serve(path: str) -> list[str]:
    """Fork at each connection; returns the arguments of the command in the forked process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            waiting: list[socket.socket | int] = [listener, 0]
            ready, _, _ = select.select(waiting, [], [])
            if 0 in ready:
                os._exit(0)
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                return begin(connection)
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def begin(connection: socket.socket) -> list[str]:
    """Fork the command, and report its end to the client; returns in the command."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    rest = int.from_bytes(head, "little")
    message = b""
    while len(message) < rest:
        message += connection.recv(rest - len(message))
    folder, count, *words = os.fsdecode(message).split("\0")
    child = os.fork()
    if child:
        watch(connection, child, files)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(dict(word.split("=", 1) for word in words[int(count) :]))
    # The old streams remember whether the server's files were terminals.
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    return words[: int(count)]


def watch(connection: socket.socket, child: int, files: Sequence[int]) -> None:
    """Tell the client the process number and the exit status; without a client, kill."""
    for file in (0, 1, 2, *files):
        os.close(file)
    connection.sendall(child.to_bytes(8, "little"))
    waiting: list[socket.socket | int] = [os.pidfd_open(child), connection]
    ready, _, _ = select.select(waiting, [], [])
    if connection in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.sendall(status.to_bytes(8, "little"))
    os._exit(0)


def execute(arguments: list[str], base: Sequence[str]) -> None:
    """Run a module, a text, standard input or a file like `python`, with a search path after."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, given), *base]
    match arguments:
        case ["-W", action, *rest]:
            warnings.simplefilter(action)  # type: ignore[arg-type]
            execute(rest, base)
        case ["-m", module, *rest]:
            sys.path.insert(0, os.getcwd())
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", text, *rest]:
            run_text(text, ["-c", *rest])
        case [] | ["-", *_]:
            run_text(sys.stdin.read(), arguments or [""])
        case [file, *_]:
            sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
            sys.argv = arguments
            runpy.run_path(file, run_name="__main__")


def run_text(text: str, arguments: list[str]) -> None:
    """Run a text as the main module."""
    sys.path.insert(0, "")
    sys.argv = arguments
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(text, "<string>", "exec"), main.__dict__)


def exit_code(arguments: list[str], base: Sequence[str]) -> int:
    """Run the command; prints an error that ends it."""
    try:
        execute(arguments, base)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(code: int) -> None:
    """Leave like an interpreter, except that modules are not taken apart (a second of CPU time)."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def server_main(path: str) -> None:
    """Import everything, serve, and run the command in the forked process."""
    for name in IMPORTS:
        if find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    # Threads do not live on after a fork, and could hold a lock.
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads before a fork"
    # A collection in a forked process would copy every page.
    gc.freeze()
    arguments = serve(path)
    numpy = importlib.import_module("numpy")
    numpy.random.seed()
    end(exit_code(arguments, [entry for entry in sys.path if entry != str(ROOT)]))


if __name__ == "__main__":
    server_main(sys.argv[1])
