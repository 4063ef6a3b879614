"""``confirm``: is the found schedule really better?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.launch import Detach, LaunchedWorkers, WorkerCount, serve, worker_count
from kdecay_search.cli.options import (
    Allow,
    AllowCommand,
    AsJson,
    Checkpoints,
    Device,
    StorageUrl,
    StudyName,
    allowance,
    opened,
)

if TYPE_CHECKING:
    from kdecay_search.storage import Storage

DEFAULT_SEEDS = 10


def register(app: typer.Typer) -> None:
    app.command()(confirm)


def confirm(
    name: StudyName,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2, max=1000, help=f"Fresh seeds. Left out: the file's, or {DEFAULT_SEEDS}."
        ),
    ] = None,
    rivals: Annotated[
        list[str] | None,
        typer.Option("--rival", metavar="SCHEDULE", help="Compare with this one, too; repeatable."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Repeat a comparison that is done, with other seeds.")
    ] = False,
    workers: WorkerCount = None,
    device: Device = "auto",
    allow: Allow = None,
    allow_command: AllowCommand = False,
    detach: Detach = False,
    json: AsJson = False,
    checkpoints: Checkpoints = None,
    storage: StorageUrl = None,
) -> None:
    """Compare the found schedule with the original on the test set.

    Both are trained anew with seeds that the search has not used, on all training images; so is
    the original at a higher rate, whose mean is the found schedule's. A search that still runs
    ends with this comparison.
    """
    from kdecay_search import reconcile
    from kdecay_search.storage.records import read_study
    from kdecay_search.study import file as study_file

    with opened(storage) as store:
        spec, _ = read_study(store, name)
    values: dict[str, object] = {"seeds": seeds or spec.confirm.seeds or DEFAULT_SEEDS}
    if rivals is not None:
        values["rivals"] = rivals
    if again:
        values["first_seed"] = spec.confirm.first_seed + spec.confirm.seeds
    spec = study_file.changed(spec, "confirm", values, f"study {name!r}")

    def start(store: Storage) -> bool:
        reconcile.confirm(store, spec)
        return False

    allowed = allowance(allow, allow_command)
    count = worker_count(spec, workers, device)
    serve(
        spec,
        start,
        LaunchedWorkers(count, device, allowed, detach, checkpoints, storage),
        go_on=["kdecay", "confirm", name, *allowed.options],
        json=json,
    )
