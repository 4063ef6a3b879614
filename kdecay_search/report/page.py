"""A study as one self-contained page of HTML: it needs no network and no other file."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kdecay_search.errors import KDecayError
from kdecay_search.report import contents, figures, names, stages
from kdecay_search.report.contents import Facts
from kdecay_search.report.cost import cost_of
from kdecay_search.report.curves import Curves, read_curves
from kdecay_search.report.reference import Reference
from kdecay_search.search import Stage
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage
from kdecay_search.storage.durations import read_durations

TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class _Figures:
    """The figures of a page, in the order in which they were placed."""

    shown: list[go.Figure] = field(default_factory=list)
    """The figures placed so far."""

    def place(self, figure: go.Figure) -> dict[str, Any]:
        """Add a figure; return the id and the height (pixels) of its place, for the template."""
        self.shown.append(figure)
        return {"id": f"figure-{len(self.shown)}", "height": figure.layout.height}

    def as_json(self) -> Markup:
        """The figures as JSON for a script element, with every ``<`` escaped."""
        texts = (figure.to_json().replace("<", "\\u003c") for figure in self.shown)
        return Markup("[" + ",\n".join(texts) + "]")


def study_report(storage: Storage, name: str, written: datetime) -> str:
    """The report of a study as the storage holds it now.

    Args:
        storage: Where the study is stored.
        name: The study's name.
        written: The present time, with its time zone.

    Raises:
        StudyError: There is no such study.
    """
    snapshot = read_snapshot(storage, name)
    facts = Facts(snapshot, read_durations(storage, name), written)
    return report_page(facts, read_curves(storage, snapshot))


def report_page(facts: Facts, curves: Curves) -> str:
    """The report as HTML; all text from the database is escaped."""
    snapshot, placed = facts.snapshot, _Figures()
    pace = cost_of(snapshot, facts.seconds).pace
    shown = [
        {
            "title": stages.title(stage),
            "outcome": stages.outcome(stage, snapshot),
            "n": stage.n,
            "error": placed.place(figures.error_by_k(snapshot, stage)),
            "rows": [] if snapshot.is_joint else stages.rows(stage, snapshot),
            "whole": stages.table_of_whole(stage, snapshot) if snapshot.is_joint else None,
            "tuned": stages.tuned(stage, snapshot),
            "plane": _plane(snapshot, stage, placed),
            "unknown": sum(candidate.point is None for candidate in stage.candidates),
            "why_best": stage.why_best(snapshot.spec.task.metric) or "",
            "diverged": any(candidate.diverged for candidate in stage.candidates),
            "forecast": names.FORECAST * any(map(names.is_forecast, stage.candidates)),
            "reference": Reference.of(stage, snapshot).name,
            "has_levels": bool(stage.levels),
            "validation": placed.place(figures.validation_error(snapshot, curves, stage)),
            "shown": stages.shown_runs(curves.of(stage), stage),
            "loss": placed.place(figures.training_loss(snapshot, curves, stage)),
            "epochs": placed.place(figures.epochs_by_k(snapshot, stage, pace)),
        }
        for stage in snapshot.plan.stages
    ]
    confirmation = snapshot.plan.confirmation
    return _render(
        "report.html",
        placed,
        differences=placed.place(figures.differences(snapshot)) if confirmation else None,
        schedule=placed.place(figures.schedules(snapshot)),
        stages=shown,
        **contents.of(facts),
    )


def _plane(snapshot: StudySnapshot, stage: Stage, placed: _Figures) -> dict[str, Any] | None:
    drawn = figures.plane(snapshot, stage) if snapshot.is_joint else None
    return None if drawn is None else placed.place(drawn)


def figures_of(name: str, storage: Storage, snapshot: StudySnapshot) -> list[go.Figure]:
    """The figures that ``kdecay plot`` draws under a name: one for the study or for each stage."""
    if name == "schedule":
        return [figures.schedules(snapshot)]
    if name == "plane":
        return planes_of(snapshot)
    if name in ("error-vs-k", "epochs"):
        draw = figures.error_by_k if name == "error-vs-k" else figures.epochs_by_k
        return [draw(snapshot, stage) for stage in snapshot.plan.stages]
    of = figures.validation_error if name == "curves" else figures.training_loss
    curves = read_curves(storage, snapshot)
    return [of(snapshot, curves, stage) for stage in snapshot.plan.stages]


def planes_of(snapshot: StudySnapshot) -> list[go.Figure]:
    """The searched plane of each stage that has one.

    Raises:
        KDecayError: The study has none.
    """
    drawn = (figures.plane(snapshot, stage) for stage in snapshot.plan.stages)
    shown = [each for each in drawn if each is not None] if snapshot.is_joint else []
    if not shown:
        raise KDecayError(
            f"study {snapshot.spec.name!r} has no searched plane: only a search of whole schedules "
            "that has a result does; see --figure error-vs-k"
        )
    return shown


def figure_page(title: str, shown: Sequence[go.Figure]) -> str:
    """A page with nothing but figures, one below the other."""
    placed = _Figures()
    return _render("figure.html", placed, title=title, places=[placed.place(f) for f in shown])


def _render(template: str, placed: _Figures, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tidy"] = tidy
    library = Markup(get_plotlyjs())
    return environment.get_template(template).render(
        figures=placed.as_json(), plotly=library, **values
    )


def tidy(text: str) -> str:
    """``text`` with proper minus signs and without line breaks inside ``k = 4`` and ``5 %``."""
    unbroken = text.replace("k = ", "k\u00a0=\u00a0").replace(" %", "\u00a0%")
    return re.sub(r"(?<!\w)-(?=\d)", "\u2212", unbroken)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, and create its folder if that is missing.

    Raises:
        KDecayError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp lets only the owner read it
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> KDecayError:
    return KDecayError(
        f"{path}: cannot be written: {error.strerror}; give another place with --out"
    )
