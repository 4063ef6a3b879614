"""``worker``: train trials on the devices of this machine."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import (
    Allow,
    AllowCommand,
    Checkpoints,
    Device,
    DevicesPerRun,
    Fuse,
    StorageUrl,
    allowance,
    checkpoint_folder,
    opened,
    refuse_fused_devices,
    worker_environment,
)
from kdecay_search.cli.output import SafeFormatter, echo

if TYPE_CHECKING:
    from kdecay_search.worker.local_workers import WorkerProcess
    from kdecay_search.worker.loop import Options

MAX_PER_DEVICE = 256
START_SECONDS = 20.0
"""How long a starting worker retries to connect to a database that may be restarting."""


def register(app: typer.Typer) -> None:
    app.command()(worker)


def worker(
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Train only this study. Default: all studies."),
    ] = None,
    device: Device = "auto",
    per_device: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Processes per device; auto adds processes as long as that raises the throughput.",
        ),
    ] = "1",
    devices_per_run: DevicesPerRun = 1,
    fuse: Fuse = 1,
    drain: Annotated[bool, typer.Option("--drain", help="Exit when no work is left.")] = False,
    allow: Allow = None,
    allow_command: AllowCommand = False,
    checkpoints: Checkpoints = None,
    storage: StorageUrl = None,
) -> None:
    """Train trials on this machine's devices.

    Claims trials from the queue, trains them and reports the results, until it is stopped. The
    first Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 makes it save a checkpoint of each run, put the trials
    back into the queue, and exit; the second kills it.
    """
    from kdecay_search.worker.devices import expand
    from kdecay_search.worker.loop import Options

    refuse_fused_devices(fuse, devices_per_run)
    is_auto = per_device == "auto"
    count = 1 if is_auto else _parse_per_device(per_device)
    devices = [name for name in expand(device, devices_per_run) for _ in range(count)]
    options = Options(study, drain, allowance(allow, allow_command))
    if len(devices) == 1 and not is_auto:
        _serve(options, devices[0], fuse, checkpoints, storage)
    else:
        _start_many(options, devices, fuse, is_auto, checkpoints, storage)


def _parse_per_device(text: str) -> int:
    from kdecay_search.errors import KDecayError

    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= MAX_PER_DEVICE:
        raise KDecayError(f"--per-device {text}: must be 1 to {MAX_PER_DEVICE}, or auto")
    return count


def _serve(
    options: Options, device: str, fuse: int, checkpoints: str | None, url: str | None
) -> None:
    import logging

    from kdecay_search.paths import temporary_folder
    from kdecay_search.storage.password import keep_password
    from kdecay_search.user_code.environment import keep_working_folder_off_path
    from kdecay_search.worker.loop import Worker
    from kdecay_search.worker.signals import drain_on_signal
    from kdecay_search.worker.train import WorkerContext

    logging.basicConfig()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(SafeFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("kdecay_search").setLevel(logging.INFO)
    log = logging.getLogger("kdecay_search.worker")
    temporary_folder()
    keep_working_folder_off_path()
    stop = threading.Event()
    drain_on_signal(stop)
    context = WorkerContext(device, checkpoint_folder(checkpoints), stop, fuse)
    with opened(url, START_SECONDS, fuse) as storage:
        keep_password(storage)
        server = Worker(storage, options, context)
        at_once = f", up to {fuse} runs at once" if fuse > 1 else ""
        log.info("worker %s serves %s%s", server.name, options.study or "all studies", at_once)
        server.serve()
        log.info("worker %s ends after %d trials", server.name, server.trials)


def _start_many(
    options: Options,
    devices: list[str],
    fuse: int,
    is_auto: bool,
    checkpoints: str | None,
    url: str | None,
) -> None:
    """Start one process per entry of ``devices``; add more while that pays, if ``is_auto``."""
    from kdecay_search.worker.autoscaling import autoscale
    from kdecay_search.worker.devices import worker_options
    from kdecay_search.worker.local_workers import LocalWorkers
    from kdecay_search.worker.signals import drain_on_signal

    stop = threading.Event()
    drain_on_signal(stop)
    workers = LocalWorkers()
    environment = worker_environment(url, checkpoints)

    def start(device: str) -> WorkerProcess:
        arguments = [*worker_options(device, fuse), *options.allowance.options]
        arguments += ["--study", options.study] if options.study else []
        arguments += ["--drain"] if options.drain else []
        return workers.start(arguments, environment, log=None)

    if is_auto:
        with opened(url, START_SECONDS) as storage:
            notify = partial(echo, err=True)
            autoscale(storage, workers, devices, start, stop, notify, study=options.study)
    else:
        for device in devices:
            start(device)
    while not workers.wait(0.5):
        if stop.is_set():
            workers.drain(seconds=None)
    if workers.failure() is not None:
        raise typer.Exit(2)
