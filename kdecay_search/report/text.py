"""A study as tables for a terminal (rich)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kdecay_search.report import confirmed, names
from kdecay_search.report.blocks import curve
from kdecay_search.report.names import terms
from kdecay_search.report.summary import by_point, gain_on_baseline
from kdecay_search.search import CandidateResult, Plan, Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import Sample, describe, paired_gain
from kdecay_search.study.trials import State, Trial

RUNNING_SHOWN = 8


def percent(sample: Sample) -> str:
    """``3.21 ± 0.30 %`` (standard deviation over the seeds), or a dash."""
    if sample.mean is None:
        return "–"
    spread = "" if sample.sd is None else f" ± {sample.sd:.2f}"
    return f"{sample.mean:.2f}{spread} %"


def verdict(snapshot: StudySnapshot) -> str:
    """What was found, against k = 1, in one sentence with numbers."""
    plan = snapshot.plan
    if not plan.leader.errors:
        return "No run is complete yet."
    error = percent(describe(plan.leader.errors.values()))
    found = f"{terms(plan.leader.ks, plan.leader.lr_max)}: {error}"
    if plan.leader.ks == plan.baseline.ks:
        so_far = " so far" if snapshot.state == "running" else ""
        return f"No detectable difference{so_far}: nothing is better than the original, {found}."
    base = percent(describe(plan.baseline.errors.values()))
    gain = gain_on_baseline(snapshot)
    if gain.mean is None:
        return f"{found}; the original, k = 1, has no result to compare with."
    original = terms(plan.baseline.ks, plan.baseline.lr_max)
    return f"{found}; {original}: {base}. {_compared(gain, plan)}."


def _compared(gain: Sample, plan: Plan) -> str:
    """``gain``: of the leader on k = 1, paired by seed."""
    assert gain.mean is not None
    pairs = f"paired over {gain.n} seed{'s' if gain.n != 1 else ''}"
    few = f"{gain.mean:+.2f} points, {pairs}: too few to tell a gain from noise"
    if min(len(plan.leader.errors), len(plan.baseline.errors)) < 2:  # noqa: PLR2004
        return few
    smooth, interval = plan.stages[0].smooth_gain, gain.interval()
    sure = smooth is not None and smooth.is_sure
    if smooth is not None and len(plan.leader.ks) == 1:
        # The curve makes use of all runs, and knows how many candidates were tried.
        numbers = (
            f"{smooth.mean:.2f} points (95 % interval {_span(smooth.interval)}, by a smooth curve "
            f"through all runs; {pairs}: {gain.mean:.2f})"
        )
    elif interval is not None:
        sure = sure and interval[0] > 0
        numbers = f"{gain.mean:.2f} points (95 % interval {_span(interval)}, {pairs})"
    else:
        return few
    return f"Better by {numbers}" if sure else f"No detectable difference: better by {numbers}"


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def study_panel(snapshot: StudySnapshot, seconds_left: float | None = None) -> RenderableType:
    """Everything about a study: its state, stages, running trials and best schedule."""
    parts: list[RenderableType] = [_heading(snapshot, seconds_left)]
    parts += [
        Padding(_stage_table(stage, snapshot), (1, 0, 0, 0)) for stage in snapshot.plan.stages
    ]
    running = [trial for trial in snapshot.trials if trial.state == State.RUNNING]
    if running:
        parts.append(Padding(_running_table(snapshot, running), (1, 0, 0, 0)))
    failed = _failures(snapshot)
    if failed is not None:
        parts.append(Padding(failed, (1, 0, 0, 0)))
    schedule = snapshot.schedule
    parts.append(Text(f"\n{verdict(snapshot)}", style="bold"))
    if tuning := names.tuning(snapshot):
        parts.append(Text(tuning))
    confirmation = snapshot.plan.confirmation
    if confirmation is not None:
        if confirmation.rows:
            parts.append(Padding(confirmed.table(confirmation), (1, 0, 0, 0)))
        parts.append(Text(f"\n{confirmed.sentence(confirmation)}", style="bold"))
    parts.append(
        Text.assemble(
            (f"{schedule.family}, LR {schedule.lr_max:g} to {schedule.lr_min:g}  ", "dim"),
            (curve(schedule), "cyan"),
        )
    )
    return Group(*parts)


def _heading(snapshot: StudySnapshot, seconds_left: float | None) -> Text:
    counts = ", ".join(
        f"{snapshot.count(state)} {state}" for state in State if snapshot.count(state)
    )
    styles = {"running": "bold blue", "done": "bold green", "failed": "bold red"}
    heading = Text.assemble(
        (snapshot.spec.name, "bold"),
        "  ",
        (snapshot.state, styles.get(snapshot.state, "bold yellow")),
    )
    heading.append(f"  trials: {counts or 'none'}  ")
    heading.append(f"epochs: {snapshot.epochs_trained:,} of {snapshot.epochs_planned:,} planned")
    if seconds_left is not None and snapshot.state == "running":
        heading.append(f"  about {duration(seconds_left)} left in this stage")
    if (
        snapshot.state == "running"
        and snapshot.count(State.WAITING)
        and not snapshot.count(State.RUNNING)
    ):
        heading.append("  no worker is at work on it", style="yellow")
    return heading


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


def _stage_table(stage: Stage, snapshot: StudySnapshot) -> Table:
    earlier = f" after {terms(stage.earlier_ks, stage.lr_max)}" if stage.earlier_ks else ""
    what = f"k{stage.n} and lr_max" if stage.levels else f"term k{stage.n}"
    table = Table(
        title=f"stage {stage.n}: {what}{earlier}  [dim]{_outcome(stage)}[/]",
        title_justify="left",
        title_style="bold",
        box=None,
    )
    table.add_column("k", justify="right")
    if stage.levels:
        table.add_column("lr_max", justify="right")
    table.add_column("errors by seed, %")
    table.add_column("mean", justify="right")
    table.add_column(f"gain on {names.rival(stage, snapshot)}", justify="right")
    table.add_column("P(best)", justify="right")
    table.add_column("")
    rival_runs, errors = rival_errors(stage, snapshot), names.errors_by_seed(stage)
    for candidate in sorted(stage.candidates, key=by_point):
        if candidate.k is not None:
            table.add_row(*_candidate_row(candidate, stage, rival_runs, errors[candidate.index]))
    unknown = sum(candidate.k is None for candidate in stage.candidates)
    if unknown:
        level = [""] if stage.levels else []
        table.add_row("…", *level, f"{unknown} still to be chosen by the sampler", style="dim")
    return table


def rival_errors(stage: Stage, snapshot: StudySnapshot) -> Mapping[int, float]:
    """Errors of what the stage is compared with: the baseline, or what the last stage kept."""
    if stage.n == 1:
        return snapshot.plan.baseline.errors
    before = snapshot.plan.stages[stage.n - 2].best
    return before.errors if before else {}


def _outcome(stage: Stage) -> str:
    if stage.progress == "running":
        return "running"
    if stage.best is None or stage.best.k is None:
        return "no result"
    level = names.level(stage.best.lr_max) if stage.levels else ""
    kept = f"keeps k = {stage.best.k:.4g}{level}" if stage.kept else "keeps no term"
    edge = ", the largest that was tried" if stage.at_edge else ""
    return kept + (edge if stage.kept else "")


def _candidate_row(
    candidate: CandidateResult, stage: Stage, rival_errors: Mapping[int, float], errors: str
) -> tuple[Text, ...]:
    is_best = stage.best is not None and candidate.index == stage.best.index
    style = "bold" if is_best else ""
    gain = paired_gain(rival_errors, candidate.errors).mean
    mean = candidate.error.mean
    notes = ["best"] * is_best + names.outcomes(candidate, early="pruned")
    return (
        Text(f"{candidate.k:.4g}", style),
        *([Text(f"{candidate.lr_max:.4g}", style)] if stage.levels else []),
        Text(errors, style),
        Text("" if mean is None else f"{mean:.2f}", style),
        Text("" if gain is None or gain == 0 else f"{gain:+.2f}", style),
        Text("" if candidate.probability is None else f"{candidate.probability:.0%}", style),
        Text("  ".join(notes), style or "dim"),
    )


def _running_table(snapshot: StudySnapshot, running: list[Trial]) -> Table:
    table = Table(title="running", title_justify="left", title_style="bold", box=None)
    level = ["lr_max"] if snapshot.spec.search.lr_max else []
    for heading in ("k", *level, "seed", "epoch", "averaged error, %", "worker"):
        table.add_column(heading, justify="left" if heading == "worker" else "right")
    for trial in running[:RUNNING_SHOWN]:
        chosen = "…" if trial.lr_max is None else f"{trial.lr_max:.4g}"
        table.add_row(
            trial.request.comparator or ("…" if trial.k is None else f"{trial.k:.4g}"),
            *([chosen] if level else []),
            str(trial.key.seed),
            f"{trial.epochs}/{snapshot.spec.task.epochs}",
            "" if trial.averaged_error is None else f"{trial.averaged_error:.2f}",
            Text(trial.worker or ""),
        )
    if len(running) > RUNNING_SHOWN:
        empty = [""] * (len(table.columns) - 1)
        table.add_row(*empty, f"and {len(running) - RUNNING_SHOWN} more")
    return table


def _failures(snapshot: StudySnapshot) -> Text | None:
    failed = [trial for trial in snapshot.attempts if trial.state == State.FAILED]
    if not failed:
        return None
    lines = [f"{counted(len(failed), 'failed trial')}; the last: {_ended(failed[-1])}"]
    if snapshot.given_up and snapshot.state != "running":
        runs = counted(len(snapshot.given_up), "run")
        others = ": the result stands on the others" if snapshot.plan.leader.errors else ""
        lines.append(f"{runs} given up after so many failures{others}")
    lines.append(f"why each failed: kdecay status {snapshot.spec.name} --errors")
    return Text("\n".join(lines), style="red")


def counted(count: int, noun: str) -> str:
    """``1 run`` or ``3 runs``."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


