"""The words and numbers of a report, as plain values for its template."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from kdecay_search import __version__
from kdecay_search.report import confirmed
from kdecay_search.report.cost import Cost, Share, cost_of
from kdecay_search.report.effort import effort_of
from kdecay_search.report.names import level, terms, tuning
from kdecay_search.report.summary import gain_on_baseline
from kdecay_search.report.text import duration, percent, verdict
from kdecay_search.search import BASELINE_KS
from kdecay_search.search.confirmation import Confirmation
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import describe
from kdecay_search.study import file as study_file
from kdecay_search.study.comparators import FOUND
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import State, Trial

NUMERALS = {1: "one", 2: "two", 3: "three", 4: "four"}
MOST_WORKERS = 40
MOST_FAILURES = 10
MOST_MESSAGE = 400
"""Characters of a failure's message."""
PACKAGES = ("optuna", "numpy", "scipy", "plotly")


@dataclass(frozen=True)
class Facts:
    """What a report is made from, beside the curves."""

    snapshot: StudySnapshot
    seconds: Mapping[int, float]
    """Device-seconds by trial id."""
    written: datetime
    """When the report is written, with its time zone."""


def of(facts: Facts) -> dict[str, Any]:
    """Everything but the figures and the stages."""
    snapshot = facts.snapshot
    cost = cost_of(snapshot, facts.seconds)
    return {
        "name": snapshot.spec.name,
        "description": snapshot.spec.description,
        "state": snapshot.state,
        "network": network(snapshot.spec),
        "written": f"{facts.written:%Y-%m-%d %H:%M %Z}".strip(),
        "verdict": _verdict(snapshot),
        "tuning": tuning(snapshot),
        "confirmation": _confirmation(snapshot),
        "cost_sentence": _cost_sentence(snapshot, cost),
        "highlights": _highlights(snapshot, cost),
        "rates": _rates(snapshot),
        "table": _table(snapshot),
        "pruning": _pruning(snapshot),
        "cost": _cost_table(snapshot, cost),
        "outcomes": [
            (str(state), snapshot.count(state)) for state in State if snapshot.count(state)
        ],
        "workers": _workers(cost),
        "more_workers": max(0, len(cost.by_worker) - MOST_WORKERS),
        "failures": _failures(snapshot),
        "failed": snapshot.count(State.FAILED),
        "given_up": len(snapshot.given_up) if snapshot.state != "running" else 0,
        "toml": study_file.to_toml(snapshot.spec),
        "seeds": _seeds(snapshot.spec),
        "versions": _versions(),
    }


def network(spec: StudySpec) -> str:
    """``resnet-8 on digits``; a simulated task is called so, own code by its name."""
    if spec.task.kind == "simulated":
        return "a simulated task"
    if spec.task.kind == "python":
        return spec.task.entry
    if spec.task.kind == "command":
        return " ".join(spec.task.command)
    model = spec.task.model.model_dump()
    size = "-".join(str(model[key]) for key in ("depth", "widen", "growth") if key in model)
    return f"{model['name']}{f'-{size}' if size else ''} on {spec.task.data.name}"


def _verdict(snapshot: StudySnapshot) -> str:
    sentence = verdict(snapshot)
    if snapshot.state in ("running", "stopped") and snapshot.plan.leader.errors:
        return f"So far, {sentence[0].lower()}{sentence[1:]}"
    return sentence


def _confirmation(snapshot: StudySnapshot) -> dict[str, Any] | None:
    found = snapshot.plan.confirmation
    if found is None:
        return None
    rows = [
        {"cells": confirmed.cells(row, found), "is_found": row.comparator == FOUND}
        for row in found.rows
    ]
    return {
        "sentence": confirmed.sentence(found),
        "detectable": confirmed.detectable(found),
        "headings": confirmed.HEADINGS,
        "rows": rows,
        "seeds": f"{found.seeds.start} to {found.seeds.stop - 1}",
    }


def _cost_sentence(snapshot: StudySnapshot, cost: Cost) -> str:
    runs = cost.whole.trials
    text = f"It took {cost.whole.epochs:,} epochs in {_counted(runs, 'trial')}"
    effort = effort_of(snapshot.attempts, snapshot.spec.task.epochs)
    if effort.saved:
        text += f"; ending runs early saved {effort.saved:,} more"
    if cost.whole.seconds is not None:
        text += f". Device time: {duration(cost.whole.seconds)}"
    return f"{text}."


