"""``status``, ``list``, ``best``, ``stop``, ``delete``: studies that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import (
    AsJson,
    StorageUrl,
    StudyName,
    opened,
    print_json,
    stderr,
    stdout,
)
from kdecay_search.schedules.export import Form

if TYPE_CHECKING:
    from kdecay_search.snapshot import StudySnapshot
    from kdecay_search.storage import Storage


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command(name="list")(list_studies)
    app.command()(best)
    app.command()(stop)
    app.command()(delete)


def status(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Left out: the newest study.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it live until the study ends.")
    ] = False,
    errors: Annotated[
        bool,
        typer.Option(
            "--errors",
            help="Show why attempts failed instead: the traceback of your own code, or the last "
            "words of a program.",
        ),
    ] = False,
    json: AsJson = False,
    storage: StorageUrl = None,
) -> None:
    """Show where a study stands.

    Its stages, candidates with their errors, running trials, epochs and best schedule; and, where
    the terminal is wide enough, plots of the schedule and of the error against k.
    """
    from kdecay_search.cli.watch import watch_study
    from kdecay_search.report.failures import as_text, as_values, read_failures
    from kdecay_search.report.summary import summarise
    from kdecay_search.snapshot import read_snapshot

    with opened(storage) as store:
        name = name or newest(store)
        snapshot = read_snapshot(store, name)
        if watch:
            snapshot = watch_study(lambda: read_snapshot(store, name), stderr())
        failures = read_failures(store, snapshot) if errors else None
        if json:
            found = {"errors": as_values(failures)} if failures else {}
            print_json({**summarise(snapshot), **found})
        elif failures:
            stdout().print(as_text(failures), soft_wrap=True)
        elif not watch or not stderr().is_terminal:
            _print_status(snapshot)


def _print_status(snapshot: StudySnapshot) -> None:
    from kdecay_search.report.charts import study_charts
    from kdecay_search.report.text import study_panel

    console = stdout()
    console.print(study_panel(snapshot))
    charts = study_charts(snapshot, console.width)
    if charts is not None:
        console.print(charts)


def newest(storage: Storage) -> str:
    from kdecay_search.errors import StudyError
    from kdecay_search.storage.records import study_names

    names = study_names(storage)
    if not names:
        raise StudyError("there are no studies yet; start one with kdecay launch FILE")
    return names[-1]


def list_studies(json: AsJson = False, storage: StorageUrl = None) -> None:
    """List all studies, oldest first."""
    from kdecay_search.errors import InvalidSpec
    from kdecay_search.report.text import studies_table
    from kdecay_search.snapshot import read_snapshot
    from kdecay_search.storage.records import study_names

    with opened(storage) as store:
        snapshots = []
        for name in study_names(store):
            try:
                snapshots.append(read_snapshot(store, name))
            except InvalidSpec as error:
                typer.echo(f"{name}: {error}", err=True)
        if json:
            from kdecay_search.report.summary import summarise

            print_json([summarise(snapshot) for snapshot in snapshots])
        elif snapshots:
            stdout().print(studies_table(snapshots))
        else:
            typer.echo("no studies yet; start one with kdecay launch FILE")


def best(
    name: StudyName,
    as_: Annotated[Form, typer.Option("--as", help="The form to print.")] = Form.JSON,
    total_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Optimizer updates of your training, to be filled in. csv: left out, one row an "
            "epoch.",
        ),
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Print the best schedule found so far.

    As JSON, as a Python function of ten lines that needs nothing else, as a table of values, or as
    a scheduler for a training library. Each works as printed.
    """
    from kdecay_search.report.winner import winner_as
    from kdecay_search.snapshot import read_snapshot

    with opened(storage) as store:
        print(winner_as(read_snapshot(store, name), as_, total_steps), end="")


def stop(name: StudyName, storage: StorageUrl = None) -> None:
    """Stop a study; launch goes on with it.

    Its workers put their trials back into the queue and take no more.
    """
    from kdecay_search import reconcile

    with opened(storage) as store:
        reconcile.stop(store, name)
    typer.echo(f"{name} is stopped; kdecay launch with its file goes on with it", err=True)


def delete(
    name: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: StorageUrl = None,
) -> None:
    """Delete a study with all its trials."""
    from kdecay_search.storage.records import count_trials, delete_study

    with opened(storage) as store:
        trials = count_trials(store, name)
        if not yes and not typer.confirm(f"Delete {name} with its {trials} trials?", err=True):
            raise typer.Exit(1)
        delete_study(store, name)
    typer.echo(f"{name} is deleted", err=True)