def studies_table(snapshots: Iterable[StudySnapshot]) -> Table:
    """One row a study."""
    table = Table(box=None)
    for heading in ("study", "state", "best schedule", "error, %", "k = 1, %", "trials"):
        table.add_column(heading, justify="left" if heading in ("study", "state") else "right")
    for snapshot in snapshots:
        plan = snapshot.plan
        table.add_row(
            snapshot.spec.name,
            snapshot.state,
            terms(plan.leader.ks, plan.leader.lr_max) if plan.leader.errors else "",
            percent(describe(plan.leader.errors.values())).removesuffix(" %"),
            percent(describe(plan.baseline.errors.values())).removesuffix(" %"),
            str(len(snapshot.trials)),
        )
    return table


def news(before: StudySnapshot | None, now: StudySnapshot) -> list[str]:
    """Plain lines for what has happened since ``before``: for logs and pipes."""
    known = {t.trial_id for t in before.trials if not t.open} if before else set()
    ended = [t for t in now.attempts if not t.open and t.trial_id not in known]
    lines = [_ended(trial) for trial in ended if trial.epochs or trial.state != State.PRUNED]
    done = {s.n for s in before.plan.stages if s.progress != "running"} if before else set()
    for stage in now.plan.stages:
        if stage.progress != "running" and stage.n not in done:
            lines.append(f"stage {stage.n} is over: {_outcome(stage)}")
    return lines


def _ended(trial: Trial) -> str:
    outcome = {
        State.COMPLETE: f"{trial.error} %" if trial.error is None else f"{trial.error:.2f} %",
        State.PRUNED: f"pruned after {trial.epochs} epochs",
        State.FAILED: f"failed, {trial.reason}: {trial.message or 'no word'}",
    }[trial.state]
    return f"{run_name(trial)}  {outcome}"


def run_name(trial: Trial) -> str:
    """``stage 1  k = 2.5  seed 0``."""
    key = trial.key
    k = "?" if trial.k is None else f"{trial.k:.4g}{names.level(trial.lr_max)}"
    run = (
        f"confirm  {trial.request.comparator}"
        if trial.request.comparator
        else f"stage {key.stage}  k = {k}"
    )
    return f"{run}  seed {key.seed}"
