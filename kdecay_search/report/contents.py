"""The words and numbers of a report, as plain values for its template."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from kdecay_search import __version__
from kdecay_search.report import confirmed, metrics, names
from kdecay_search.report.cost import Cost, cost_of, duration
from kdecay_search.report.effort import effort_of
from kdecay_search.report.names import counted, run_name, trial_counts, tuning
from kdecay_search.search import BASELINE_KS
from kdecay_search.search.verdict import Model, Verdict
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.statistics import describe
from kdecay_search.study import file as study_file
from kdecay_search.study.candidate import candidate_name, level_name, schedule_name
from kdecay_search.study.comparators import FOUND
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.own_parameters import own_text
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.study.trials import State, Trial

NUMERALS = {1: "one", 2: "two", 3: "three", 4: "four"}
"""Numbers of terms in words; a larger one is written in digits."""
MOST_WORKERS = 40
"""Most workers that are listed."""
MOST_FAILURES = 10
"""Most failed trials that are listed: the newest."""
MOST_MESSAGE = 400
"""Most characters of a failure's message that are shown."""
PACKAGES = ("optuna", "numpy", "scipy", "plotly")
"""Packages whose versions a report states."""


@dataclass(frozen=True)
class Facts:
    """What a report is made from, beside the curves."""

    snapshot: StudySnapshot
    """The study at the moment of the report."""
    seconds: Mapping[int, float]
    """Device-seconds by trial id, of trials for which they are known."""
    written: datetime
    """When the report is written, with its time zone."""


def of(facts: Facts) -> dict[str, Any]:
    """The values of the report's template, except for the figures and the stages."""
    snapshot = facts.snapshot
    cost = cost_of(snapshot, facts.seconds)
    return {
        "name": snapshot.spec.name,
        "metric": _metric(snapshot.plan.format),
        "unit": snapshot.spec.task.length.unit,
        "data": names.training_data(snapshot.spec),
        "description": snapshot.spec.description,
        "state": snapshot.state,
        "network": network(snapshot.spec),
        "written": f"{facts.written:%Y-%m-%d %H:%M %Z}".strip(),
        "verdict": snapshot.verdict.sentence,
        "tuning": tuning(snapshot),
        "confirmation": _confirmation(snapshot),
        "cost_sentence": _cost_sentence(snapshot, cost),
        "highlights": _highlights(snapshot, cost),
        "rates": _rates(snapshot),
        "table": _table(snapshot),
        "pruning": _pruning(snapshot, cost),
        "repetition": names.repetition(snapshot),
        "cost": _cost_table(snapshot, cost),
        "outcomes": trial_counts(snapshot),
        "workers": _workers(cost),
        "more_workers": max(0, len(cost.by_worker) - MOST_WORKERS),
        "failures": _failures(snapshot),
        "failed": snapshot.count(State.FAILED),
        "given_up": len(snapshot.given_up) if snapshot.state != "running" else 0,
        "toml": study_file.to_toml(snapshot.spec),
        "seeds": _seeds(snapshot.spec),
        "is_joint": snapshot.is_joint,
        "versions": [
            ("kdecay-search", __version__),
            ("Python", platform.python_version()),
            *((name, version(name)) for name in PACKAGES),
        ],
    }


def _metric(form: MetricFormat) -> dict[str, str]:
    """What the page calls the metric, its values and its differences."""
    metric = form.metric
    return {
        "name": metric.name,
        "begins": metrics.capitalised(metric.name),
        "word": metrics.capitalised(metrics.word(metric)),
        "label": metric.label,
        "by_seed": metrics.by_seed(metric),
        "test_name": metrics.test_name(metric),
        "extreme": metric.best,
        "while_rate_is_high": metrics.while_rate_is_high(metric),
        "in_unit": metrics.in_unit(form),
        "in_whole_unit": metrics.in_unit(form, "percentage points"),
    }


def network(spec: StudySpec) -> str:
    """What is trained, such as ``resnet-8 on digits``, or the user's own code by its name."""
    if spec.task.kind == "simulated":
        return "a simulated task"
    if spec.task.kind == "python":
        return spec.task.entry
    if spec.task.kind == "command":
        return " ".join(spec.task.command)
    model = spec.task.model.model_dump()
    size = "-".join(str(model[key]) for key in ("depth", "widen", "growth") if key in model)
    return f"{model['name']}{f'-{size}' if size else ''} on {spec.task.data.name}"


def _confirmation(snapshot: StudySnapshot) -> dict[str, Any] | None:
    found, verdict, form = snapshot.plan.confirmation, snapshot.confirmed, snapshot.plan.format
    if found is None or verdict is None:
        return None
    rows = [
        {"cells": confirmed.cells(row, found, form), "is_found": row.comparator == FOUND}
        for row in found.rows
    ]
    return {
        "sentence": verdict.sentence,
        "detectable": confirmed.detectable(found, form),
        "headings": confirmed.headings(form.metric),
        "rows": rows,
        "seeds": f"{found.seeds.start} to {found.seeds.stop - 1}",
    }


