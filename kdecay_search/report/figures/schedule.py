"""The found schedule beside what it is compared with (the paper's Figure 3)."""

from __future__ import annotations

import plotly.graph_objects as go

from kdecay_search.report.figures import theme
from kdecay_search.report.figures.palette import INK, Palette
from kdecay_search.schedules.base import Schedule
from kdecay_search.schedules.baselines import Cosine
from kdecay_search.search import BASELINE_KS
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import candidate_name, level_name, schedule_name

POINTS = 240
"""Points of each schedule; even k = 1000 falls between the last two of them."""


FINE = 100
"""Updates per epoch that a searched warm-up, which is a share of the training, is drawn with."""


def schedules(snapshot: StudySnapshot) -> go.Figure:
    """The learning rates of the best schedule so far and of what it is compared with: each of its
    terms alone, the original (k = 1), and a cosine between the same rates.

    A search of whole schedules shows, in place of that cosine, each usual schedule as it was tuned.
    """
    if snapshot.is_joint:
        return _whole_schedules(snapshot)
    found, part, palette = snapshot.schedule, snapshot.spec.schedule, Palette.of(snapshot)
    shown = theme.over_training(snapshot.spec.task.length, "learning rate")
    ks = snapshot.plan.leader.ks
    is_new = ks != BASELINE_KS
    if part.family != "cosine":
        cosine = Cosine(lr_max=found.lr_max, lr_min=found.lr_min, warmup_steps=found.warmup_steps)
        _add(shown, snapshot, cosine, "cosine", dash="dot", width=1.5, color=INK)
    original, level = snapshot.original, snapshot.plan.leader.lr_max
    base = snapshot.plan.baseline.lr_max
    style = {"dash": "dash", "width": 2} if is_new else {"width": 3}
    name = f"k = 1{level_name(base)}, the original"
    _add(shown, snapshot, original, name, color=palette(1.0, base), **style)
    for k in ks if len(ks) > 1 else ():
        alone = snapshot.spec.schedule_for((k,), lr_max=level)
        _add(
            shown,
            snapshot,
            alone,
            f"{schedule_name((k,))} alone",
            width=1.5,
            color=palette(k, level),
        )
    if is_new:
        colour = palette(ks[-1], level)
        name = f"found: {schedule_name(ks, level)}"
        _add(shown, snapshot, found, name, width=3.5, color=colour)
    shown.update_layout(legend={"traceorder": "reversed"})
    shown.update_yaxes(rangemode="tozero")
    return shown


def _whole_schedules(snapshot: StudySnapshot) -> go.Figure:
    """The usual schedules as they were tuned, and the found one."""
    plan, palette = snapshot.plan, Palette.of(snapshot)
    shown = theme.over_training(snapshot.spec.task.length, "learning rate")
    fine = 1 if snapshot.spec.task.length.counts_steps else FINE
    dashes = ("dash", "dot", "dashdot", "longdash", "longdashdot")
    tuned = [each for stage in plan.stages for each in stage.baselines]
    for index, each in reversed(list(enumerate(tuned))):
        point = each.best.point
        if point is None or point == plan.leader.point:
            continue
        schedule = snapshot.spec.candidate_schedule(point, steps_per_epoch=fine)
        name = candidate_name(point)
        name = name if name.startswith(each.name) else f"{each.name}: {name}"
        style = {"dash": dashes[index % len(dashes)], "width": 1.8, "color": palette.at(point)}
        _add(shown, snapshot, schedule, name, fine, **style)
    if plan.leader.point is not None:
        found = snapshot.schedule_of(plan.leader, fine)
        style = {"width": 3.5, "color": palette.at(plan.leader.point)}
        _add(shown, snapshot, found, f"found: {plan.leader.name}", fine, **style)
    shown.update_layout(legend={"traceorder": "reversed"})
    shown.update_yaxes(rangemode="tozero")
    theme.make_room(shown, [trace.name for trace in shown.data])
    return shown


def _add(
    shown: go.Figure,
    snapshot: StudySnapshot,
    schedule: Schedule,
    name: str,
    fine: int = 1,
    **line: object,
) -> None:
    length = snapshot.spec.task.length
    at = [length.total * i / (POINTS - 1) for i in range(POINTS)]
    total = length.total * fine
    mean = schedule.area(total)
    digits = ",.0f" if length.counts_steps else ".1f"
    shown.add_scatter(
        x=at,
        y=[schedule(min(each * fine, total), total) for each in at],
        mode="lines",
        name=name,
        line=line,
        hovertemplate=f"{name}<br>{length.unit} %{{x:{digits}}}<br>LR %{{y:.4~g}}"
        f"<br>mean LR {mean:.4g}<extra></extra>",
    )
