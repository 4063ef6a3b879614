"""``report`` and ``plot``: write a study as HTML."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdecay_search.cli.inspect import newest_study
from kdecay_search.cli.options import StorageUrl, opened
from kdecay_search.cli.output import echo


class FigureName(StrEnum):
    """The figures that ``plot`` can draw."""

    SCHEDULE = "schedule"
    ERROR = "error-vs-k"
    CURVES = "curves"
    LOSS = "loss"
    EPOCHS = "epochs"
    PLANE = "plane"


NewestOr = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The study's name. Default: the newest one.")
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
    """Write the report of a study as one HTML file.

    The report shows what was found and whether it is significant, the schedules and the curves,
    what they cost, and how to reproduce them. It works offline, and also for a study that is still
    running.
    """
    from datetime import UTC, datetime

    from kdecay_search.report.page import study_report, write

    with opened(storage) as store:
        page = study_report(store, name or newest_study(store), datetime.now(UTC))
    path = out / "report.html"
    write(path, page)
    echo(path)


def plot(
    name: NewestOr = None,
    figure: Annotated[FigureName, typer.Option(help="The figure to draw.")] = FigureName.ERROR,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.html", help="The file to write. Default: NAME-FIGURE.html."
        ),
    ] = None,
    storage: StorageUrl = None,
) -> None:
    """Write one figure of the report as HTML.

    The file shows that figure for every stage of the study, and works offline.
    """
    from kdecay_search.report.page import figure_page, figures_of, write
    from kdecay_search.snapshot import read_snapshot

    with opened(storage) as store:
        snapshot = read_snapshot(store, name or newest_study(store))
        shown = figures_of(figure.value, store, snapshot)
    path = out or Path(f"{snapshot.spec.name}-{figure.value}.html")
    write(path, figure_page(f"{snapshot.spec.name}: {figure.value}", shown))
    echo(path)
