"""Options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from kdecay_search.storage import Storage

StorageUrl = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar="KDECAY_STORAGE",
        help="postgresql://user:password@host/database. Left out: your own embedded server.",
    ),
]
StudyFile = Annotated[str, typer.Argument(metavar="FILE", help="The study file (TOML).")]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value of the study file by its dotted key."
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or all.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]


PIPE_WIDTH = 120


@contextlib.contextmanager
def opened(url: str | None) -> Iterator[Storage]:
    """A connection to the storage that the options name, or to the embedded one."""
    from kdecay_search.storage import Storage, embedded_url

    storage = Storage(url or embedded_url())
    try:
        yield storage
    finally:
        storage.close()


def stdout() -> Console:
    """A console for results; in a pipe wide enough for its tables."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def stderr() -> Console:
    """A console for progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    import json

    print(json.dumps(value, indent=2, allow_nan=False))
