"""What a stage is and what came of it, as a note in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdecay_search.report import confirmed, metrics, names, whole
from kdecay_search.report.reference import Reference
from kdecay_search.report.summary import by_point
from kdecay_search.search import CandidateResult, Stage
from kdecay_search.search.confirmation import Confirmation
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import level_name
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.trials import CONFIRMATION

MOST_ROWS = 20
"""Most candidates that a note lists: the best."""
STATES = {"running": "is running", "done": "is done", "stopped": "is stopped"}
"""What a study's state is called in a sentence; another state is a failure."""
WRITTEN = (
    "*Written by `kdecay dashboard` or `kdecay publish`. If you edit this note, your text is kept.*"
)


def stage_note(snapshot: StudySnapshot, stage: Stage, stage_ids: Mapping[int, int]) -> str:
    """The note of a stage.

    Args:
        snapshot: The study.
        stage: The stage.
        stage_ids: Optuna's study id of every stage, for links.
    """
    name, level = (
        snapshot.spec.name,
        " and the level of the LR" if _has_levels(snapshot, stage) else "",
    )
    state, form = STATES.get(snapshot.state, "has failed"), snapshot.plan.format
    what = (
        "whole schedules" if snapshot.is_joint and stage.n == 1 else f"the term k{stage.n}{level}"
    )
    table = _whole_table(stage, form) if snapshot.is_joint else _table(stage, form)
    parts = [
        f"### Stage {stage.n} of `{name}`: {what}",
        f"**{_state(snapshot, stage)}** {_purpose(snapshot, stage)}",
        "\n".join(table),
        *(_whole_notes(snapshot, stage) if snapshot.is_joint else ()),
        stage.why_best(form.metric) or "",
        names.divergence(stage),
        names.FORECAST * any(map(names.is_forecast, stage.candidates)),
        f"**The study {state}.** {snapshot.verdict.sentence}",
        names.tuning(snapshot),
        "\n".join(f"- {line}" for line in _next_steps(snapshot)),
        _links(stage.n, stage_ids),
        WRITTEN,
    ]
    return _joined(parts)


def confirmation_note(
    snapshot: StudySnapshot, confirmation: Confirmation, stage_ids: Mapping[int, int]
) -> str:
    """The note of a confirmation.

    Args:
        snapshot: The study.
        confirmation: The study's confirmation.
        stage_ids: Optuna's study id of every stage, for links.
    """
    seeds, verdict, form = confirmation.seeds, snapshot.confirmed, snapshot.plan.format
    measured = "errors" if metrics.word(form.metric) == "error" else "measured"
    data = names.training_data(snapshot.spec)
    parts = [
        f"### Confirmation of `{snapshot.spec.name}`",
        "" if verdict is None else f"**{verdict.sentence}**",
        f"Each trial trains the network once, by one of the schedules on one of the fresh seeds "
        f"{seeds.start} to {seeds.stop - 1}, on all training {data}. Values are {measured} on the "
        f"test set, which nothing else reads.",
        "\n".join(_confirmation_table(confirmation, form)),
        confirmed.detectable(confirmation, form),
        _links(CONFIRMATION, stage_ids),
        WRITTEN,
    ]
    return _joined(parts)


def _joined(parts: Iterable[str]) -> str:
    """The parts of a note with nothing that a browser takes for HTML: a user names the metric."""
    return "\n\n".join(part.replace("<", "&lt;") for part in parts if part) + "\n"


def _cell(text: str) -> str:
    """Text as it may stand in a cell of a table in Markdown."""
    return text.replace("|", "\\|")


def _confirmation_table(confirmation: Confirmation, form: MetricFormat) -> Iterable[str]:
    yield f"| {' | '.join(map(_cell, confirmed.headings(form.metric)))} |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for row in confirmation.rows:
        yield f"| {' | '.join(confirmed.cells(row, confirmation, form))} |"


def _state(snapshot: StudySnapshot, stage: Stage) -> str:
    if stage.progress == "running":
        return "Stopped." if snapshot.state == "stopped" else "Running."
    if stage.best is None or stage.best.point is None:
        return "Failed: no run was completed."
    if stage.best.whole is not None:
        return f"Done: {whole.outcome(stage)}."
    if not stage.kept:
        return "Done: no term is kept."
    edge = ", the largest that was tried" if stage.at_edge else ""
    level = level_name(stage.best.lr_max) if stage.levels else ""
    return f"Done: k{stage.n} = {stage.best.k:.4g}{level} is kept{edge}."


def _has_levels(snapshot: StudySnapshot, stage: Stage) -> bool:
    """Whether the stage searches a term and the level of the learning rate, and no more."""
    return bool(stage.levels) and not snapshot.is_joint


