"""What a short run showed: what works, what is missing, and what would make a search worthless."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from kdecay_search.study.metric import VALIDATION_ERROR
from kdecay_search.study.report_source import CHECKPOINT_DIR
from kdecay_search.study.user_tasks import CommandTask
from kdecay_search.user_code.reports import AVERAGED
from kdecay_search.user_code.tryout import Tryout

SHARE_LIMIT = 1.0
"""Percent; values that are all below it look like shares of one."""
LAG_LIMIT = 0.1
"""Share of the range of a run's values; averaged weights that end up worse by more lag behind."""


class Severity(StrEnum):
    """How much a finding matters."""

    GOOD = "good"
    """The task does what a search needs."""
    MISSING = "missing"
    """A search works, but the task lacks something that would improve it."""
    WRONG = "wrong"
    """A search would be worthless."""


@dataclass(frozen=True)
class Finding:
    """One thing that a short run showed about a task."""

    severity: Severity
    """How much the finding matters for a search."""
    text: str
    """What was found and what to do about it, in one line."""


def findings(tryout: Tryout) -> list[Finding]:
    """Return what a task that ran to its end showed; what matters most comes last."""
    found = [*_of_reports(tryout), *_of_metric(tryout), *_of_averages(tryout), *_of_seed(tryout)]
    if tryout.run is not None:
        found += [*_of_schedule(tryout), *_of_state(tryout), *_of_reads(tryout)]
    found += _of_program_state(tryout)
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def _of_reports(tryout: Tryout) -> Iterator[Finding]:
    length = tryout.spec.task.length
    done = length.position(tryout.epochs[-1].number)
    text = f"{done:,} of {length.total:,} {length.unit}s were reported"
    if done < length.total:
        what = "train run.epochs epochs, and report each"
        if length.counts_steps:
            what = "make run.total_steps updates, and report at the end"
        yield Finding(
            Severity.WRONG if tryout.result is None else Severity.MISSING, f"{text}; {what}"
        )
    else:
        yield Finding(Severity.GOOD, text)


def _of_metric(tryout: Tryout) -> Iterator[Finding]:
    """What the metric was taken to be, and whether its values look as if it were that."""
    metric, form = tryout.spec.task.metric, tryout.form
    if tryout.epochs[-1].diverged:
        yield Finding(
            Severity.WRONG, "the training diverged: lower schedule.lr_max, or check the loss"
        )
        return
    unit = f", in {metric.unit}" if metric.unit else ""
    taken = f"the metric is {metric.name}, where {metric.better} is better{unit}"
    errors = [metric.error(epoch.validation_error) for epoch in tryout.epochs]
    values = [metric.value(error) for error in errors]
    first, last = form.value(errors[0]), form.value(errors[-1])
    if metric.unit == "%" and 0 <= min(values) <= max(values) < SHARE_LIMIT:
        yield Finding(
            Severity.MISSING,
            f"no value is above {max(values):g} %: report percent, such as 12.5 and not 0.125, or "
            "state another unit under [task.metric]",
        )
    if len(errors) > 1 and min(errors) == max(errors):
        yield Finding(Severity.MISSING, f"{taken}; but it never changed: {first} in every report")
    elif errors[-1] > errors[0]:
        moved, other = ("rose", "max") if metric.direction == "min" else ("fell", "min")
        opposite = "higher" if metric.better == "lower" else "lower"
        yield Finding(
            Severity.MISSING,
            f"{taken}; but it {moved} from {first} to {last}: if {opposite} is better, "
            f'set direction = "{other}" under [task.metric], or the search keeps the worst',
        )
    elif len(errors) > 1:
        yield Finding(Severity.GOOD, f"{taken}; it went from {first} to {last}")
    else:
        yield Finding(Severity.GOOD, f"{taken}; it is {last}")


def _of_averages(tryout: Tryout) -> Iterator[Finding]:
    metric, form = tryout.spec.task.metric, tryout.form
    if any(epoch.averaged_error is None for epoch in tryout.epochs):
        key = AVERAGED if metric != VALIDATION_ERROR else "averaged_error"
        how = "evaluate with run.average(model)" if tryout.run else f"print {key}, too"
        task = tryout.spec.task
        if isinstance(task, CommandTask) and task.report is not None:
            part = "add a group (?P<averaged>…) to" if task.report.pattern else "name its column in"
            how = f"if the program has one, {part} [task.report]"
        yield Finding(
            Severity.MISSING,
            f"no {metric.name} of averaged weights was reported, so no run can be paused or end "
            f"early; {how}",
        )
        return
    raw = [metric.error(epoch.validation_error) for epoch in tryout.epochs]
    averaged = [metric.error(epoch.averaged_error or 0.0) for epoch in tryout.epochs]
    behind = averaged[-1] - raw[-1]
    is_behind = all(one > other for one, other in zip(averaged, raw, strict=True))
    if is_behind and behind > LAG_LIMIT * (max(raw) - min(raw)):
        yield Finding(
            Severity.MISSING,
            f"averaged weights were worse in every report ({form.value(averaged[-1])} at the end, "
            f"and {form.value(raw[-1])} without averaging): update the average after every "
            "optimizer update, with a half-life near 8 % of the run",
        )
    else:
        yield Finding(
            Severity.GOOD,
            "values of averaged weights were reported: hopeless runs can end early",
        )