def _cost_sentence(snapshot: StudySnapshot, cost: Cost) -> str:
    runs = cost.whole.trials
    length = snapshot.spec.task.length
    text = f"It took {length.count(cost.whole.epochs)} in {counted(runs, 'trial')}"
    effort = effort_of(snapshot.attempts, length)
    if effort.saved:
        text += f"; ending runs early saved {effort.saved:,} more"
        if cost.pace is not None:
            text += f", {duration(effort.saved * cost.pace)} of device time"
    if cost.whole.seconds is not None:
        text += f". Device time: {duration(cost.whole.seconds)}"
    return f"{text}."


def _highlights(snapshot: StudySnapshot, cost: Cost) -> list[tuple[str, str]]:
    leader = snapshot.plan.leader
    if not leader.errors:
        return []
    found = [("found" if snapshot.state == "done" else "best so far", schedule_name(leader.ks))]
    if leader.point is not None:
        found = [
            (
                found[0][0],
                candidate_name(
                    leader.point._replace(lr_max=None, lr_min=None, warmup=None, args=()),
                    leader.ks[:-1],
                ),
            )
        ]
    if leader.lr_max is not None:
        found.append(("lr_max", f"{leader.lr_max:.4g}"))
    if leader.point is not None:
        found += [(name, own_text(value)) for name, value in leader.point.args]
    trained = (f"{snapshot.spec.task.length.unit}s trained", f"{cost.whole.epochs:,}")
    return [*found, *_measured(snapshot), trained]


def _measured(snapshot: StudySnapshot) -> list[tuple[str, str]]:
    """Error and gain: on the test set once the confirmation is over, else on validation data."""
    verdict, last, form = snapshot.confirmed, snapshot.plan.confirmation, snapshot.plan.format
    name = metrics.test_name(form.metric)
    if verdict is not None and last is not None and last.is_over and verdict.estimate is not None:
        error = last.rows[0].error
    else:
        verdict, name = snapshot.verdict, form.metric.name
        error = describe(snapshot.plan.leader.errors.values())
    original = "the original" if snapshot.is_joint else "k = 1"
    gain = [(f"gain on {original}", verdict.gain)] if verdict.estimate is not None else []
    return [(name, form.sample(error)), *gain]


def _rates(snapshot: StudySnapshot) -> dict[str, str]:
    total = snapshot.spec.task.length.total
    original, baseline = snapshot.original, snapshot.plan.baseline
    leader = snapshot.plan.leader
    return {
        "family": (leader.point and leader.point.family) or snapshot.spec.schedule.family,
        "high": f"{snapshot.schedule.lr_max:g}",
        "low": f"{snapshot.schedule.lr_min:g}",
        "found": leader.name,
        "original": baseline.name,
        "is_new": "yes" if (leader.ks, leader.point) != (BASELINE_KS, baseline.point) else "",
        "mean": f"{snapshot.schedule.area(total):.4g}",
        "mean_original": f"{original.area(total):.4g}",
    }


def _table(snapshot: StudySnapshot) -> dict[str, Any]:
    """The result as the paper's Table 1 shows it: errors, with the exponents as a subscript."""
    plan, form = snapshot.plan, snapshot.plan.format
    if snapshot.is_joint:
        return {"columns": _tuned_columns(snapshot), **_gain(snapshot.verdict, form)}
    title = schedule_name(BASELINE_KS, plan.baseline.lr_max)
    columns = [{"title": title, **_cell((), plan.baseline.errors, False, form)}]
    for stage in plan.stages:
        title = NUMERALS.get(stage.n, str(stage.n)) + (" term" if stage.n == 1 else " terms")
        best = stage.best
        ks = () if best is None or best.k is None else (*stage.earlier_ks, best.k)
        errors = best.errors if best is not None else {}
        if best is not None and stage.levels:
            title += level_name(best.lr_max)
        columns.append({"title": title, **_cell(ks, errors, ks == plan.leader.ks, form)})
    return {"columns": columns, **_gain(snapshot.verdict, form)}


def _tuned_columns(snapshot: StudySnapshot) -> list[dict[str, Any]]:
    """The usual schedules as they were tuned, and the found one."""
    plan, form = snapshot.plan, snapshot.plan.format
    tuned = [baseline for stage in plan.stages for baseline in stage.baselines]
    columns = [
        {"title": each.name, **_cell((), each.best.errors, False, form)}
        for each in tuned
        if each.best.point != plan.leader.point
    ]
    found = {"title": "found", **_cell((), plan.leader.errors, True, form)}
    return [*columns, found]


