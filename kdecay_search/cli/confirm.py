"""``confirm``: compare the found schedule on the test set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.launch import Detach, LaunchOptions, WorkerCount, run_study, worker_count
from kdecay_search.cli.options import (
    Allow,
    AllowCommand,
    AsJson,
    Checkpoints,
    Device,
    DevicesPerRun,
    Fuse,
    StorageUrl,
    StudyName,
    allowance,
    opened,
    refuse_fused_devices,
    repeated_devices,
)
from kdecay_search.errors import InvalidSpec

if TYPE_CHECKING:
    from kdecay_search.storage import Storage

DEFAULT_SEEDS = 10


def register(app: typer.Typer) -> None:
    app.command()(confirm)


def _refuse_old_name(given: list[str] | None) -> None:
    if given:
        raise InvalidSpec("--rival is now called --baseline")


def confirm(
    name: StudyName,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=1000,
            help=f"Fresh seeds. Default: the study file's, or {DEFAULT_SEEDS}.",
        ),
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline", metavar="SCHEDULE", help="Compare with this schedule as well; repeatable."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Repeat a finished comparison on other seeds.")
    ] = False,
    workers: WorkerCount = None,
    device: Device = "auto",
    devices_per_run: DevicesPerRun = 1,
    fuse: Fuse = 1,
    allow: Allow = None,
    allow_command: AllowCommand = False,
    detach: Detach = False,
    json: AsJson = False,
    checkpoints: Checkpoints = None,
    storage: StorageUrl = None,
    _old_name: Annotated[
        list[str] | None,
        typer.Option("--rival", hidden=True, callback=_refuse_old_name),  # now called --baseline
    ] = None,
) -> None:
    """Compare the found schedule on the test set.

    The found schedule and the original are trained again, on all training data, with seeds that
    the search has not used; so is the original at the learning rate that gives it the mean of the
    found schedule. A search that is still running ends with this comparison.
    """
    from kdecay_search import reconcile
    from kdecay_search.storage.records import read_study
    from kdecay_search.study import file as study_file
    from kdecay_search.worker.devices import expand

    refuse_fused_devices(fuse, devices_per_run)
    with opened(storage) as store:
        spec = read_study(store, name).spec
    values: dict[str, object] = {"seeds": seeds or spec.confirm.seeds or DEFAULT_SEEDS}
    if baselines is not None:
        values["baselines"] = baselines
    if again:
        values["first_seed"] = spec.confirm.first_seed + spec.confirm.seeds
    spec = study_file.changed(spec, "confirm", values, f"study {name!r}")

    def start(store: Storage) -> bool:
        reconcile.confirm(store, spec)
        return False

    allowed = allowance(allow, allow_command)
    devices = expand(device, devices_per_run)
    repeated = [*allowed.options, *repeated_devices(device, devices_per_run, fuse)]
    count = worker_count(spec, workers, devices)
    run_study(
        spec,
        start,
        LaunchOptions(count, devices, allowed, detach, checkpoints, storage, fuse),
        resume_command=["kdecay", "confirm", name, *repeated],
        json=json,
    )
