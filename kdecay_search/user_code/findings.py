"""What a short run showed: what works, what is missing, and what would make a search worthless."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from kdecay_search.user_code.tryout import Tryout

SHARE_LIMIT = 1.0
"""Percent; errors that are all below it look like shares of one."""
RISE_LIMIT = 20.0
"""Percentage points; an error that rises by more in a short run looks like an accuracy."""


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
    found = [*_of_reports(tryout), *_of_errors(tryout)]
    if tryout.run is not None:
        found += [*_of_schedule(tryout), *_of_state(tryout), *_of_reads(tryout)]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def _of_reports(tryout: Tryout) -> Iterator[Finding]:
    done, total = tryout.epochs[-1].number, tryout.spec.task.length.reports
    if done < total:
        yield Finding(
            Severity.WRONG if tryout.result is None else Severity.MISSING,
            f"{done} of {total} epochs were reported; train run.epochs epochs, and report each",
        )
    else:
        yield Finding(Severity.GOOD, f"{done} of {total} epochs were reported")


def _of_errors(tryout: Tryout) -> Iterator[Finding]:
    errors = [epoch.validation_error for epoch in tryout.epochs]
    if tryout.epochs[-1].diverged:
        yield Finding(
            Severity.WRONG, "the training diverged: lower schedule.lr_max, or check the loss"
        )
    elif len(errors) > 1 and min(errors) == max(errors):
        yield Finding(Severity.MISSING, f"the error never changed: {errors[0]:g} % in every epoch")
    elif max(errors) < SHARE_LIMIT:
        yield Finding(
            Severity.MISSING,
            f"no error is above {max(errors):g} %: report percent, such as 12.5, and not 0.125",
        )
    elif errors[-1] > errors[0] + RISE_LIMIT:
        yield Finding(
            Severity.MISSING,
            f"the error rose from {errors[0]:.4g} to {errors[-1]:.4g} %: is it an accuracy? "
            "error = 100 - accuracy",
        )
    if any(epoch.averaged_error is None for epoch in tryout.epochs):
        how = "evaluate with run.average(model)" if tryout.run else "print averaged_error, too"
        yield Finding(
            Severity.MISSING,
            f"no error of averaged weights was reported, so no run can end early; {how}",
        )
    else:
        yield Finding(
            Severity.GOOD, "errors of averaged weights were reported: hopeless runs can end early"
        )


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
            + "; set run.steps_per_epoch to the number of optimizer updates per epoch",
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
        yield Finding(Severity.GOOD, "interrupted after an epoch, it resumed with the next one")
    elif tryout.restored == 0:
        yield Finding(
            Severity.MISSING,
            "interrupted after its first epoch, it started over; call run.save after every report",
        )
    elif not tryout.looked_for_state and tryout.spec.task.length.reports > 1:
        yield Finding(
            Severity.MISSING,
            "no state is saved, so an interrupted run starts over; "
            "call run.keep(model, optimizer, …)",
        )


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
            "run.purpose was not used: when it is 'confirmation', kdecay confirm needs the error "
            "on the test set",
        )
    if not calls["device"]:
        yield Finding(
            Severity.MISSING, "run.device was not used: it is 'cpu', or 'cuda' for the worker's GPU"
        )
