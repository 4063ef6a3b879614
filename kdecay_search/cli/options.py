"""Options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from kdecay_search.storage import Storage
    from kdecay_search.tasks.checkpoint import CheckpointFolder
    from kdecay_search.user_code.allowance import Allowance

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
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints",
        envvar="KDECAY_CHECKPOINTS",
        metavar="DIR",
        help="Folder for the state of unfinished runs; on a cluster one that all workers share. "
        "Left out: a folder of this user's.",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="MODULE:FUNCTION",
        help="Let studies run this training code of your own; repeatable. Else none is imported.",
    ),
]
AllowCommand = Annotated[
    bool,
    typer.Option(
        "--allow-command",
        help="Let studies run any program: whoever can write to the database can then run "
        "programs here.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]


PIPE_WIDTH = 120


@contextlib.contextmanager
def opened(url: str | None, patience_seconds: float = 0.0) -> Iterator[Storage]:
    """A connection to the storage that the options name, or to the embedded one.

    ``patience_seconds``: for how long it is tried again, since the server may be starting.
    """
    from kdecay_search.storage.connect import retried_for

    def tell(text: str) -> None:
        typer.echo(f"{text}; trying for {patience_seconds:g} s", err=True)

    connect = retried_for(patience_seconds, _connected, tell) if patience_seconds else _connected
    storage = connect(url)
    try:
        yield storage
    finally:
        storage.close()


def _connected(url: str | None) -> Storage:
    from kdecay_search.storage import Storage, embedded

    return Storage(url) if url else Storage(embedded.embedded_url(), embedded.revive)


def allowance(entries: list[str] | None, commands: bool) -> Allowance:
    """What the command line allows. Raises :class:`KDecayError` for what names no function."""
    from kdecay_search.errors import KDecayError
    from kdecay_search.study.user_tasks import is_entry
    from kdecay_search.user_code.allowance import Allowance

    for entry in entries or []:
        if not is_entry(entry):
            raise KDecayError(
                f"--allow {entry}: must be module:function, as task.entry of the study file"
            )
    return Allowance(frozenset(entries or []), commands)


def checkpoint_folder(option: str | None) -> CheckpointFolder:
    """Where checkpoints go. Raises :class:`KDecayError` if that cannot be a folder."""
    from pathlib import Path

    from kdecay_search.errors import KDecayError
    from kdecay_search.paths import home
    from kdecay_search.tasks.checkpoint import CheckpointFolder

    root = Path(option).expanduser().resolve() if option else home() / "checkpoints"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KDecayError(
            f"--checkpoints {root}: {error.strerror}; give a folder that can be written to"
        ) from error
    return CheckpointFolder(root)


def worker_environment(url: str | None, checkpoints: str | None) -> dict[str, str]:
    """What workers are told by their environment: a command line is for all to read."""
    given = {"KDECAY_STORAGE": url, "KDECAY_CHECKPOINTS": checkpoints}
    return {name: value for name, value in given.items() if value}


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
