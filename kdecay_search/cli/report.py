"""``report``, ``plot``: a study as HTML."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdecay_search.cli.inspect import newest
from kdecay_search.cli.options import StorageUrl, opened


class FigureName(StrEnum):
    """What ``plot`` draws."""

    SCHEDULE = "schedule"
    ERROR = "error-vs-k"
    CURVES = "curves"
    LOSS = "loss"
    EPOCHS = "epochs"


NewestOr = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Left out: the newest study.")
]


def register(app: typer.Typer) -> None:
    app.command()(report)
    app.command()(plot)


def report(
    name: NewestOr = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write report.html into.")
    ] = Path(),
    storage: StorageUrl = None,
) -> None:
    """Write a study's report: one HTML file that needs no network.

    What was found and whether it is real, the schedules and curves, what it cost, and how to
    repeat it. At any time while the study runs, too.
    """
    from datetime import UTC, datetime

    from kdecay_search.report.page import study_report, write

    with opened(storage) as store:
        page = study_report(store, name or newest(store), datetime.now(UTC))
    path = out / "report.html"
    write(path, page)
    typer.echo(path)


def plot(
    name: NewestOr = None,
    figure: Annotated[FigureName, typer.Option(help="What to draw.")] = FigureName.ERROR,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="Left out: NAME-FIGURE.html, here."),
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Write one of the report's figures, for every stage, as an HTML file of its own."""
    from kdecay_search.report.page import figure_page, figures_of, write
    from kdecay_search.snapshot import read_snapshot

    with opened(storage) as store:
        snapshot = read_snapshot(store, name or newest(store))
        shown = figures_of(figure.value, store, snapshot)
    path = out or Path(f"{snapshot.spec.name}-{figure.value}.html")
    write(path, figure_page(f"{snapshot.spec.name}: {figure.value}", shown))
    typer.echo(path)