def _highlights(snapshot: StudySnapshot, cost: Cost) -> list[tuple[str, str]]:
    leader = snapshot.plan.leader
    if not leader.errors:
        return []
    name = "found" if snapshot.state == "done" else "best so far"
    epochs = ("epochs trained", f"{cost.whole.epochs:,}")
    last = snapshot.plan.confirmation
    measured = _confirmed_numbers(last) if last is not None else []
    found = [(name, terms(leader.ks))]
    if leader.lr_max is not None:
        found.append(("lr_max", f"{leader.lr_max:.4g}"))
    return [*found, *(measured or _searched_numbers(snapshot)), epochs]


def _searched_numbers(snapshot: StudySnapshot) -> list[tuple[str, str]]:
    found = [("validation error", percent(describe(snapshot.plan.leader.errors.values())))]
    gain = _gain_cell(snapshot)
    if gain["by"]:
        found.append(("gain on k = 1", f"{gain['gain']} points" if gain["clear"] else "not clear"))
    return found


def _confirmed_numbers(confirmation: Confirmation) -> list[tuple[str, str]]:
    """Those of the test set, once they are there: they take the search's place."""
    against = confirmation.comparison
    if not confirmation.is_over or against.difference is None:
        return []
    is_clear = against.verdict != "no detectable difference"
    gain = f"{against.difference:.2f} points" if is_clear else "not clear"
    return [("test error", percent(confirmation.rows[0].error)), ("gain on k = 1", gain)]


def _rates(snapshot: StudySnapshot) -> dict[str, str]:
    epochs = snapshot.spec.task.epochs
    original, baseline = snapshot.original, snapshot.plan.baseline
    return {
        "family": snapshot.schedule.family,
        "high": f"{snapshot.schedule.lr_max:g}",
        "low": f"{snapshot.schedule.lr_min:g}",
        "found": terms(snapshot.plan.leader.ks, snapshot.plan.leader.lr_max),
        "original": terms(BASELINE_KS, baseline.lr_max),
        "is_new": "yes" if snapshot.plan.leader.ks != BASELINE_KS else "",
        "mean": f"{snapshot.schedule.area(epochs):.4g}",
        "mean_original": f"{original.area(epochs):.4g}",
    }


def _table(snapshot: StudySnapshot) -> dict[str, Any]:
    """In the form of the paper's Table 1: the error, its exponents as a subscript."""
    plan = snapshot.plan
    title = terms(BASELINE_KS, plan.baseline.lr_max)
    columns = [{"title": title, **_cell((), plan.baseline.errors, False)}]
    for stage in plan.stages:
        title = NUMERALS.get(stage.n, str(stage.n)) + (" term" if stage.n == 1 else " terms")
        best = stage.best
        ks = () if best is None or best.k is None else (*stage.earlier_ks, best.k)
        errors = best.errors if best is not None else {}
        if best is not None and stage.levels:
            title += level(best.lr_max)
        columns.append({"title": title, **_cell(ks, errors, ks == plan.leader.ks)})
    return {"columns": columns, **_gain_cell(snapshot)}


def _gain_cell(snapshot: StudySnapshot) -> dict[str, Any]:
    """The gain on k = 1 as the verdict tells it: of one term by the smooth curve, unless there are
    too few runs. ``clear``: whether its interval is above zero."""
    leader, baseline, paired = (
        snapshot.plan.leader,
        snapshot.plan.baseline,
        gain_on_baseline(snapshot),
    )
    if leader.ks == BASELINE_KS or paired.mean is None:
        return {"gain": "–", "interval": "", "by": "", "clear": False}
    smooth = snapshot.plan.stages[0].smooth_gain if len(leader.ks) == 1 else None
    few = min(len(leader.errors), len(baseline.errors)) < 2  # noqa: PLR2004
    if smooth is not None and not few:
        mean: float = smooth.mean
        interval: tuple[float, float] | None = smooth.interval
        by = "by the smooth curve through all runs"
    else:
        mean, interval = paired.mean, paired.interval()
        by = f"paired over {_counted(paired.n, 'seed')}"
    return {
        "gain": f"{mean:.2f}".replace("-", "−"),
        "interval": _span(interval) if interval else "",
        "by": by,
        "clear": bool(interval and interval[0] > 0),
    }


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}".replace("-", "−")


def _cell(ks: Sequence[float], errors: Mapping[int, float], found: bool) -> dict[str, Any]:
    sample = describe(errors.values())
    return {
        "error": "–" if sample.mean is None else f"{sample.mean:.2f}",
        "sd": "" if sample.sd is None else f"{sample.sd:.2f}",
        "ks": ", ".join(_exponent(k) for k in ks) if sample.n else "",
        "n": sample.n,
        "found": found,
    }


