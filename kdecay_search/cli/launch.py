"""``launch``: start or resume a study, and watch it to its end."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import (
    AsJson,
    Checkpoints,
    Device,
    DevicesPerRun,
    Fuse,
    Overrides,
    StorageUrl,
    StudyFile,
    checkpoint_folder,
    opened,
    refuse_fused_devices,
    repeated_devices,
    worker_environment,
)
from kdecay_search.cli.output import echo, print_json, print_result, progress_console

if TYPE_CHECKING:
    from kdecay_search.snapshot import StudySnapshot
    from kdecay_search.storage import Storage
    from kdecay_search.study.spec import StudySpec
    from kdecay_search.user_code.allowance import Allowance
    from kdecay_search.worker.local_workers import LocalWorkers


def register(app: typer.Typer) -> None:
    app.command()(launch)


WorkerCount = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=1024,
        help="Local workers to start. Default: as many as this machine can keep busy.",
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Return at once and leave the local workers running.")
]


def launch(
    file: StudyFile,
    workers: WorkerCount = None,
    device: Device = "auto",
    devices_per_run: DevicesPerRun = 1,
    fuse: Fuse = 1,
    set_: Overrides = None,
    detach: Detach = False,
    json: AsJson = False,
    checkpoints: Checkpoints = None,
    storage: StorageUrl = None,
) -> None:
    """Run a study to its best schedule.

    An existing study is resumed. Ctrl-C stops the local workers; the same command resumes the study
    later, each run from where it was interrupted.
    """
    from kdecay_search import reconcile
    from kdecay_search.study.file import load
    from kdecay_search.user_code.allowance import Allowance
    from kdecay_search.worker.devices import expand

    refuse_fused_devices(fuse, devices_per_run)
    spec = load(file, set_ or [])
    repeated = [part for override in set_ or [] for part in ("--set", override)]
    repeated += repeated_devices(device, devices_per_run, fuse)
    devices = expand(device, devices_per_run)
    count = worker_count(spec, workers, devices)
    run_study(
        spec,
        lambda store: reconcile.launch(store, spec),
        LaunchOptions(count, devices, Allowance.of(spec), detach, checkpoints, storage, fuse),
        resume_command=["kdecay", "launch", file, *repeated],
        json=json,
    )


@dataclass(frozen=True)
class LaunchOptions:
    """Where a launch finds the storage, and how it starts its local workers."""

    workers: int
    """The number of local workers."""
    devices: Sequence[str]
    """The devices of each local worker; further ones begin again with the first."""
    allowance: Allowance
    """The training code that the local workers may run."""
    detach: bool
    """Whether the local workers keep running after the launch has returned."""
    checkpoints: str | None
    """The folder for checkpoints; None stands for the default."""
    storage: str | None
    """The URL of the database; None stands for the embedded one."""
    fuse: int = 1
    """How many runs each local worker trains at once."""


def run_study(
    spec: StudySpec,
    start: Callable[[Storage], bool],
    options: LaunchOptions,
    resume_command: list[str],
    json: bool,
) -> None:
    """Start a study with its local workers, watch it to its end, and print the result.

    Args:
        spec: The study.
        start: Writes the study to the storage; returns whether it is new.
        options: The local workers.
        resume_command: The command that resumes the study, shown after an interruption.
        json: Whether to print the result as JSON.
    """
    from kdecay_search import reconcile
    from kdecay_search.cli.files import require_data
    from kdecay_search.paths import temporary_folder
    from kdecay_search.snapshot import read_snapshot
    from kdecay_search.worker.fused import require_fusible

    require_fusible(spec, options.fuse)
    if options.workers:
        temporary_folder()
        options.allowance.require(spec)
        require_data(spec)
        checkpoint_folder(options.checkpoints)
    with opened(options.storage) as store, _signals_as_interrupt() as interrupted:
        is_new = start(store)
        snapshot = reconcile.reconcile(store, spec.name) or read_snapshot(store, spec.name)
        _announce(snapshot, is_new, options.workers)
        if snapshot.state == "running":
            snapshot = _run(store, snapshot, options, shlex.join(resume_command), interrupted)
        _conclude(snapshot, json, options.detach)


def worker_count(spec: StudySpec, asked: int | None, devices: Sequence[str]) -> int:
    """Return how many local workers to start.

    By default a built-in task gets one worker per GPU (or group of GPUs), or as many as the cores
    can keep busy, and none if torch is missing. Training code of the user's own, whose needs are
    not known, gets one per device.

    Args:
        spec: The study.
        asked: The value of ``--workers``; None stands for the default.
        devices: The devices of each worker that ``--device`` asks for.

    Raises:
        MissingPackage: Workers are asked for, and torch is missing.
    """
    import importlib.util

    from kdecay_search.errors import MissingPackage
    from kdecay_search.tasks.device_names import CPU, devices_of
    from kdecay_search.worker.devices import usable_cores

    if spec.task.kind == "simulated":
        return usable_cores() if asked is None else asked
    if spec.task.kind != "images":
        return len(devices) if asked is None else asked
    if asked != 0 and importlib.util.find_spec("torch") is None:
        if asked is not None:
            raise MissingPackage(
                "--workers: torch is not installed here; pip install 'kdecay-search[worker]', "
                "or use --workers 0 to leave the training to other machines"
            )
        echo(
            "torch is not installed here: no local workers; run kdecay worker elsewhere",
            err=True,
        )
        return 0
    if asked is not None:
        return asked
    processes = devices_of(devices[0])
    if processes[0] == CPU:
        return max(1, usable_cores() // (max(1, spec.task.threads) * len(processes)))
    return len(devices)


@contextlib.contextmanager
def _signals_as_interrupt() -> Iterator[threading.Event]:
    """Let every signal that drains a worker interrupt this process as Ctrl-C does.

    The signal also sets the event that is returned, since Python drops a KeyboardInterrupt that is
    raised in a finalizer.
    """
    from kdecay_search.worker.signals import handled_signals

    interrupted = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in handled_signals()}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(snapshot: StudySnapshot, is_new: bool, workers: int) -> None:
    what = "new study" if is_new else f"study ({snapshot.state})"
    noun = "worker" if workers == 1 else "workers"
    local = f", {workers} local {noun}" if snapshot.state == "running" else ""
    search = snapshot.spec.search
    budget = f", {search.budget} runs to search whole schedules" if snapshot.is_joint else ""
    echo(f"{what} {snapshot.spec.name}{local}{budget if is_new else ''}", err=True)


def _run(
    store: Storage,
    snapshot: StudySnapshot,
    options: LaunchOptions,
    resume_command: str,
    interrupted: threading.Event,
) -> StudySnapshot:
    """Start the local workers and, unless detached, watch the study to its end."""
    from kdecay_search.snapshot import read_snapshot
    from kdecay_search.worker.local_workers import start_workers
    from kdecay_search.worker.signals import drain_signal

    name = snapshot.spec.name
    workers = start_workers(
        snapshot.spec,
        options.workers,
        options.devices,
        options.allowance,
        worker_environment(options.storage, options.checkpoints),
        options.detach,
        options.fuse,
    )
    if options.detach:
        return snapshot
    grace = snapshot.spec.workers.grace_seconds
    try:
        final = _watch(store, name, workers, interrupted)
    except KeyboardInterrupt:
        echo(
            f"\nstopping the local workers; their trials go back into the queue. "
            f"Resume by: {resume_command}",
            err=True,
        )
        workers.drain(grace)
        raise
    except BaseException:
        workers.signal(drain_signal())
        raise
    workers.wait(grace)
    return read_snapshot(store, name) if final.state == "running" else final


def _watch(
    store: Storage, name: str, workers: LocalWorkers, interrupted: threading.Event
) -> StudySnapshot:
    """Reconcile and show the study until it ends; return its last snapshot.

    Raises:
        KeyboardInterrupt: A signal was received.
        KDecayError: All local workers have ended, and the study still needs some.
    """
    from kdecay_search import reconcile
    from kdecay_search.cli.watch import watch_study
    from kdecay_search.snapshot import read_snapshot
    from kdecay_search.storage import queue

    def read() -> StudySnapshot:
        return reconcile.reconcile(store, name) or read_snapshot(store, name)

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        workers.restart_killed(partial(queue.reap_process, store, name))
        if workers.processes and not workers.running and read().state == "running":
            raise workers.none_left()

    return watch_study(read, progress_console(), check)


def _conclude(snapshot: StudySnapshot, json: bool, detach: bool) -> None:
    """Print the result, and what to do next; exit with code 1 if the study has failed."""
    from kdecay_search.report.summary import summarise
    from kdecay_search.report.text import study_panel

    name = snapshot.spec.name
    if json:
        print_json(summarise(snapshot))
    elif detach and snapshot.state == "running":
        echo(
            f"{name} is running. See it: kdecay status {name} --watch; stop it: kdecay stop {name}"
        )
    else:
        print_result(study_panel(snapshot))
        if snapshot.plan.leader.errors:
            use = f"kdecay best {name} --as python    or --as pytorch, huggingface, …"
            echo(f"\nUse it:  {use}")
            echo(f"See it:  kdecay status {name}")
    if snapshot.state == "failed":
        raise typer.Exit(1)
