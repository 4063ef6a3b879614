"""What a short run showed: what is there, what is missing, what would spoil a search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from kdecay_search.user_code.tryout import Tried

CHANCE = 1.0
"""Errors that are all below so many percent look like shares of one."""
WORSE = 20.0
"""Points by which an error may rise in a short run before it looks like an accuracy."""


class Level(StrEnum):
    """How much a finding matters."""

    GOOD = "good"
    MISSING = "missing"
    """A search runs, and lacks something."""
    WRONG = "wrong"
    """A search would be worthless."""


@dataclass(frozen=True)
class Finding:
    level: Level
    text: str


def findings(tried: Tried) -> list[Finding]:
    """Of a task that ran to its end; what matters most comes last."""
    return sorted(_all(tried), key=lambda finding: list(Level).index(finding.level))


def _all(tried: Tried) -> Iterator[Finding]:
    yield from _of_reports(tried)
    yield from _of_errors(tried)
    if tried.run is not None:
        yield from _of_schedule(tried)
        yield from _of_state(tried)
        yield from _of_reads(tried)


def _of_reports(tried: Tried) -> Iterator[Finding]:
    done, wanted = tried.epochs[-1].number, tried.spec.task.epochs
    if done < wanted:
        yield Finding(
            Level.WRONG if tried.result is None else Level.MISSING,
            f"{done} of {wanted} epochs were reported; train run.epochs epochs, and report each",
        )
    else:
        yield Finding(Level.GOOD, f"{done} of {wanted} epochs were reported")


def _of_errors(tried: Tried) -> Iterator[Finding]:
    errors = [epoch.validation_error for epoch in tried.epochs]
    if tried.epochs[-1].diverged:
        yield Finding(Level.WRONG, "it diverged: lower schedule.lr_max, or look at the loss")
    elif len(errors) > 1 and min(errors) == max(errors):
        yield Finding(Level.MISSING, f"the error never changed: {errors[0]:g} % in every epoch")
    elif max(errors) < CHANCE:
        yield Finding(
            Level.MISSING,
            f"errors up to {max(errors):g} %: an error is in percent, 12.5 and not 0.125",
        )
    elif errors[-1] > errors[0] + WORSE:
        yield Finding(
            Level.MISSING,
            f"the error rose from {errors[0]:.4g} to {errors[-1]:.4g} %: is it an accuracy? "
            "error = 100 - accuracy",
        )
    if any(epoch.averaged_error is None for epoch in tried.epochs):
        how = "run.average(model) makes them" if tried.run else "print averaged_error, too"
        yield Finding(
            Level.MISSING,
            f"no error of averaged weights: no run ends early, only the race between seeds saves "
            f"time; {how}",
        )
    else:
        yield Finding(Level.GOOD, "errors of averaged weights: hopeless runs can end early")


def _of_schedule(tried: Tried) -> Iterator[Finding]:
    run, calls, rates = tried.run, tried.calls, tried.rates
    assert run is not None
    if not any(calls[name] for name in ("schedule", "drive", "scheduler")):
        yield Finding(
            Level.WRONG,
            "the schedule was never asked, so every k trains the same: run.drive(optimizer)",
        )
        return
    if not rates.used:
        return
    step = rates.first_wrong(run.schedule)
    if step is not None:
        yield Finding(
            Level.WRONG,
            f"update {step} had the LR {rates.used[step]:.6g}, and run.schedule({step}) is "
            f"{run.schedule(step):.6g}: something else sets it, or nothing",
        )
        return
    made, known = len(rates.used), run.total_steps
    if made != known:
        yield Finding(
            Level.MISSING,
            f"{made} updates were made, and run.total_steps is {known}: the schedule "
            + ("is cut off" if made < known else "ends early")
            + "; set run.steps_per_epoch to the optimizer's updates",
        )
    else:
        yield Finding(Level.GOOD, f"the optimizer's {made} updates had the schedule's LRs")


def _of_state(tried: Tried) -> Iterator[Finding]:
    if tried.restored:
        yield Finding(Level.GOOD, "stopped after an epoch, it went on with the next")
    elif tried.restored == 0:
        yield Finding(
            Level.MISSING,
            "stopped after its first epoch, it started over: call run.save after every report",
        )
    elif not tried.looked_for_state and tried.spec.task.epochs > 1:
        yield Finding(
            Level.MISSING,
            "keeps no state: an interrupted run starts over; run.keep(model, optimizer, …)",
        )


def _of_reads(tried: Tried) -> Iterator[Finding]:
    calls = tried.calls
    if not calls["seed"] and not calls["seed_everything"]:
        yield Finding(
            Level.MISSING,
            "did not ask for run.seed: runs of one seed must begin alike; run.seed_everything()",
        )
    if not calls["purpose"]:
        yield Finding(
            Level.MISSING,
            "did not ask for run.purpose: kdecay confirm needs the error on the test set when it "
            "is 'confirmation'",
        )
    if not calls["device"]:
        yield Finding(Level.MISSING, "did not ask for run.device: 'cpu' or the worker's GPU")
