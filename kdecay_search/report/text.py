"""A study as tables for a terminal (rich)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kdecay_search.report import confirmed, metrics, names, whole, whole_schedules
from kdecay_search.report.blocks import curve
from kdecay_search.report.cost import duration
from kdecay_search.report.names import counted, run_name, stage_outcome
from kdecay_search.report.reference import Reference
from kdecay_search.report.summary import by_point
from kdecay_search.search import CandidateResult, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import Sample
from kdecay_search.study.candidate import candidate_name, schedule_name
from kdecay_search.study.metric import VALIDATION_ERROR, Metric, MetricFormat
from kdecay_search.study.trials import State, Trial

RUNNING_SHOWN = 8
"""Most running, and most paused trials that a table lists."""
PAUSED_MEANS = "other runs are worth more now"


def study_panel(snapshot: StudySnapshot, seconds_left: float | None = None) -> RenderableType:
    """Everything about a study: its state, stages, running trials, verdict and best schedule.

    Args:
        snapshot: The study.
        seconds_left: How long the present stage may still take, if that is known.
    """
    parts: list[RenderableType] = [_heading(snapshot, seconds_left)]
    for stage in snapshot.plan.stages:
        draw = whole_schedules.table if snapshot.is_joint else _stage_table
        parts.append(Padding(draw(stage, snapshot), (1, 0, 0, 0)))
        parts += [Text(note, style="dim") for note in _notes(stage, snapshot)]
        if stage.baselines:
            parts.append(Padding(whole_schedules.tuned_table(stage, snapshot), (1, 0, 0, 0)))
    for state in (State.RUNNING, State.PAUSED):
        shown = [trial for trial in snapshot.trials if trial.state == state]
        if shown:
            parts.append(Padding(_trials_table(snapshot, state, shown), (1, 0, 0, 0)))
    if repeated := names.repetition(snapshot):
        parts.append(Text(f"\n{repeated}", style="yellow"))
    failed = _failures(snapshot)
    if failed is not None:
        parts.append(Padding(failed, (1, 0, 0, 0)))
    parts.append(Text(f"\n{snapshot.verdict.sentence}", style="bold"))
    if tuning := names.tuning(snapshot):
        parts.append(Text(tuning))
    confirmation = snapshot.plan.confirmation
    if confirmation is not None and confirmation.rows:
        rows = confirmed.table(confirmation, snapshot.plan.format)
        parts.append(Padding(rows, (1, 0, 0, 0)))
    if snapshot.confirmed is not None:
        parts.append(Text(f"\n{snapshot.confirmed.sentence}", style="bold"))
    schedule = snapshot.schedule
    parts.append(
        Text.assemble(
            (f"{_family(snapshot)}, LR {schedule.lr_max:.4g} to {schedule.lr_min:.4g}  ", "dim"),
            (curve(schedule), "cyan"),
        )
    )
    return Group(*parts)


def _family(snapshot: StudySnapshot) -> str:
    point = snapshot.plan.leader.point
    return snapshot.spec.schedule.family if point is None else point.family or ""


def _heading(snapshot: StudySnapshot, seconds_left: float | None) -> Text:
    counts = ", ".join(f"{count} {name}" for name, count in names.trial_counts(snapshot))
    styles = {"running": "bold blue", "done": "bold green", "failed": "bold red"}
    heading = Text.assemble(
        (snapshot.spec.name, "bold"),
        "  ",
        (snapshot.state, styles.get(snapshot.state, "bold yellow")),
    )
    heading.append(f"  trials: {counts or 'none'}  ")
    done, planned = snapshot.epochs_trained, snapshot.epochs_planned
    heading.append(f"{snapshot.spec.task.length.unit}s: {done:,} of {planned:,} planned")
    if snapshot.is_joint:
        heading.append(f"  budget: {names.budget(snapshot)}")
    if seconds_left is not None and snapshot.state == "running":
        heading.append(f"  about {duration(seconds_left)} left in this stage")
    if (
        snapshot.state == "running"
        and snapshot.count(State.WAITING)
        and not snapshot.count(State.RUNNING)
    ):
        heading.append("  no worker is training it", style="yellow")
    return heading


def _stage_table(stage: Stage, snapshot: StudySnapshot) -> Table:
    reference, form = Reference.of(stage, snapshot), snapshot.plan.format
    what = f"k{stage.n} and lr_max" if stage.levels else f"term k{stage.n}"
    after = f" after {reference.name}" if stage.earlier_ks else ""
    table = Table(
        title=f"stage {stage.n}: {what}{after}  [dim]{stage_outcome(stage)}[/]",
        title_justify="left",
        title_style="bold",
        box=None,
    )
    table.add_column("k", justify="right")
    if stage.levels:
        table.add_column("lr_max", justify="right")
    table.add_column(Text(metrics.by_seed(form.metric)))
    table.add_column("mean", justify="right")
    table.add_column(f"gain on {reference.name}", justify="right")
    table.add_column("P(best)", justify="right")
    table.add_column("")
    errors = names.errors_by_seed(stage, form, names.diverged_seeds(snapshot, stage))
    for candidate in sorted(stage.candidates, key=by_point):
        if candidate.k is not None:
            row = _candidate_row(candidate, stage, reference, errors[candidate.index], form)
            table.add_row(*row)
    unknown = sum(candidate.k is None for candidate in stage.candidates)
    if unknown:
        level = [""] if stage.levels else []
        table.add_row("…", *level, f"{unknown} still to be chosen by the sampler", style="dim")
    return table


def _notes(stage: Stage, snapshot: StudySnapshot) -> list[str]:
    """What a reader may wonder at in the table of a stage, in sentences."""
    metric = snapshot.spec.task.metric
    has_forecast = any(names.is_forecast(candidate) for candidate in stage.candidates)
    notes = [stage.why_best(metric) or "", names.divergence(stage), names.FORECAST * has_forecast]
    if snapshot.is_joint:
        is_last = stage.n == len(snapshot.plan.stages)
        notes += whole.edges(stage, snapshot.spec)
        notes.append(whole.no_further_term(snapshot) if is_last else "")
    return [note for note in notes if note]


def _candidate_row(
    candidate: CandidateResult,
    stage: Stage,
    reference: Reference,
    errors: str,
    form: MetricFormat,
) -> tuple[Text, ...]:
    is_best = stage.best is not None and candidate.index == stage.best.index
    style = "bold" if is_best else ""
    mean = candidate.error.mean
    notes = ["best"] * is_best + names.outcomes(candidate, early="pruned")
    return (
        Text(f"{candidate.k:.4g}", style),
        *([Text(f"{candidate.lr_max:.4g}", style)] if stage.levels else []),
        Text(errors, style),
        Text("" if mean is None else form.number(mean), style),
        Text(reference.gain(candidate, form), style),
        Text(names.best_chance(candidate), style),
        Text("  ".join(notes), style or "dim"),
    )


def _trials_table(snapshot: StudySnapshot, state: State, trials: Sequence[Trial]) -> Table:
    """The running or the paused trials, with how far each has come."""
    title = f"{state}: {PAUSED_MEANS}" if state == State.PAUSED else str(state)
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    level, form = ["lr_max"] if snapshot.spec.search.lr_max else [], snapshot.plan.format
    name = "schedule" if snapshot.is_joint else "k"
    length = snapshot.spec.task.length
    averaged = metrics.with_unit(f"averaged {metrics.word(form.metric)}", form.metric)
    for heading in (name, *level, "seed", length.unit, averaged, "worker"):
        is_text = heading in ("worker", "schedule")
        table.add_column(Text(heading), justify="left" if is_text else "right")
    for trial in trials[:RUNNING_SHOWN]:
        chosen = "…" if trial.lr_max is None else f"{trial.lr_max:.4g}"
        table.add_row(
            Text(trial.request.comparator or _tried(trial)),
            *([chosen] if level else []),
            str(trial.key.seed),
            f"{length.position(trial.epochs)}/{length.total}",
            "" if trial.averaged_error is None else form.number(trial.averaged_error),
            Text(trial.worker or ""),
        )
    if len(trials) > RUNNING_SHOWN:
        empty = [""] * (len(table.columns) - 1)
        table.add_row(*empty, f"and {len(trials) - RUNNING_SHOWN} more")
    return table


def _tried(trial: Trial) -> str:
    """What a trial tries: its exponent or, in a search of whole schedules, all of it."""
    if trial.request.point is not None:
        return candidate_name(trial.request.point, trial.request.earlier_ks)
    return "…" if trial.k is None else f"{trial.k:.4g}"


def _failures(snapshot: StudySnapshot) -> Text | None:
    failed = [trial for trial in snapshot.attempts if trial.state == State.FAILED]
    if not failed:
        return None
    newest = _ended(failed[-1], snapshot)
    lines = [f"{counted(len(failed), 'failed trial')}; the last: {newest}"]
    for place in snapshot.failing_places:
        last = place.failures[-1]
        lines.append(
            f"every run fails on {place.name}: {len(place.failures)} attempts in succession, "
            f"the last with {last.reason}: {last.message or 'no message'}"
        )
    if snapshot.given_up and snapshot.state != "running":
        runs = counted(len(snapshot.given_up), "run")
        others = "; the result rests on the other runs" if snapshot.plan.leader.errors else ""
        lines.append(f"{runs} given up after repeated failures{others}")
    lines.append(f"why each failed: kdecay status {snapshot.spec.name} --errors")
    return Text("\n".join(lines), style="red")


def studies_table(overviews: Iterable[Mapping[str, Any]]) -> Table:
    """A table of studies, one row each.

    Args:
        overviews: What :func:`kdecay_search.snapshot.overview` says of each; of a study that
            cannot be read only ``study`` and ``state``.
    """
    studies = list(overviews)
    shown_as = [_format_of(each) for each in studies if "trials" in each]
    is_shared = len({(form.metric.name, form.metric.unit) for form in shown_as}) <= 1
    metric = shown_as[0].metric if shown_as else VALIDATION_ERROR
    table = Table(box=None)
    for heading in ("study", "state"):
        table.add_column(heading)
    table.add_column("best schedule", justify="right")
    if not is_shared:
        table.add_column("metric")
    for heading in (metrics.word(metric) if is_shared else "value", "k = 1"):
        text = metrics.with_unit(heading, metric) if is_shared else heading
        table.add_column(Text(text), justify="right")
    table.add_column("trials")
    for each in studies:
        row: list[str | Text] = [str(each["study"]), str(each["state"])]
        if "trials" in each:
            form, baseline, best = _format_of(each), each["baseline"], each["schedule"]
            level = best["lr_max"] if "lr_max" in baseline else None
            found = best.get("name") or schedule_name(best["ks"], level)
            row.append(Text(found if each["error"]["n"] else ""))
            row += [] if is_shared else [Text(form.metric.name)]
            samples = [_sample(shown, form.metric) for shown in (each["error"], baseline)]
            row += [Text(form.mean(one) if is_shared else form.sample(one)) for one in samples]
            counts = (f"{count} {state}" for state, count in each["trials"].items() if count)
            row.append(", ".join(counts))
        table.add_row(*row)
    return table


def _format_of(overview: Mapping[str, Any]) -> MetricFormat:
    """How the values of an overview are shown."""
    shown = overview.get("metric")
    if shown is None:  # noted before studies had metrics of their own
        return MetricFormat.of(VALIDATION_ERROR, None)
    metric = Metric.model_validate(shown)
    return MetricFormat(metric, shown["decimals"])


def _sample(shown: Mapping[str, Any], metric: Metric) -> Sample:
    mean = None if shown["mean"] is None else metric.error(shown["mean"])
    return Sample(mean, shown["sd"], shown["n"])


def news(before: StudySnapshot | None, now: StudySnapshot) -> list[str]:
    """Plain lines for logs and pipes, one for each trial that has ended or is paused, and for each
    stage that has ended.

    Args:
        before: The study when it was last looked at; None for everything so far.
        now: The study.
    """
    known = {(t.trial_id, t.state) for t in before.trials if not t.open} if before else set()
    ended = [t for t in now.attempts if not t.open and (t.trial_id, t.state) not in known]
    shown = [trial for trial in ended if trial.epochs or trial.state != State.PRUNED]
    lines = [_ended(trial, now) for trial in shown]
    done = {s.n for s in before.plan.stages if s.progress != "running"} if before else set()
    for stage in now.plan.stages:
        if stage.progress != "running" and stage.n not in done:
            lines.append(f"stage {stage.n} is over: {stage_outcome(stage)}")
    return lines


def _ended(trial: Trial, snapshot: StudySnapshot) -> str:
    form, length = snapshot.plan.format, snapshot.spec.task.length
    outcome = {
        State.COMPLETE: "" if trial.error is None else form.value(trial.error),
        State.PAUSED: f"paused after {length.count(length.position(trial.epochs))}",
        State.PRUNED: f"pruned after {length.count(length.position(trial.epochs))}",
        State.FAILED: f"failed, {trial.reason}: {trial.message or 'no message'}",
    }[trial.state]
    return f"{run_name(trial)}  {outcome}"
