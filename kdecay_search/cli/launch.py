"""``launch``: start a study, or go on with it, and watch it to its end."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import (
    AsJson,
    Checkpoints,
    Device,
    Overrides,
    StorageUrl,
    StudyFile,
    checkpoint_folder,
    opened,
    print_json,
    stderr,
    stdout,
    worker_environment,
)

if TYPE_CHECKING:
    from kdecay_search.snapshot import StudySnapshot
    from kdecay_search.storage import Storage
    from kdecay_search.study.spec import StudySpec, Task
    from kdecay_search.user_code.allowance import Allowance
    from kdecay_search.worker.local_workers import LocalWorkers


def register(app: typer.Typer) -> None:
    app.command()(launch)


WorkerCount = Annotated[
    int | None,
    typer.Option(
        min=0, max=1024, help="Local workers to start. Left out: what this machine can feed."
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="Return at once; workers go on by themselves.")
]


def launch(
    file: StudyFile,
    workers: WorkerCount = None,
    device: Device = "auto",
    set_: Overrides = None,
    detach: Detach = False,
    json: AsJson = False,
    checkpoints: Checkpoints = None,
    storage: StorageUrl = None,
) -> None:
    """Run a study to its best schedule.

    A study that exists is gone on with. Ctrl-C stops the local workers cleanly; the same command
    goes on later, every run from where it stood.
    """
    from kdecay_search import reconcile
    from kdecay_search.study.file import load
    from kdecay_search.user_code.allowance import Allowance

    spec = load(file, set_ or [])
    overrides = [part for override in set_ or [] for part in ("--set", override)]
    serve(
        spec,
        lambda store: reconcile.launch(store, spec),
        LaunchedWorkers(
            worker_count(spec, workers, device),
            device,
            Allowance.of(spec),
            detach,
            checkpoints,
            storage,
        ),
        go_on=["kdecay", "launch", file, *overrides],
        json=json,
    )


@dataclass(frozen=True)
class LaunchedWorkers:
    """The local workers of a launch, and where they work."""

    count: int
    device: str
    allowance: Allowance
    detach: bool
    checkpoints: str | None
    storage: str | None


def serve(
    spec: StudySpec,
    start: Callable[[Storage], bool],
    launched: LaunchedWorkers,
    go_on: list[str],
    json: bool,
) -> None:
    """``start`` the study, which says whether it is new, and see it to its end.

    ``go_on``: the command that goes on with it after an interruption.
    """
    from kdecay_search import reconcile
    from kdecay_search.cli.files import require_data
    from kdecay_search.snapshot import read_snapshot

    if launched.count:
        launched.allowance.require(spec)
        require_data(spec)
        checkpoint_folder(launched.checkpoints)
    with opened(launched.storage) as store, _termination_as_interrupt() as asked:
        is_new = start(store)
        reconcile.reconcile(store, spec.name)
        snapshot = read_snapshot(store, spec.name)
        _announce(snapshot, is_new, launched.count)
        if snapshot.state == "running":
            snapshot = _run(store, snapshot, launched, shlex.join(go_on), asked)
        _conclude(snapshot, json, launched.detach)


def worker_count(spec: StudySpec, asked: int | None, device: str) -> int:
    """How many workers to start; zero, with a word, where torch is missing. Own code has one on
    each device: nobody knows what it needs."""
    import importlib.util

    from kdecay_search.errors import MissingPackage
    from kdecay_search.worker.devices import expand, usable_cores

    devices = expand(device)
    if spec.task.kind == "simulated":
        return usable_cores() if asked is None else asked
    if spec.task.kind != "images":
        return len(devices) if asked is None else asked
    if asked != 0 and importlib.util.find_spec("torch") is None:
        if asked is not None:
            raise MissingPackage(
                "--workers: torch is not installed here; pip install 'kdecay-search[worker]', "
                "or --workers 0 to leave the training to other machines"
            )
        typer.echo(
            "torch is not installed here: no local workers; run kdecay worker elsewhere", err=True
        )
        return 0
    if asked is not None:
        return asked
    if devices[0] == "cpu":
        return max(1, usable_cores() // max(1, spec.task.threads))
    return len(devices)


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[threading.Event]:
    """What ends a worker ends a launch as Ctrl-C does.

    The event tells of it, too: Python drops a KeyboardInterrupt that strikes in a finalizer.
    """
    from kdecay_search.worker.signals import DRAIN_SIGNALS

    asked = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in DRAIN_SIGNALS]
    try:
        yield asked
    finally:
        for number, handler in zip(DRAIN_SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _announce(snapshot: StudySnapshot, is_new: bool, workers: int) -> None:
    what = "new study" if is_new else f"study ({snapshot.state})"
    noun = "worker" if workers == 1 else "workers"
    there = f", {workers} local {noun}" if snapshot.state == "running" else ""
    typer.echo(f"{what} {snapshot.spec.name}{there}", err=True)


def _run(
    store: Storage,
    snapshot: StudySnapshot,
    launched: LaunchedWorkers,
    go_on: str,
    asked: threading.Event,
) -> StudySnapshot:
    """Start the workers and, unless detached, watch them to the end of the study."""
    from kdecay_search.snapshot import read_snapshot

    name = snapshot.spec.name
    workers = _start_workers(snapshot.spec, launched)
    if launched.detach:
        return snapshot
    patience = snapshot.spec.workers.grace_seconds
    try:
        final = _watch(store, name, workers, asked)
    except KeyboardInterrupt:
        typer.echo(
            f"\nstopping the local workers; their trials go back into the queue. "
            f"Go on with: {go_on}",
            err=True,
        )
        workers.drain(patience)
        raise
    except BaseException:
        workers.signal(signal.SIGTERM)
        raise
    workers.wait(patience)
    return read_snapshot(store, name) if final.state == "running" else final


def _start_workers(spec: StudySpec, launched: LaunchedWorkers) -> LocalWorkers:
    from kdecay_search.paths import home
    from kdecay_search.worker.devices import expand, usable_cores
    from kdecay_search.worker.local_workers import LocalWorkers

    environment = worker_environment(launched.storage, launched.checkpoints)
    if _shares_cores(spec.task, launched.count):
        threads = max(1, usable_cores() // max(1, launched.count))
        environment = environment | {"OMP_NUM_THREADS": str(threads)}
    devices = expand(launched.device)
    workers = LocalWorkers()
    for index in range(launched.count):
        arguments = ["--study", spec.name, "--drain", "--device", devices[index % len(devices)]]
        arguments += launched.allowance.options
        log = home() / "logs" / spec.name / f"worker-{index}.log"
        workers.start(arguments, environment, log, detached=launched.detach)
    return workers


def _shares_cores(task: Task, workers: int) -> bool:
    """Whether workers are told how many CPU threads to use: those of own code, which would all
    take every core, unless the user has told them."""
    if task.kind == "images":
        return task.threads == 0
    return task.kind != "simulated" and workers > 1 and "OMP_NUM_THREADS" not in os.environ


def _watch(
    store: Storage, name: str, workers: LocalWorkers, asked: threading.Event
) -> StudySnapshot:
    """Tick and look until the study no longer runs, or no local worker is left of some."""
    from kdecay_search import reconcile
    from kdecay_search.cli.watch import watch_study
    from kdecay_search.errors import KDecayError
    from kdecay_search.snapshot import read_snapshot
    from kdecay_search.storage import queue
    from kdecay_search.worker.loop import worker_name_prefix

    def look() -> StudySnapshot:
        return reconcile.reconcile(store, name) or read_snapshot(store, name)

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        for pid in workers.restart_killed():
            queue.reap_process(store, name, worker_name_prefix(pid))
        if workers.processes and not workers.running and look().state == "running":
            reason = workers.failure() or "they ended before the study did"
            raise KDecayError(
                f"no local worker is left: {reason} (log: {workers.processes[0].log})"
            )

    return watch_study(look, stderr(), check)


def _conclude(snapshot: StudySnapshot, json: bool, detach: bool) -> None:
    """Print the result, and what to do next; a failed study has exit code 1."""
    from kdecay_search.report.summary import summarise
    from kdecay_search.report.text import study_panel

    name = snapshot.spec.name
    if json:
        print_json(summarise(snapshot))
    elif detach and snapshot.state == "running":
        stdout().print(
            f"{name} goes on by itself. See it: kdecay status {name} --watch; "
            f"stop it: kdecay stop {name}"
        )
    else:
        if not stderr().is_terminal:
            stdout().print(study_panel(snapshot))
        if snapshot.plan.leader.errors:
            use = f"kdecay best {name} --as python    or --as pytorch, huggingface, …"
            typer.echo(f"\nUse it:  {use}")
            typer.echo(f"See it:  kdecay status {name}")
    if snapshot.state == "failed":
        raise typer.Exit(1)
