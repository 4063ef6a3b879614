"""``dashboard``: Optuna's dashboard on the storage."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from kdecay_search.cli.options import StorageUrl, opened

if TYPE_CHECKING:
    from types import FrameType

LOOPBACK = "127.0.0.1"


def register(app: typer.Typer) -> None:
    app.command()(dashboard)


def dashboard(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes one that is free.")
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Listen on this address, not only to this machine itself."
        ),
    ] = LOOPBACK,
    artifacts: Annotated[
        str | None,
        typer.Option(
            "--artifacts",
            envvar="KDECAY_ARTIFACTS",
            metavar="DIR",
            help="Keep the schedules that finished studies found here, to be downloaded.",
        ),
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Show all studies in a browser, by Optuna's dashboard.

    It has no authentication, and its pages can delete studies: whoever reaches the port can. Ctrl-C
    ends it; studies go on without it.
    """
    from kdecay_search.report.dashboard.artifacts import artifact_store, keep_winners
    from kdecay_search.report.dashboard.server import Server

    store = artifact_store(artifacts) if artifacts else None
    with opened(storage) as connected:
        server = Server(connected, host, port, store)
        stop = _stop_on_signal()
        typer.echo(f"Optuna's dashboard: {server.url}   (Ctrl-C ends it)", err=True)
        if not server.is_loopback:
            typer.echo(
                f"it has no authentication: whoever reaches {host} can see and delete studies",
                err=True,
            )
        with server:
            if store is None:
                stop.wait()
            else:
                keep_winners(connected, store, stop)


def _stop_on_signal() -> threading.Event:
    """An event that Ctrl-C, SIGTERM and the terminal's end set."""
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return stop
