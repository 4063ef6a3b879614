"""Containers: processes with process ids and shared memory of their own, on the same files."""

from __future__ import annotations

import functools
import os
import subprocess

from tests.support.embedded_homes import CONTAINER

PREFIX = CONTAINER
"""A command that runs another command as the first process of a container."""


@functools.cache
def unavailable_reason() -> str | None:
    """The reason why there are no containers here; None if there can be."""
    if os.geteuid() != 0:
        return "only root can make them"
    try:
        done = subprocess.run([*PREFIX, "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()
