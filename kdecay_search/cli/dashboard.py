"""``dashboard``, ``publish``: studies in Optuna's dashboard."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import StorageUrl, opened

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
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any that is free.")
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; by default only this machine's own."
        ),
    ] = LOOPBACK,
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
    """Show all studies in a browser, by Optuna's dashboard.

    While it serves, it publishes a note and figures for each study that changes. It has no
    authentication, and its pages can delete studies: anybody who reaches the port can do so. Ctrl-C
    ends it; studies run on without it.
    """
    from kdecay_search.report.dashboard.artifacts import artifact_store
    from kdecay_search.report.dashboard.server import Server

    store = artifact_store(artifacts) if artifacts else None
    with opened(storage) as connected:
        server = Server(connected, host, port, store)
        stop = _stop_on_signal()
        typer.echo(f"Optuna's dashboard: {server.url}   (Ctrl-C ends it)", err=True)
        if not server.is_loopback:
            typer.echo(
                f"it has no authentication: anybody who reaches {host} can see and delete studies",
                err=True,
            )
        from kdecay_search.report.dashboard.publisher import Publisher

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
        str | None, typer.Argument(metavar="[NAME]", help="Left out: all studies.")
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Publish notes and figures of studies now, for a plain optuna-dashboard.

    Optuna's own command shows only trials by itself; this adds, once, a note and figures for each
    stage, as they are now. `kdecay dashboard` does so by itself while it serves. What has not
    changed is not written again, and a note that you have edited is kept.
    """
    import time

    from kdecay_search.errors import StorageUnavailable
    from kdecay_search.report.dashboard.publication import Outcome
    from kdecay_search.report.dashboard.publication import publish as publish_study
    from kdecay_search.storage.records import study_names

    with opened(storage) as store:
        for each in [name] if name else study_names(store):
            end = time.monotonic() + BUSY_SECONDS
            while (outcome := publish_study(store, each)) == Outcome.BUSY:
                if time.monotonic() > end:
                    raise StorageUnavailable(
                        f"study {each!r}: another process has been publishing it for "
                        f"{BUSY_SECONDS:g} s; try again later"
                    )
                time.sleep(RETRY_SECONDS)
            typer.echo(f"{each}: {outcome}", err=True)
