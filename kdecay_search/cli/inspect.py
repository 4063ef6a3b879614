"""``status``, ``list``, ``best``, ``stop`` and ``delete``: commands on existing studies."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdecay_search.cli.options import (
    AsJson,
    Checkpoints,
    StorageUrl,
    StudyName,
    checkpoint_folder,
    opened,
)
from kdecay_search.cli.output import CHART_WIDTH, echo, print_json, print_result, progress_console
from kdecay_search.schedules.forms import Form

if TYPE_CHECKING:
    from kdecay_search.storage import Storage


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command(name="list")(list_studies)
    app.command()(best)
    app.command()(stop)
    app.command()(delete)


def status(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The study's name. Default: the newest one."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep showing it until the study ends.")
    ] = False,
    errors: Annotated[
        bool,
        typer.Option(
            "--errors",
            help="Show why attempts failed instead: the traceback of your training code, or the "
            "last output of a program.",
        ),
    ] = False,
    json: AsJson = False,
    storage: StorageUrl = None,
) -> None:
    """Show the state of a study.

    Prints its stages, the candidates with their results, the running trials, the epochs or steps
    trained, the best schedule, and plots of the schedule and of the metric against k.
    """
    from kdecay_search.cli.watch import watch_study
    from kdecay_search.report.charts import study_charts
    from kdecay_search.report.failures import as_text, as_values, read_failures
    from kdecay_search.report.summary import summarise
    from kdecay_search.report.text import study_panel
    from kdecay_search.snapshot import read_snapshot

    with opened(storage) as store:
        name = name or newest_study(store)
        snapshot = read_snapshot(store, name)
        if watch:
            snapshot = watch_study(lambda: read_snapshot(store, name), progress_console())
        failures = read_failures(store, snapshot) if errors else None
        if json:
            found = {"errors": as_values(failures)} if failures else {}
            print_json({**summarise(snapshot), **found})
        elif failures:
            print_result(as_text(failures))
        else:
            print_result(study_panel(snapshot))
            print_result(study_charts(snapshot, CHART_WIDTH) or "")


def newest_study(storage: Storage) -> str:
    """Return the name of the newest study; raise :class:`StudyError` if there is none."""
    from kdecay_search.errors import StudyError
    from kdecay_search.storage.records import study_names

    names = study_names(storage)
    if not names:
        raise StudyError("there are no studies yet; start one with kdecay launch FILE")
    return names[-1]


def list_studies(json: AsJson = False, storage: StorageUrl = None) -> None:
    """List all studies, oldest first.

    A study that cannot be read is listed as unreadable, and one line says why. The JSON has of
    each study what kdecay status --json has, without stages, confirmation and failures.
    """
    from kdecay_search.report.text import studies_table
    from kdecay_search.storage.records import read_overviews

    with opened(storage) as store:
        ended = read_overviews(store)
        found = [shown or _overview(store, name) for name, shown in ended.items()]
        studies = [each for each in found if each]
        for each in studies:
            if "reason" in each:
                echo(f"{each['study']}: {each['reason']}", err=True)
        if json:
            print_json(studies)
        elif studies:
            print_result(studies_table(studies))
        else:
            echo("no studies yet; start one with kdecay launch FILE")


def _overview(store: Storage, name: str) -> dict[str, Any]:
    """Return what a list shows of a study; nothing if it has been deleted meanwhile."""
    from kdecay_search.errors import InvalidSpec, StudyError
    from kdecay_search.snapshot import overview, read_snapshot
    from kdecay_search.storage.records import read_stages, readable

    try:
        with readable(name):
            return overview(read_snapshot(store, name))
    except (StudyError, InvalidSpec) as error:
        if not read_stages(store, name):
            return {}
        return {"study": name, "state": "unreadable", "reason": str(error)}


def best(
    name: StudyName,
    as_: Annotated[Form, typer.Option("--as", help="The format to print.")] = Form.JSON,
    total_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The optimizer updates of your training, filled into what is printed. Default for "
            "csv: one row per epoch or step of the study.",
        ),
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Print the best schedule found so far.

    The formats are JSON, a Python function of ten lines without dependencies, a table of values,
    and schedulers for training libraries. Each works as printed.
    """
    from kdecay_search.report.winner import winner_as
    from kdecay_search.snapshot import read_snapshot

    with opened(storage) as store:
        print(winner_as(read_snapshot(store, name), as_, total_steps), end="")


def stop(name: StudyName, storage: StorageUrl = None) -> None:
    """Stop a study; launch resumes it.

    Its workers put their trials back into the queue, and claim no further ones.
    """
    from kdecay_search import reconcile

    with opened(storage) as store:
        reconcile.stop(store, name)
    echo(f"{name} is stopped; kdecay launch with its study file resumes it", err=True)


def delete(
    name: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    checkpoints: Checkpoints = None,
    storage: StorageUrl = None,
) -> None:
    """Delete a study and all its trials.

    Asks for confirmation first. Workers that train it notice at their next heartbeat, and stop.
    They and this command remove the study's checkpoints in the folders that they are given.
    """
    from kdecay_search.errors import InvalidSpec, KDecayError, StudyError
    from kdecay_search.storage.deletion import delete_study
    from kdecay_search.storage.records import count_trials, find_study

    with opened(storage) as store:
        trials = count_trials(store, name)
        if not yes and not typer.confirm(f"Delete {name} and its {trials} trials?", err=True):
            raise typer.Exit(1)
        study = None
        with contextlib.suppress(StudyError, InvalidSpec):  # what cannot be read can be deleted
            study = find_study(store, name)
        deleted = delete_study(store, name)
    if study is not None:
        with contextlib.suppress(KDecayError):  # no such folder on this machine
            checkpoint_folder(checkpoints).remove_study(study.spec, study.launch)
    running = f"; {deleted.running} were running, and their workers stop" if deleted.running else ""
    echo(f"{name} is deleted, with {deleted.trials} trials{running}", err=True)