def _of_seed(tryout: Tryout) -> Iterator[Finding]:
    if tryout.seed_matters is False:
        how = "call run.seed_everything()" if tryout.run else "pass {seed} to the program"
        yield Finding(
            Severity.MISSING,
            f"another seed changes nothing, so more seeds say nothing about the noise; {how}, and "
            "draw initial weights and data order from it",
        )
    elif tryout.seed_matters:
        yield Finding(Severity.GOOD, "another seed gives other values")


def _of_schedule(tryout: Tryout) -> Iterator[Finding]:
    run, calls, rates = tryout.run, tryout.calls, tryout.rates
    assert run is not None
    if not any(calls[name] for name in ("schedule", "drive", "scheduler")):
        yield Finding(
            Severity.WRONG,
            "the schedule was never used, so every k trains alike; call run.drive(optimizer)",
        )
        return
    if not rates.used:
        return
    wrong = rates.first_mismatch(run.schedule, base_is_stated=calls["base_lr"] > 0)
    if wrong is not None:
        number, rate = wrong.update, run.schedule(wrong.update)
        group = f" in parameter group {wrong.group}" if len(rates.used[number]) > 1 else ""
        times = (
            "" if wrong.expected == rate else f" and the group's ratio gives {wrong.expected:.6g}"
        )
        yield Finding(
            Severity.WRONG,
            f"update {number} used the LR {wrong.used:.6g}{group}, but run.schedule({number}) is "
            f"{rate:.6g}{times}: something else sets the LR, or nothing does",
        )
        return
    made, expected = len(rates.used), run.total_steps
    if made != expected:
        yield Finding(
            Severity.MISSING,
            f"{made} updates were made, but run.total_steps is {expected}: the schedule "
            + ("is cut off" if made < expected else "ends too early")
            + (
                f"; make as many, or set {run.length.key} to their number"
                if run.length.counts_steps
                else "; set run.steps_per_epoch to the number of optimizer updates per epoch"
            ),
        )
    else:
        yield Finding(
            Severity.GOOD, f"all {made} optimizer updates used the schedule's LR{_ratios(tryout)}"
        )


def _ratios(tryout: Tryout) -> str:
    """Return the ratios of the parameter groups; nothing if they all have the schedule's LR."""
    assert tryout.run is not None
    ratios = tryout.rates.group_ratios(tryout.run.schedule)
    shown = [f"{ratio:.4g}" if ratio else "0 (frozen)" for ratio in ratios]
    return "" if {*shown} <= {"1"} else f", times {', '.join(shown)} by parameter group"


def _of_state(tryout: Tryout) -> Iterator[Finding]:
    if tryout.restored:
        yield Finding(Severity.GOOD, "interrupted after a report, it resumed from there")
    elif tryout.restored == 0:
        yield Finding(
            Severity.MISSING,
            "interrupted after its first report, it started over; call run.save after every report",
        )
    elif not tryout.looked_for_state and len(tryout.epochs) > 1:
        yield Finding(
            Severity.MISSING,
            f"no state is saved, so {_cost_of_no_state(tryout)}; "
            "call run.keep(model, optimizer, …)",
        )


def _of_program_state(tryout: Tryout) -> Iterator[Finding]:
    task = tryout.spec.task
    if isinstance(task, CommandTask) and CHECKPOINT_DIR not in task.placeholders:
        yield Finding(
            Severity.MISSING,
            f"task.command has no {{checkpoint_dir}}, so {_cost_of_no_state(tryout)}; save the "
            "program's state there, and resume from it",
        )


def _cost_of_no_state(tryout: Tryout) -> str:
    """What it costs that the task keeps no state."""
    cost = "an interrupted run starts over"
    if tryout.spec.pruning.enabled:
        cost += ", and no run is ever paused: each that begins is trained to its end"
    return cost


def _of_reads(tryout: Tryout) -> Iterator[Finding]:
    calls = tryout.calls
    if not calls["seed"] and not calls["seed_everything"]:
        yield Finding(
            Severity.MISSING,
            "run.seed was not used: runs of one seed must start alike; call run.seed_everything()",
        )
    if not calls["purpose"]:
        yield Finding(
            Severity.MISSING,
            "run.purpose was not used: when it is 'confirmation', kdecay confirm needs the metric "
            "on the test set",
        )
    if not calls["device"]:
        yield Finding(
            Severity.MISSING, "run.device was not used: it is 'cpu', or 'cuda' for the worker's GPU"
        )
