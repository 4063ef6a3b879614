"""``dashboard``, ``publish``: studies in Optuna's dashboard."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import StorageUrl, opened
from kdecay_search.cli.output import echo

if TYPE_CHECKING:
    from types import FrameType

LOOPBACK = "127.0.0.1"
FIRST_LOOK_SECONDS = 10.0
"""How long the first page waits, at most, for what is to be published."""
BUSY_SECONDS = 60.0
"""How long ``publish`` waits for another process that publishes the same study."""
RETRY_SECONDS = 0.3


def register(app: typer.Typer) -> None:
    app.command()(dashboard)
    app.command()(publish)


def dashboard(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. The default is open to this machine only.",
        ),
    ] = LOOPBACK,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Answer to this host name or address, too; repeatable. Default: localhost and "
            "the address to listen on.",
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            "--artifacts",
            envvar="KDECAY_ARTIFACTS",
            metavar="DIR",
            help="Keep the schedules that finished studies found in this folder, for download.",
        ),
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Serve Optuna's dashboard of all studies.

    While it runs, it publishes notes and figures of studies that change. It has no authentication,
    and everybody who can reach the port can delete studies. Ctrl-C ends it; studies keep running
    without it.
    """
    from kdecay_search.report.dashboard.artifacts import artifact_store
    from kdecay_search.report.dashboard.publisher import Publisher
    from kdecay_search.report.dashboard.server import Server

    store = artifact_store(artifacts) if artifacts else None
    with opened(storage) as connected:
        server = Server(connected, host, port, store, allow_host or [])
        stop = _stop_on_signal()
        echo(f"Optuna's dashboard: {server.url}   (Ctrl-C ends it)", err=True)
        if not server.is_loopback:
            echo(
                f"it has no authentication: anybody who reaches {host} can see and delete studies",
                err=True,
            )
            names = ", ".join(server.names)
            echo(f"it answers to the names {names}; --allow-host NAME adds one", err=True)
        publisher = Publisher(connected, store)
        publisher.look(stop, FIRST_LOOK_SECONDS)
        with server:
            publisher.run(stop)


def _stop_on_signal() -> threading.Event:
    """Return an event that is set by every signal that drains a worker."""
    from kdecay_search.worker.signals import handled_signals

    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in handled_signals():
        signal.signal(number, end)
    return stop


def publish(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The study's name. Default: all studies.")
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Publish notes and figures of studies.

    Adds a note and figures for each stage, as it is now, to what a plain optuna-dashboard shows;
    kdecay dashboard does that by itself while it runs. Unchanged pages are not written again, and
    notes that you have edited are kept.
    """
    import time

    from kdecay_search.errors import InvalidSpec, StorageUnavailable, StudyError
    from kdecay_search.report.dashboard.publication import Outcome
    from kdecay_search.report.dashboard.publication import publish as publish_study
    from kdecay_search.storage.records import study_names

    with opened(storage) as store:
        unreadable = []
        for each in [name] if name else study_names(store):
            end = time.monotonic() + BUSY_SECONDS
            try:
                while (outcome := publish_study(store, each)) == Outcome.BUSY:
                    if time.monotonic() > end:
                        raise StorageUnavailable(
                            f"study {each!r}: another process has been publishing it for "
                            f"{BUSY_SECONDS:g} s; try again later"
                        )
                    time.sleep(RETRY_SECONDS)
            except (StudyError, InvalidSpec) as error:
                if name:
                    raise
                unreadable.append(each)
                echo(f"{each}: {error}", err=True)
            else:
                echo(f"{each}: {outcome}", err=True)
        if unreadable:
            raise typer.Exit(1)
