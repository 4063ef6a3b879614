"""What a stage is and what came of it, as a note in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdecay_search.report import confirmed, names
from kdecay_search.report.names import terms
from kdecay_search.report.summary import by_point
from kdecay_search.report.text import verdict
from kdecay_search.search import CandidateResult, Stage
from kdecay_search.search.confirmation import Confirmation
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.trials import CONFIRMATION

MOST_ROWS = 20
WRITTEN = "*Written by kdecay while the study goes on. If you edit this note, it stays as it is.*"


def stage_note(snapshot: StudySnapshot, stage: Stage, stage_ids: Mapping[int, int]) -> str:
    """The note of one stage. ``stage_ids``: Optuna's study id of each, for the links."""
    name, level = snapshot.spec.name, " and the level of the LR" if stage.levels else ""
    parts = [
        f"### Stage {stage.n} of `{name}`: the term k{stage.n}{level}",
        f"**{_state(snapshot, stage)}** {_purpose(snapshot, stage)}",
        "\n".join(_table(stage)),
        f"**The study {_so_far(snapshot)}:** {verdict(snapshot)}",
        names.tuning(snapshot),
        "\n".join(f"- {line}" for line in _next_steps(snapshot)),
        _links(stage.n, stage_ids),
        WRITTEN,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def confirmation_note(
    snapshot: StudySnapshot, confirmation: Confirmation, stage_ids: Mapping[int, int]
) -> str:
    """The note of the confirmation."""
    seeds = confirmation.seeds
    parts = [
        f"### Confirmation of `{snapshot.spec.name}`",
        f"**{confirmed.sentence(confirmation)}**",
        f"Each trial trains the network once, by one of the schedules on one of the fresh seeds "
        f"{seeds.start} to {seeds.stop - 1}, on all training images. Values are errors on the "
        f"test set, which nothing else reads.",
        "\n".join(_confirmation_table(confirmation)),
        confirmed.detectable(confirmation),
        _links(CONFIRMATION, stage_ids),
        WRITTEN,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _confirmation_table(confirmation: Confirmation) -> Iterable[str]:
    yield f"| {' | '.join(confirmed.HEADINGS)} |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for row in confirmation.rows:
        yield f"| {' | '.join(confirmed.cells(row, confirmation))} |"


def _state(snapshot: StudySnapshot, stage: Stage) -> str:
    if stage.progress == "running":
        return "Stopped." if snapshot.state == "stopped" else "Running."
    if stage.best is None or stage.best.k is None:
        return "Failed: no run came to its end."
    if not stage.kept:
        return "Done: no term is kept."
    edge = ", the largest that was tried" if stage.at_edge else ""
    level = names.level(stage.best.lr_max) if stage.levels else ""
    return f"Done: k{stage.n} = {stage.best.k:.4g}{level} is kept{edge}."


def _purpose(snapshot: StudySnapshot, stage: Stage) -> str:
    seeds = snapshot.spec.search.seeds
    level = ", one lr_max" if stage.levels else ""
    tried = (
        f"Each trial trains the network once, with one k{stage.n}{level} and one of {seeds} seeds."
    )
    if stage.n == 1:
        return f"{tried} k = 1 is the original schedule, {snapshot.spec.schedule.family}."
    found = terms(stage.earlier_ks, stage.lr_max)
    return f"The schedule found so far, {found}, gets a further term. {tried}"


def _so_far(snapshot: StudySnapshot) -> str:
    return {"running": "so far", "done": "is done", "stopped": "is stopped"}.get(
        snapshot.state, "has failed"
    )


def _table(stage: Stage) -> Iterable[str]:
    known = sorted((c for c in stage.candidates if c.k is not None), key=by_point)
    shown = sorted(sorted(known, key=_rank)[:MOST_ROWS], key=by_point)
    level, line = ("lr_max | ", "---: | ") if stage.levels else ("", "")
    yield f"| k{stage.n} | {level}mean error, % | seeds | chance to be the best | |"
    yield f"| ---: | {line}---: | ---: | ---: | --- |"
    for candidate in shown:
        yield _row(candidate, stage)
    if len(shown) < len(known):
        yield f"\nThe best {len(shown)} of {len(known)} candidates."


def _rank(candidate: CandidateResult) -> tuple[bool, float]:
    mean = candidate.error.mean
    return mean is None, mean or 0.0


def _row(candidate: CandidateResult, stage: Stage) -> str:
    mean, chance = candidate.error.mean, candidate.probability
    best = stage.best is not None and stage.best.index == candidate.index
    notes = ["**best**"] * best + names.outcomes(candidate)
    cells = (
        f"{candidate.k:.4g}",
        *([f"{candidate.lr_max:.4g}"] if stage.levels else []),
        "" if mean is None else f"{mean:.2f}",
        str(len(candidate.errors) or ""),
        "" if chance is None else f"{chance:.0%}",
        ", ".join(notes),
    )
    return f"| {' | '.join(cells)} |"


def _next_steps(snapshot: StudySnapshot) -> Iterable[str]:
    name = snapshot.spec.name
    if snapshot.state == "running":
        yield f"`kdecay status {name} --watch` shows it live in a terminal"
    elif snapshot.state == "stopped":
        yield "`kdecay launch` with its study file goes on with it"
    elif snapshot.state == "failed":
        yield f"`kdecay status {name}` tells how its runs failed"
    if snapshot.plan.leader.errors:
        yield f"`kdecay best {name} --as python` prints the schedule as source"
        yield f"`kdecay report {name}` writes a page with all figures"


def _links(own: int, stage_ids: Mapping[int, int]) -> str:
    others = [
        f"[{'confirmation' if n == CONFIRMATION else f'k{n}'}](/dashboard/studies/{study_id})"
        for n, study_id in stage_ids.items()
        if n != own
    ]
    return f"Other stages: {', '.join(others)}" if others else ""
