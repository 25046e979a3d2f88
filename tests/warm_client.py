"""Sends a command to the server of `warm_python.py`: passes signals on, ends as the command ends.

    python -I -S warm_client.py SERVER [-m MODULE | -c TEXT | FILE] [ARGUMENT ...]

The standard library without `site` is enough, so it starts in a fiftieth of a second.
"""

import os
import signal
import socket
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


def run(server: str, arguments: list[str]) -> int:
    """The exit status of the command, as of `os.wait`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        environment = [f"{name}={value}" for name, value in os.environ.items()]
        words = [os.getcwd(), str(len(arguments)), *arguments, *environment]
        message = os.fsencode("\0".join(words))
        socket.send_fds(connection, [len(message).to_bytes(8, "little")], [0, 1, 2])
        connection.sendall(message)
        child = int.from_bytes(connection.recv(8), "little")
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: os.kill(child, number))
        return int.from_bytes(connection.recv(8), "little")


def main() -> None:
    """Run the command and end with its status or by its signal."""
    status = run(sys.argv[1], sys.argv[2:])
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


main()