def _gain(verdict: Verdict, form: MetricFormat) -> dict[str, str]:
    """The verdict's estimate, its interval, and what both are calculated from."""
    if verdict.estimate is None:
        return {"gain": "–", "interval": "", "by": ""}
    by = {
        Model.SMOOTH_CURVE: "by the smooth curve through all runs of each stage",
        Model.PAIRED: f"paired over {counted(verdict.pairs, 'seed')}",
    }
    return {
        "gain": form.difference(verdict.estimate),
        "interval": "" if verdict.interval is None else form.span(verdict.interval),
        "by": "" if verdict.model is None else by[verdict.model],
    }


def _cell(
    ks: Sequence[float], errors: Mapping[int, float], found: bool, form: MetricFormat
) -> dict[str, Any]:
    sample = describe(errors.values())
    exponents = (f"{k:.1f}" if round(k, 1) == k else f"{k:.4g}" for k in ks)  # 2.0, as in the paper
    return {
        "error": "–" if sample.mean is None else form.number(sample.mean),
        "sd": "" if sample.sd is None else f"{sample.sd:.{form.decimals}f}",
        "ks": ", ".join(exponents) if sample.n else "",
        "n": sample.n,
        "found": found,
    }


def _pruning(snapshot: StudySnapshot, cost: Cost) -> str:
    """What early stopping did and saved, in a few sentences."""
    text = f"{names.budget(snapshot)} are spent. " if snapshot.is_joint else ""
    if not snapshot.spec.pruning.enabled:
        return f"{text}Pruning was off: every run was trained to its end."
    length = snapshot.spec.task.length
    pruned = [t for t in snapshot.attempts if t.state == State.PRUNED]
    paused = _where([t for t in snapshot.attempts if t.state == State.PAUSED], length)
    early = _where([t for t in pruned if t.epochs], length)
    skipped = sum(not t.epochs for t in pruned)
    parts = [f"{early[0]} ended early, after {early[1]}"] if early else []
    if skipped:
        parts.append(f"{counted(skipped, 'run')} {'was' if skipped == 1 else 'were'} skipped")
    text += f"{', and '.join(parts)}. " if parts else "No run has been ended early. "
    if pruned:
        text += f"{_saving(snapshot, cost)} "
    if paused:
        text += f"{paused[0]} {'is' if paused[0] == '1 run' else 'are'} paused, after {paused[1]}."
    return text.strip()


def _where(trials: Sequence[Trial], length: TrainingLength) -> tuple[str, str] | None:
    """How many runs some trials are, and after which part of the training they stopped."""
    done = sorted(length.position(trial.epochs) for trial in trials)
    if not done:
        return None
    first, last = f"{done[0]:,}", f"{done[-1]:,}"
    where = f"{length.unit} {first}" if first == last else f"{length.unit}s {first} to {last}"
    return counted(len(done), "run"), f"{where} of {length.total:,}"


def _saving(snapshot: StudySnapshot, cost: Cost) -> str:
    """What was saved by not training runs to their ends, in a sentence."""
    length = snapshot.spec.task.length
    effort = effort_of(snapshot.attempts, length)
    share = effort.saved / (effort.saved + effort.trained)
    timed = "" if cost.pace is None else f" or {duration(effort.saved * cost.pace)} of device time"
    whole = "the study would have taken so far"
    if snapshot.is_joint:
        whole = "the runs that began would have taken"
    return f"That saved {length.count(effort.saved)}{timed}, {100 * share:.0f} % of what {whole}."


def _cost_table(snapshot: StudySnapshot, cost: Cost) -> list[tuple[str, str]]:
    length = snapshot.spec.task.length
    effort, unit = effort_of(snapshot.attempts, length), length.unit
    repeated = sum(length.position(trial.repeated_epochs) for trial in snapshot.attempts)
    counts = {
        f"{unit}s trained": cost.whole.epochs,
        f"{unit}s in runs that were ended early": effort.pruned,
        f"{unit}s in runs that are paused": effort.paused,
        f"{unit}s in attempts that failed": effort.failed,
        f"{unit}s trained twice, for lack of a checkpoint": repeated,
        f"{unit}s saved by ending runs early": effort.saved,
    }
    rows = [
        (name, f"{count:,}")
        for name, count in counts.items()
        if count or name == f"{unit}s trained"
    ]
    rows.append(("device-seconds", _seconds(cost.whole.seconds)))
    if cost.pace is not None:
        rows.append((f"seconds per {unit}", f"{cost.pace:.3g}"))
        rows.append(("device-seconds saved", _seconds(effort.saved * cost.pace or None)))
    return [(name, value) for name, value in rows if value]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"  # noqa: PLR2004


def _workers(cost: Cost) -> list[dict[str, str]]:
    """What each worker took; a worker's name consists of its host, process and device."""
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
    failed = [trial for trial in snapshot.attempts if trial.state == State.FAILED]
    shown = []
    for trial in reversed(failed[-MOST_FAILURES:]):
        message = trial.message or "no message"
        cut = "…" if len(message) > MOST_MESSAGE else ""
        run = run_name(trial, separator=", ")
        shown.append({"run": run, "reason": trial.reason, "message": message[:MOST_MESSAGE] + cut})
    return shown


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
