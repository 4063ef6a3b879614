"""The tables of a search of whole schedules for a terminal."""

from __future__ import annotations

from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from kdecay_search.report import metrics, names, whole
from kdecay_search.report.reference import Reference
from kdecay_search.search import Stage
from kdecay_search.snapshot import StudySnapshot


def table(stage: Stage, snapshot: StudySnapshot) -> Group:
    """The best candidates of a stage, with the parameters that differ."""
    form, ranked = snapshot.plan.format, whole.by_rank(stage)
    shown, columns = ranked[: whole.MOST_ROWS], whole.columns(ranked)
    after = f" after {Reference.of(stage, snapshot).name}" if stage.earlier_ks else ""
    title = Text.assemble(
        (f"stage {stage.n}: {whole.title(stage)}{after}", "bold"),
        "  ",
        (names.stage_outcome(stage), "dim"),
    )
    drawn = Table(box=None)
    for column in columns:
        justify: JustifyMethod = "left" if column.key == "family" else "right"
        drawn.add_column(Text(column.heading), justify=justify)
    mean = metrics.with_unit(f"mean {metrics.word(form.metric)}", form.metric)
    for heading in ("runs", mean, "P(best)"):
        drawn.add_column(Text(heading), justify="right")
    drawn.add_column("")
    for candidate in shown:
        assert candidate.point is not None
        is_best = stage.best is not None and candidate.index == stage.best.index
        notes = ["best"] * is_best + names.outcomes(candidate, early="pruned")
        error = candidate.error.mean
        drawn.add_row(
            *(Text(column.of(candidate.point)) for column in columns),
            str(len(candidate.errors) or ""),
            "" if error is None else form.number(error),
            names.best_chance(candidate),
            Text("  ".join(notes), "" if is_best else "dim"),
            style="bold" if is_best else "",
        )
    rest = len(ranked) - len(shown)
    others = [Text(f"and {names.counted(rest, 'other candidate')}", "dim")] if rest else []
    return Group(title, drawn, *others)


def tuned_table(stage: Stage, snapshot: StudySnapshot) -> Group:
    """The usual schedules that a stage has tuned, and what the best one found gains on each."""
    form = snapshot.plan.format
    drawn = Table(box=None)
    for heading in whole.tuned_headings(form):
        is_text = heading in ("schedule", "its best")
        drawn.add_column(Text(heading), justify="left" if is_text else "right")
    for row in whole.tuned_rows(stage, form):
        drawn.add_row(*map(Text, row))
    return Group(Text("usual schedules, equally tuned", "bold"), drawn)
