"""Clocks that step: a library, preloaded into a program, moves the time of day that it sees."""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("clock_step.c")


@dataclass(frozen=True)
class Clock:
    """The clock of one program and of what it starts."""

    library: Path
    """The library that is preloaded."""
    file: Path
    """File that holds the seconds by which the clock runs ahead."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which a program gets this clock."""
        return {"LD_PRELOAD": str(self.library), "CHAOS_CLOCK": str(self.file)}

    def step(self, seconds: int) -> None:
        """Set the clock forward, or back if ``seconds`` is negative."""
        with self.file.open("r+b") as file:
            ahead = struct.unpack("l", file.read())[0]
            file.seek(0)
            file.write(struct.pack("l", ahead + seconds))


class Clocks:
    """All clocks of a scenario.

    Args:
        folder: A new folder, which all users can read: a database server has its own.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        self._folder = folder
        self._library = folder / "clock_step.so"
        _compile(self._library)

    def new(self, name: str) -> Clock:
        """Make a clock that is right."""
        file = self._folder / name
        file.write_bytes(struct.pack("l", 0))
        file.chmod(0o644)
        return Clock(self._library, file)


@functools.cache
def unavailable_reason() -> str | None:
    """The reason why no clock can step here; None if clocks can."""
    if sys.platform != "linux" or struct.calcsize("l") != 8:
        return "needs 64-bit Linux"
    return None if shutil.which("cc") else "needs a C compiler, cc"


def _compile(library: Path) -> None:
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
