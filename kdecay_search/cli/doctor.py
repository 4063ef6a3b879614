"""``doctor``: could a worker work here, and if not, what fixes it?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import AsJson, StorageUrl, opened
from kdecay_search.cli.output import echo, print_json, print_result

if TYPE_CHECKING:
    from kdecay_search.doctor.check import Check
    from kdecay_search.storage.records import StoredStudy
    from kdecay_search.study.spec import StudySpec

STORAGE_SECONDS = 30.0
"""The time limit for a database. It may accept a connection and then fall silent; libpq alone
waits 10 s to connect."""
START_SECONDS = 60.0
"""The time limit for the embedded server, which may have to start first."""
FOLDER_SECONDS = 20.0
MACHINE_SECONDS = 150.0
STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Check the data of this study file.")
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Check the data of this stored study.")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="KDECAY_CHECKPOINTS",
            help="Check this folder for checkpoints. Default: checkpoints in KDECAY_HOME.",
        ),
    ] = None,
    json: AsJson = False,
    storage: StorageUrl = None,
) -> None:
    """Check whether a worker could work here.

    Checks the database, this machine and its devices, and the folders that a worker uses, and
    prints what to fix. Exit code 0: a worker could work here; 2: there is an error.
    """
    from kdecay_search.errors import KDecayError
    from kdecay_search.study.file import load

    if file is not None and study is not None:
        raise KDecayError("--study: give a study file or the name of a stored study, not both")
    spec = None if file is None else load(file)
    checks = []
    for check in _checks(storage, study, spec, checkpoints):
        checks.append(check)
        if not json:
            _print(check)
    if json:
        values = [
            {"subject": c.subject, "severity": str(c.severity), "value": c.value, "fix": c.fix}
            for c in checks
        ]
        print_json({"ok": not _has_error(checks), "checks": values})
    elif not _has_error(checks):
        echo("a worker can work here")
    if _has_error(checks):
        raise typer.Exit(2)


def _checks(
    url: str | None, study: str | None, spec: StudySpec | None, checkpoints: Path | None
) -> Iterator[Check]:
    from kdecay_search.doctor.check import within
    from kdecay_search.doctor.folders import (
        checkpoint_checks,
        data_checks,
        home_checks,
        temporary_checks,
    )
    from kdecay_search.doctor.machine import machine_checks

    storage = list(_storage_checks(url))
    yield from storage
    launch = None
    if study is not None:
        stored, unreadable = _stored_study(url, study, storage)
        yield from unreadable
        if stored is not None:
            spec, launch = stored.spec, stored.launch
    fix = "fix the first error above"
    yield from within(MACHINE_SECONDS, "machine", lambda: machine_checks(spec), fix)
    fix = "a network disk that does not answer blocks every access: run mount and dmesg"
    yield from within(FOLDER_SECONDS, "home", lambda: home_checks(is_embedded=not url), fix)
    yield from within(FOLDER_SECONDS, "temporary", temporary_checks, fix)
    yield from within(
        FOLDER_SECONDS, "checkpoints", lambda: checkpoint_checks(checkpoints, spec, launch), fix
    )
    if spec is not None:
        named = spec
        yield from within(FOLDER_SECONDS, "data", lambda: data_checks(named), fix)


def _storage_checks(url: str | None) -> Iterator[Check]:
    from kdecay_search.doctor.check import error, within
    from kdecay_search.doctor.database import database_checks
    from kdecay_search.errors import KDecayError
    from kdecay_search.storage import embedded_url
    from kdecay_search.worker.devices import count_device_files, usable_cores

    workers = count_device_files() or usable_cores()

    def embedded_checks() -> Iterator[Check]:
        try:
            own = embedded_url()
        except KDecayError as raised:  # its text ends with the fix
            cause, _, fix = str(raised).rpartition("; ")
            yield error("server", cause, fix)
        else:
            yield from database_checks(own, workers)

    if url:
        fix = "check the server, and the network in between"
        yield from within(STORAGE_SECONDS, "server", lambda: database_checks(url, workers), fix)
    else:
        fix = "look at the server's log, postgres/log in KDECAY_HOME"
        yield from within(START_SECONDS, "server", embedded_checks, fix)


def _stored_study(
    url: str | None, study: str, storage: list[Check]
) -> tuple[StoredStudy | None, list[Check]]:
    """Read a stored study; or return None and the reason. Creates no tables."""
    from kdecay_search.doctor.check import error
    from kdecay_search.doctor.database import NO_TABLES
    from kdecay_search.errors import KDecayError
    from kdecay_search.storage.records import read_study

    fix = "kdecay list shows all studies"
    if _has_error(storage):
        return None, [error("study", f"{study}: cannot be read", "fix the database first")]
    if any(check.value == NO_TABLES for check in storage):
        return None, [error("study", f"{study}: there are no studies in this database", fix)]
    try:
        with opened(url) as store:
            return read_study(store, study), []
    except KDecayError as raised:
        return None, [error("study", str(raised), fix)]


def _has_error(checks: list[Check]) -> bool:
    return any(check.severity == "error" for check in checks)


def _print(check: Check) -> None:
    """Print a line for the result, and one below it for the fix."""
    from rich.text import Text

    style = STYLES[check.severity]
    line = Text.assemble((f"{check.severity:8}", style), f" {check.subject:12} {check.value}")
    if check.fix:
        line.append(f"\n{'':21} {check.fix}", style)
    print_result(line)
