"""``status``, ``list``, ``best``, ``stop``, ``delete``: studies that exist."""

from __future__ import annotations

from enum import StrEnum
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

if TYPE_CHECKING:
    from kdecay_search.report.view import StudyView
    from kdecay_search.storage import Storage


class BestFormat(StrEnum):
    """What ``best`` prints."""

    JSON = "json"
    PYTHON = "python"
    CSV = "csv"


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
    json: AsJson = False,
    storage: StorageUrl = None,
) -> None:
    """Show where a study stands.

    Its stages, candidates with their errors, running trials, epochs and best schedule.
    """
    from kdecay_search.cli.watch import watch_study
    from kdecay_search.report.summary import summarise
    from kdecay_search.report.text import study_panel
    from kdecay_search.report.view import read_view

    with opened(storage) as store:
        name = name or newest(store)
        view = read_view(store, name)
        if watch:
            view = watch_study(lambda: read_view(store, name), stderr())
        if json:
            print_json(summarise(view))
        elif not watch or not stderr().is_terminal:
            stdout().print(study_panel(view))


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
    from kdecay_search.report.view import read_view
    from kdecay_search.storage.records import study_names

    with opened(storage) as store:
        views = []
        for name in study_names(store):
            try:
                views.append(read_view(store, name))
            except InvalidSpec as error:
                typer.echo(f"{name}: {error}", err=True)
        if json:
            from kdecay_search.report.summary import summarise

            print_json([summarise(view) for view in views])
        elif views:
            stdout().print(studies_table(views))
        else:
            typer.echo("no studies yet; start one with kdecay launch FILE")


def best(
    name: StudyName,
    as_: Annotated[BestFormat, typer.Option("--as", help="The form to print.")] = BestFormat.JSON,
    total_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Optimizer updates of your training. csv: left out, one row an epoch."
        ),
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Print the best schedule found so far.

    As JSON, as a Python function of ten lines, or as a table of values.
    """
    from kdecay_search.report.view import read_view

    with opened(storage) as store:
        _print_best(read_view(store, name), as_, total_steps)


def _print_best(view: StudyView, form: BestFormat, total_steps: int | None) -> None:
    from kdecay_search import export
    from kdecay_search.errors import StudyError
    from kdecay_search.report.summary import summarise

    if not view.plan.leader.errors:
        raise StudyError(f"study {view.spec.name!r} has no result yet; see kdecay status")
    if form == BestFormat.JSON:
        keys = ("study", "state", "schedule", "error", "baseline", "gain")
        print_json({key: value for key, value in summarise(view).items() if key in keys})
        return
    epochs = view.spec.task.epochs
    if total_steps is None and view.spec.schedule.warmup_epochs and form == BestFormat.PYTHON:
        raise StudyError("the schedule has a warm-up, counted in updates: give --total-steps")
    total_steps = total_steps or epochs
    schedule = view.spec.schedule_for(view.plan.leader.ks, total_steps / epochs)
    if form == BestFormat.CSV:
        print(export.schedule_csv(schedule, total_steps), end="")
    else:
        print(export.kdecay_python_source(schedule), end="")


def stop(name: StudyName, storage: StorageUrl = None) -> None:
    """Stop a study; launch goes on with it.

    Its workers put their trials back into the queue and take no more.
    """
    from kdecay_search import driver

    with opened(storage) as store:
        driver.stop(store, name)
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
