"""Epochs or steps trained and saved, by candidate of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from kdecay_search.report.cost import duration
from kdecay_search.report.effort import Effort, effort_of, trials_by_point
from kdecay_search.report.figures import theme
from kdecay_search.report.figures.palette import WARNING, translucent
from kdecay_search.report.names import counted
from kdecay_search.report.whole import by_rank
from kdecay_search.search import Stage
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate, candidate_name
from kdecay_search.study.metric import MetricFormat
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.study.trials import State, Trial

TRAINED, ENDED, PAUSED, RUNNING = "#2f7d77", "#c08a2d", "#8f6bb8", "#6b7fd6"
PARTS = (
    ("complete", "complete runs", TRAINED),
    ("pruned", "runs ended early", ENDED),
    ("failed", "failed attempts", WARNING),
    ("paused", "paused runs", PAUSED),
    ("running", "running", RUNNING),
    ("saved_by_pruning", "saved: ended early", translucent(ENDED, 0.22)),
    ("saved_by_skipping", "saved: run skipped", translucent("#808894", 0.22)),
)
"""Attribute of :class:`Effort`, name in the legend and colour; what was saved is pale."""
WIDEST_BAR = 0.12
"""Greatest width of a bar, as a share of the figure."""
MOST_RUNS = 8
"""Most runs that a hover text names one by one."""


def epochs_by_k(
    snapshot: StudySnapshot, stage: Stage, seconds_per_epoch: float | None = None
) -> go.Figure:
    """Epochs or steps trained and saved by candidate; hover texts say when the runs ended.

    Args:
        snapshot: The study.
        stage: One of its stages.
        seconds_per_epoch: Device-seconds of an epoch or step, for the hover texts to say how long
            it took; None if they are not known.
    """
    trials = trials_by_point(snapshot, stage)
    length = snapshot.spec.task.length
    efforts = {point: effort_of(group, length) for point, group in trials.items()}
    if not any(effort.trained or effort.saved for effort in efforts.values()):
        return theme.empty(f"No run of stage {stage.n} has {theme.first_report(length)} yet.")
    shown = theme.figure(f"k<sub>{stage.n}</sub>", f"{length.unit}s", height=320)
    if snapshot.is_joint:
        ranks = {c.point: rank for rank, c in enumerate(by_rank(stage), start=1)}
        trials = dict(sorted(trials.items(), key=lambda each: ranks.get(each[0], len(ranks) + 1)))
        efforts = {point: efforts[point] for point in trials}
        return _by_rank(shown, trials, efforts, length, snapshot.plan.format, seconds_per_epoch)
    ks = [f"{point.k:.4g}" for point in efforts]
    places = [ks, [f"{point.lr_max:.4g}" for point in efforts]] if stage.levels else ks
    texts = [_described(group, length, snapshot.plan.format) for group in trials.values()]
    for part, name, colour in PARTS:
        counts = [getattr(effort, part) for effort in efforts.values()]
        if any(counts):
            shown.add_bar(
                x=places,
                y=counts,
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                customdata=_timed(texts, counts, seconds_per_epoch),
                hovertemplate=f"k = %{{x}}<br>%{{y:,}} {length.unit}s, {name}"
                "%{customdata}<extra></extra>",
            )
    shown.update_yaxes(tickformat=theme.tick_format(length))
    gap = max(0.35, 1 - len(efforts) * WIDEST_BAR)
    axis = "multicategory" if stage.levels else "category"
    shown.update_layout(barmode="stack", bargap=gap, xaxis={"type": axis, "showgrid": False})
    if stage.levels:
        shown.update_xaxes(title={"text": "lr_max, and k<sub>1</sub>"}, tickfont={"size": 11})
    return shown


def _by_rank(
    shown: go.Figure,
    trials: Mapping[Candidate, Sequence[Trial]],
    efforts: Mapping[Candidate, Effort],
    length: TrainingLength,
    form: MetricFormat,
    seconds_per_epoch: float | None,
) -> go.Figure:
    """The figure of whole schedules, whose names are long: they are numbered from the best on."""
    texts = [
        f"{candidate_name(point)}<br>{_described(group, length, form)}"
        for point, group in trials.items()
    ]
    for part, name, colour in PARTS:
        counts = [getattr(effort, part) for effort in efforts.values()]
        if any(counts):
            shown.add_bar(
                x=list(range(1, len(texts) + 1)),
                y=counts,
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                customdata=_timed(texts, counts, seconds_per_epoch),
                hovertemplate=f"%{{y:,}} {length.unit}s, {name}%{{customdata}}<extra></extra>",
            )
    shown.update_yaxes(tickformat=theme.tick_format(length))
    gap = max(0.35, 1 - len(texts) * WIDEST_BAR)
    shown.update_layout(barmode="stack", bargap=gap)
    shown.update_xaxes(title={"text": "candidate, from the best on"}, showgrid=False)
    return shown


def _timed(
    texts: Sequence[str], counts: Sequence[int], seconds_per_epoch: float | None
) -> list[str]:
    """The texts of bars, each after the device time that its epochs or steps take."""
    if seconds_per_epoch is None:
        return [f"<br>{text}" for text in texts]
    times = (duration(count * seconds_per_epoch) for count in counts)
    return [f": {time}<br>{text}" for time, text in zip(times, texts, strict=True)]


def _described(trials: Sequence[Trial], length: TrainingLength, form: MetricFormat) -> str:
    """When each run that was trained ended, seed by seed."""
    trained = sorted((t for t in trials if t.epochs), key=lambda t: (t.key.seed, t.number))
    lines = [f"seed {t.key.seed}: {_ended(t, length, form)}" for t in trained[:MOST_RUNS]]
    if len(trained) > MOST_RUNS:
        lines.append(f"and {len(trained) - MOST_RUNS} more runs")
    skipped = sum(t.state == State.PRUNED and t.epochs == 0 for t in trials)
    if skipped:
        lines.append(f"{counted(skipped, 'seed')} skipped")
    return "<br>".join(lines)


def _ended(trial: Trial, length: TrainingLength, form: MetricFormat) -> str:
    if trial.state == State.COMPLETE and trial.error is not None:
        return f"complete, {form.value(trial.error)}"
    word = {State.PRUNED: "ended early", State.FAILED: "failed"}.get(trial.state, str(trial.state))
    return f"{word} after {length.place(trial.epochs)} of {length.total:,}"
