"""Options that several benchmarks have in common."""

from __future__ import annotations

import argparse
import os


def count(text: str) -> int:
    """A number of 1 or more.

    Raises:
        ValueError: It is none.
    """
    if int(text) < 1:
        raise ValueError
    return int(text)


def counts(text: str) -> list[int]:
    """Numbers of 1 or more, such as ``1,4,16``.

    Raises:
        ValueError: One is none.
    """
    return [count(part) for part in text.split(",")]


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add ``--processes``, one for each core by default; they change no result."""
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=count, default=cores, help="default: one for each core")