def _purpose(snapshot: StudySnapshot, stage: Stage) -> str:
    seeds = snapshot.spec.search.seeds
    level = ", one lr_max" if _has_levels(snapshot, stage) else ""
    if snapshot.is_joint and stage.n == 1:
        return (
            "Each trial trains the network once, with one whole schedule: its family, shape, "
            f"level, floor and warm-up. Of the budget, {names.budget(snapshot)} are spent. Tuned "
            f"within it: {whole.baseline_names(snapshot.spec)}."
        )
    tried = (
        f"Each trial trains the network once, with one k{stage.n}{level} and one of {seeds} seeds."
    )
    if stage.n == 1:
        return f"{tried} k = 1 is the original schedule, {snapshot.spec.schedule.family}."
    found = Reference.of(stage, snapshot).name
    return f"The schedule found so far, {found}, gets a further term. {tried}"


def _table(stage: Stage, form: MetricFormat) -> Iterable[str]:
    known = [candidate for candidate in stage.candidates if candidate.k is not None]
    by_error = sorted(known, key=lambda c: (c.error.mean is None, c.error.mean, *by_point(c)))
    shown = sorted(by_error[:MOST_ROWS], key=by_point)
    level, line = ("lr_max | ", "---: | ") if stage.levels else ("", "")
    mean = _cell(metrics.with_unit(f"mean {metrics.word(form.metric)}", form.metric))
    yield f"| k{stage.n} | {level}{mean} | seeds | P(best) | |"
    yield f"| ---: | {line}---: | ---: | ---: | --- |"
    for candidate in shown:
        yield _row(candidate, stage, form)
    if len(shown) < len(known):
        yield f"\nThe best {len(shown)} of {len(known)} candidates."


def _whole_table(stage: Stage, form: MetricFormat) -> Iterable[str]:
    ranked = whole.by_rank(stage)
    columns, shown = whole.columns(ranked), ranked[:MOST_ROWS]
    mean = _cell(metrics.with_unit(f"mean {metrics.word(form.metric)}", form.metric))
    headings = [*(column.heading for column in columns), mean, "runs", "P(best)", ""]
    yield f"| {' | '.join(headings)} |"
    yield f"|{' ---: |' * (len(headings) - 1)} --- |"
    for candidate in shown:
        assert candidate.point is not None
        error, best = candidate.error.mean, stage.best
        is_best = best is not None and best.index == candidate.index
        cells = (
            *(column.of(candidate.point) for column in columns),
            "" if error is None else form.number(error),
            str(len(candidate.errors) or ""),
            names.best_chance(candidate),
            ", ".join(["**best**"] * is_best + names.outcomes(candidate)),
        )
        yield f"| {' | '.join(cells)} |"
    if len(shown) < len(ranked):
        yield f"\nThe best {len(shown)} of {len(ranked)} candidates."


def _whole_notes(snapshot: StudySnapshot, stage: Stage) -> Iterable[str]:
    """What a search of whole schedules says besides: usual schedules, edges, further terms."""
    form = snapshot.plan.format
    if stage.baselines:
        headings = [_cell(heading) for heading in whole.tuned_headings(form)]
        lines = [f"| {' | '.join(headings)} |", "| --- | --- | ---: | ---: | ---: |"]
        lines += [f"| {' | '.join(row)} |" for row in whole.tuned_rows(stage, form)]
        yield "Usual schedules, equally tuned:"
        yield "\n".join(lines)
    yield from whole.edges(stage, snapshot.spec)
    if stage.n == len(snapshot.plan.stages):
        yield whole.no_further_term(snapshot)


def _row(candidate: CandidateResult, stage: Stage, form: MetricFormat) -> str:
    mean = candidate.error.mean
    best = stage.best is not None and stage.best.index == candidate.index
    notes = ["**best**"] * best + names.outcomes(candidate)
    cells = (
        f"{candidate.k:.4g}",
        *([f"{candidate.lr_max:.4g}"] if stage.levels else []),
        "" if mean is None else form.number(mean),
        str(len(candidate.errors) or ""),
        names.best_chance(candidate),
        ", ".join(notes),
    )
    return f"| {' | '.join(cells)} |"


def _next_steps(snapshot: StudySnapshot) -> Iterable[str]:
    name = snapshot.spec.name
    if snapshot.state == "running":
        yield f"`kdecay status {name} --watch` shows it live in a terminal"
    elif snapshot.state == "stopped":
        yield "`kdecay launch` with its study file resumes it"
    elif snapshot.state == "failed":
        yield f"`kdecay status {name} --errors` shows why its runs failed"
    if snapshot.plan.leader.errors:
        yield f"`kdecay best {name} --as python` prints the schedule as source"
        yield f"`kdecay report {name}` writes a page with all figures"


def _links(stage: int, stage_ids: Mapping[int, int]) -> str:
    others = [
        f"[{'confirmation' if n == CONFIRMATION else f'k{n}'}](/dashboard/studies/{study_id})"
        for n, study_id in stage_ids.items()
        if n != stage
    ]
    return f"Other stages: {', '.join(others)}" if others else ""
