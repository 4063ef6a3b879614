"""Running ``kdecay`` on input that needs no database, and checking that it refuses."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs ``kdecay`` with arguments; keywords are environment variables."""

STUDY = """
name = "small"
[task]
kind = "simulated"
epochs = 4
"""
IMAGES = """
name = "pictures"
[task]
kind = "images"
epochs = 2
[task.data]
name = "image-folder"
root = "nowhere"
"""


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """Check that a command was refused in one line on stderr, and return it."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("kdecay: ")
    return lines[0]


def closed_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


DRIVER = """
import json, sys
from kdecay_search.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        print("==", arguments[0], end.code, flush=True)
"""
"""Runs several commands in one process, which saves most of the time."""
