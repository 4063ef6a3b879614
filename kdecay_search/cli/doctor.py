"""``doctor``: whether a worker could work here, and what to mend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import AsJson, StorageUrl, opened, print_json, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from kdecay_search.doctor.check import Check
    from kdecay_search.study.spec import StudySpec

STORAGE_SECONDS = 30.0
"""For a database that accepts connections and then falls silent; libpq waits 10 s for one."""
START_SECONDS = 60.0
"""For the embedded server to start."""
FOLDER_SECONDS = 20.0
MACHINE_SECONDS = 150.0
SYMBOLS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Look at the data of this study file.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Look at the data of this stored study.")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="KDECAY_CHECKPOINTS",
            help="The folder for checkpoints. Left out: checkpoints in the data folder.",
        ),
    ] = None,
    json: AsJson = False,
    storage: StorageUrl = None,
) -> None:
    """Check whether a worker could work here, and print what to mend.

    Looks at the database, this machine's devices, and the folders. Exit code 0: a worker could
    work here; 2: something is bad.
    """
    from kdecay_search.errors import KDecayError
    from kdecay_search.study.file import load

    if file is not None and study is not None:
        raise KDecayError("--study: give a study file or the name of a stored study, not both")
    spec = None if file is None else load(file)
    found = []
    for check in _checks(storage, study, spec, checkpoints):
        found.append(check)
        if not json:
            _print(check, stdout())
    if json:
        print_json({"ok": not _is_bad(found), "checks": [_as_json(check) for check in found]})
    elif not _is_bad(found):
        typer.echo("a worker can work here")
    if _is_bad(found):
        raise typer.Exit(2)


def _checks(
    url: str | None, study: str | None, spec: StudySpec | None, checkpoints: Path | None
) -> Iterator[Check]:
    from kdecay_search.doctor.check import within
    from kdecay_search.doctor.folders import checkpoint_checks, data_checks, home_checks
    from kdecay_search.doctor.machine import machine_checks

    storage = list(_storage_checks(url))
    yield from storage
    if study is not None:
        spec, unknown = _stored(url, study, storage)
        yield from unknown
    look = "look at the first error above"
    yield from within(MACHINE_SECONDS, "machine", lambda: machine_checks(spec), look)
    disk = "a network disk that does not answer blocks whoever touches it: look at mount and dmesg"
    embeds = not url
    yield from within(FOLDER_SECONDS, "home", lambda: home_checks(embeds), disk)
    yield from within(FOLDER_SECONDS, "checkpoints", lambda: checkpoint_checks(checkpoints), disk)
    if spec is not None:
        named = spec
        yield from within(FOLDER_SECONDS, "data", lambda: data_checks(named), disk)


def _storage_checks(url: str | None) -> Iterator[Check]:
    from kdecay_search.doctor.check import within
    from kdecay_search.doctor.database import database_checks
    from kdecay_search.storage import embedded_url
    from kdecay_search.worker.devices import count_gpus, usable_cores

    workers = count_gpus() or usable_cores()
    seconds = STORAGE_SECONDS if url else START_SECONDS
    hint = "look at the server, and at the network between"
    hint = hint if url else "give KDECAY_HOME a folder that this user may write to"
    yield from within(
        seconds, "server", lambda: database_checks(url or embedded_url(), workers), hint
    )


def _stored(
    url: str | None, study: str, storage: list[Check]
) -> tuple[StudySpec | None, list[Check]]:
    """The spec of a stored study, or why there is none; looking makes no tables."""
    from kdecay_search.doctor.check import bad
    from kdecay_search.doctor.database import NO_TABLES
    from kdecay_search.errors import KDecayError
    from kdecay_search.storage.records import read_study

    hint = "kdecay list shows all studies"
    if _is_bad(storage):
        return None, [bad("study", f"{study}: cannot be read", "mend the database first")]
    if any(check.value == NO_TABLES for check in storage):
        return None, [bad("study", f"{study}: there are no studies in this database", hint)]
    try:
        with opened(url) as store:
            return read_study(store, study)[0], []
    except KDecayError as error:
        return None, [bad("study", str(error), hint)]


def _is_bad(checks: list[Check]) -> bool:
    return any(check.mark == "bad" for check in checks)


def _as_json(check: Check) -> dict[str, str | None]:
    return {
        "subject": check.subject,
        "mark": str(check.mark),
        "value": check.value,
        "mend": check.mend,
    }


def _print(check: Check, console: Console) -> None:
    """A line for the finding, and one below it for what to do."""
    from rich.table import Table
    from rich.text import Text

    if not console.is_terminal:
        typer.echo(f"{check.mark!s:8} {check.subject:12} {check.value}")
        if check.mend:
            typer.echo(f"{'':21} {check.mend}")
        return
    symbol, style = SYMBOLS[check.mark]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=11)
    grid.add_column()
    grid.add_row(Text(symbol, style), Text(check.subject, "bold"), Text(check.value))
    if check.mend:
        grid.add_row("", "", Text(f"→ {check.mend}", style))
    console.print(grid)