def _exponent(k: float) -> str:
    """``2.0``, as the paper has it."""
    return f"{k:.1f}" if round(k, 1) == k else f"{k:.4g}"


def _pruning(snapshot: StudySnapshot) -> str:
    """What ending runs early did, in a sentence or two."""
    if not snapshot.spec.pruning.enabled:
        return "Pruning was off: every run was trained to its end."
    epochs = snapshot.spec.task.epochs
    trials = [t for t in snapshot.attempts if t.state == State.PRUNED]
    early = sorted(t.epochs for t in trials if t.epochs)
    skipped = len(trials) - len(early)
    effort = effort_of(snapshot.attempts, epochs)
    if not trials:
        return "No run has been ended early."
    parts = []
    if early:
        where = (
            f"epoch {early[0]}" if early[0] == early[-1] else f"epochs {early[0]} to {early[-1]}"
        )
        parts.append(f"{_counted(len(early), 'run')} ended early, after {where} of {epochs}")
    if skipped:
        was = "was" if skipped == 1 else "were"
        parts.append(f"{_counted(skipped, 'run')} {was} not needed")
    share = effort.saved / (effort.saved + effort.trained)
    return (
        f"{', and '.join(parts)}. That saved {effort.saved:,} epochs, "
        f"{100 * share:.0f} % of what the study would have taken so far."
    )


def _cost_table(snapshot: StudySnapshot, cost: Cost) -> list[tuple[str, str]]:
    effort = effort_of(snapshot.attempts, snapshot.spec.task.epochs)
    rows = [
        ("epochs trained", f"{cost.whole.epochs:,}"),
        ("… in runs that were ended early", f"{effort.pruned:,}" if effort.pruned else ""),
        ("… in attempts that failed", f"{effort.failed:,}" if effort.failed else ""),
        ("epochs saved by ending runs early", f"{effort.saved:,}" if effort.saved else ""),
        ("device-seconds", _seconds(cost.whole.seconds)),
    ]
    pace = _pace(cost.whole)
    return [(name, value) for name, value in (*rows, ("seconds an epoch", pace)) if value]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"  # noqa: PLR2004


def _pace(share: Share) -> str:
    if share.seconds is None or not share.epochs:
        return ""
    return f"{share.seconds / share.epochs:.3g}"


def _workers(cost: Cost) -> list[dict[str, str]]:
    """A worker's name is its host, process and device."""
    rows = []
    for name, share in list(cost.by_worker.items())[:MOST_WORKERS]:
        host, _, rest = name.partition(":")
        process, _, device = rest.partition(":")
        rows.append(
            {
                "host": host,
                "process": process,
                "device": device,
                "trials": f"{share.trials:,}",
                "epochs": f"{share.epochs:,}",
                "seconds": _seconds(share.seconds),
            }
        )
    return rows


def _failures(snapshot: StudySnapshot) -> list[dict[str, Any]]:
    """The last failed trials, newest first."""
    failed = [t for t in snapshot.attempts if t.state == State.FAILED]
    return [_failure(trial) for trial in reversed(failed[-MOST_FAILURES:])]


def _failure(trial: Trial) -> dict[str, Any]:
    message = trial.message or "no word"
    if len(message) > MOST_MESSAGE:
        message = message[:MOST_MESSAGE] + "…"
    k = "?" if trial.k is None else f"{trial.k:.4g}{level(trial.lr_max)}"
    what = f"stage {trial.key.stage}, k = {k}"
    if trial.request.comparator:
        what = f"confirmation, {trial.request.comparator}"
    return {
        "run": f"{what}, seed {trial.key.seed}",
        "reason": trial.reason,
        "message": message,
    }


def _seeds(spec: StudySpec) -> str:
    last = spec.search.seeds - 1
    seeds = "Seed 0" if last == 0 else f"Seeds 0 to {last}"
    if spec.confirm.seeds:
        first = spec.confirm.first_seed
        seeds += f", and {first} to {first + spec.confirm.seeds - 1} in the confirmation"
    if spec.task.kind in ("python", "command"):
        return f"{seeds}: what follows from a run's seed is up to {network(spec)}."
    text = f"{seeds}: a run's first weights, order of images and augmentation follow from its seed."
    if spec.task.kind == "images":
        text += f" The validation split is drawn by split_seed = {spec.task.data.split_seed}."
    return text


def _versions() -> list[tuple[str, str]]:
    """Of the process that writes the report."""
    found = [("kdecay-search", __version__), ("Python", platform.python_version())]
    return found + [(name, version(name)) for name in PACKAGES]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"
