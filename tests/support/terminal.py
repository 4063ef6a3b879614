"""Running a command whose standard streams are terminals, pipes, or closed."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence

STREAMS = ("stdin", "stdout", "stderr")


def run_in_terminal(
    command: Sequence[str],
    environment: Mapping[str, str],
    terminals: Sequence[str] = STREAMS,
    closed: Sequence[str] = (),
    columns: int = 80,
    timeout_seconds: float = 240,
) -> tuple[int, bytes, bytes]:
    """Run a command to its end.

    Args:
        command: The command.
        environment: Its environment variables.
        terminals: Those of its standard streams that are terminals; others are pipes, and stdin is
            empty.
        closed: Those of its standard streams that are closed.
        columns: The width of the terminals.
        timeout_seconds: After this time, the command is killed.

    Returns:
        The exit code, and what it wrote to stdout and to stderr.
    """
    ours, theirs = {}, {}
    for name in STREAMS:
        if name in terminals:
            ours[name], theirs[name] = pty.openpty()
            fcntl.ioctl(theirs[name], termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        elif name != "stdin":
            ours[name], theirs[name] = os.pipe()
    closing = " ".join(f"{STREAMS.index(name)}>&-" for name in closed)
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {closing}', "-", *command],
        env=environment,
        stdin=theirs.get("stdin", subprocess.DEVNULL),
        stdout=theirs["stdout"],
        stderr=theirs["stderr"],
    )
    for descriptor in theirs.values():
        os.close(descriptor)
    written = {"stdout": bytearray(), "stderr": bytearray()}
    readers = [
        threading.Thread(target=_read, args=(ours[name], text)) for name, text in written.items()
    ]
    for reader in readers:
        reader.start()
    timer = threading.Timer(timeout_seconds, process.kill)
    timer.start()
    code = process.wait()
    timer.cancel()
    for reader in readers:
        reader.join()
    for descriptor in ours.values():
        os.close(descriptor)
    return code, bytes(written["stdout"]), bytes(written["stderr"])


def _read(descriptor: int, text: bytearray) -> None:
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how the end of a terminal is reported
            return
        if not part:
            return
        text += part
