"""Figures hold the numbers of the snapshot, and stand for any study, however little it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from kdecay_search.report import figures
from kdecay_search.report.curves import (
    MOST_CANDIDATES,
    MOST_SHOWN_SEEDS,
    POINTS_AT_END,
    POINTS_OVERALL,
    Curves,
    RunCurve,
    shown_points,
    shown_trials,
    thinned,
)
from kdecay_search.report.effort import effort_of
from kdecay_search.report.figures.error import stage_curve
from kdecay_search.report.figures.palette import Palette
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.trials import State
from tests.support.memory_studies import (
    MemoryQueue,
    failed,
    pruned,
    simulated,
    stated,
    study,
    trial,
)
from tests.support.snapshots import ended, seen, spec

LIGHT, DARK = (255, 255, 255), (16, 19, 24)
"""Pages that the report has."""


ERRORS = {1.0: [10.0, 12.0, 11.0], 2.0: [8.0, 10.1, 8.9], 3.0: [9.0, 11.0, 10.0]}
FOUND = ended(stated(ERRORS))
TWO_TERMS = ended(
    stated(
        {1.0: [10.0, 12.0, 11.0], 2.0: [9.0, 11.1, 10.0], 3.0: [9.5, 11.6, 10.5]},
        {3.0: [8.0, 10.1, 8.9]},
    ),
    max_terms=2,
)


def curves_of(snapshot: StudySnapshot, epochs: int = 3) -> Curves:
    """Straight lines down to each trial's error, as a worker would have left them."""

    def run(each: Any) -> RunCurve:
        last = each.error if each.error is not None else 50.0
        line = [last + epochs - number for number in range(1, each.epochs + 1)]
        kept = {"averaged_error": line, "validation_error": [e + 1 for e in line],
                "training_loss": [e / 30 for e in line]}  # fmt: skip
        return thinned(each, {} if each.open else kept, dict(enumerate(line, start=1)))

    return Curves({s.n: [run(t) for t in shown_trials(snapshot, s)] for s in snapshot.plan.stages})


def every_figure(snapshot: StudySnapshot) -> list[go.Figure]:
    curves = curves_of(snapshot)
    stages = snapshot.plan.stages
    return [
        figures.schedules(snapshot),
        *(figures.error_by_k(snapshot, stage) for stage in stages),
        *(figures.epochs_by_k(snapshot, stage) for stage in stages),
        *(figures.validation_error(snapshot, curves, stage) for stage in stages),
        *(figures.training_loss(snapshot, curves, stage) for stage in stages),
    ]


def named(figure: go.Figure, name: str) -> Any:
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def words(figure: go.Figure) -> str:
    return " ".join(annotation.text for annotation in figure.layout.annotations)


# ---- schedules ------------------------------------------------------------------------------


def test_the_schedules_are_those_that_are_trained_with() -> None:
    figure = figures.schedules(FOUND)
    for name, ks in (("found: k = 2", (2.0,)), ("k = 1, the original", (1.0,))):
        trace, schedule = named(figure, name), FOUND.spec.schedule_for(ks)
        expected = [schedule(epoch, FOUND.spec.task.length.total) for epoch in trace.x]
        assert list(trace.y) == expected
        assert (trace.x[0], trace.x[-1]) == (0, FOUND.spec.task.length.total)
    assert {trace.name for trace in figure.data} == {
        "cosine", "k = 1, the original", "found: k = 2"
    }  # fmt: skip


def test_every_term_of_a_longer_schedule_is_drawn_by_itself() -> None:
    figure = figures.schedules(TWO_TERMS)
    assert list(named(figure, "found: k = 2, 3").y) != list(named(figure, "k = 2 alone").y)
    halves = zip(named(figure, "k = 2 alone").y, named(figure, "k = 3 alone").y, strict=True)
    means = [(a + b) / 2 for a, b in halves]  # eq. 14 at N = 1
    assert list(named(figure, "found: k = 2, 3").y) == pytest.approx(means)


# ---- error against k ------------------------------------------------------------------------


def test_error_by_k_has_every_seed_the_means_the_curve_and_the_choice() -> None:
    stage = FOUND.plan.stages[0]
    figure = figures.error_by_k(FOUND, stage)
    seeds = named(figure, "each seed")
    drawn = list(zip(seeds.x, [seed for seed, _ in seeds.customdata], seeds.y, strict=True))
    assert drawn == [(k, seed, e) for k, es in ERRORS.items() for seed, e in enumerate(es)]
    means = named(figure, "mean")
    assert dict(zip(means.x, means.y, strict=True)) == {c.k: c.error.mean for c in stage.candidates}
    assert "9.00 ± 1.05 %, 3 seeds" in means.text[1]
    curve = stage_curve(FOUND, stage)
    assert list(named(figure, "smooth curve").y) == list(curve.errors)
    assert set(ERRORS) <= set(curve.ks)
    assert words(figure) == "<b>k = 2</b> chosen"
    assert figure.layout.yaxis.title.text == "validation error, %"


def test_the_curve_of_a_later_stage_begins_at_the_term_that_it_follows() -> None:
    stage = TWO_TERMS.plan.stages[1]
    assert stage_curve(TWO_TERMS, stage).ks[0] == 2.0
    reference = named(figures.error_by_k(TWO_TERMS, stage), "k = 2 alone")
    assert reference.y[0] == pytest.approx((9.0 + 11.1 + 10.0) / 3)


def test_a_run_that_diverged_stands_at_the_edge_and_tells_its_own_error() -> None:
    snapshot = ended(stated({**ERRORS, 3.0: [9.0, 100.0, 10.0]}))
    seeds = named(figures.error_by_k(snapshot, snapshot.plan.stages[0]), "each seed")
    at = [tuple(each) for each in seeds.customdata].index((1, 100.0))
    assert seeds.y[at] == 12.0
    assert seeds.marker.symbol[at] == "triangle-up"


def test_while_a_stage_runs_its_best_is_called_best_so_far() -> None:
    queue = MemoryQueue(spec(), stated(ERRORS))
    queue.reconcile()
    queue.work(4)
    snapshot = seen(queue)
    assert "best so far" in words(figures.error_by_k(snapshot, snapshot.plan.stages[0]))


# ---- curves ---------------------------------------------------------------------------------


def test_curves_hold_the_values_and_the_inset_their_end() -> None:
    snapshot = ended(stated(ERRORS))
    run = RunCurve(2.0, 0, State.COMPLETE, tuple(range(1, 101)), tuple(range(100, 0, -1)),
                   tuple(range(101, 1, -1)), (0.5,) * 100)  # fmt: skip
    snapshot = replace(snapshot, spec=study(epochs=100))
    stage = snapshot.plan.stages[0]
    figure = figures.validation_error(snapshot, Curves({1: [run]}), stage)
    main = [t for t in figure.data if t.xaxis is None and t.x != (None,)]
    assert sorted(t.y for t in main) == sorted([run.averaged_error, run.validation_error])
    inset = [t for t in figure.data if t.xaxis == "x2"]
    assert {t.x for t in inset} == {tuple(range(75, 101))}
    assert {t.y[-1] for t in inset} == {1, 2}
    assert all("k = 2 · seed 0" in t.hovertemplate for t in [*main, *inset])


def test_runs_that_ended_early_or_run_are_marked_where_they_stand() -> None:
    runs = [RunCurve(2.0, 0, State.PRUNED, (1, 2), (50.0, 40.0), (51.0, 41.0), (1.0, 0.5)),
            RunCurve(3.0, 0, State.RUNNING, (1,), (50.0,))]  # fmt: skip
    figure = figures.validation_error(FOUND, Curves({1: runs}), FOUND.plan.stages[0])
    marks = {t.marker.symbol: t.x[-1] for t in figure.data if t.mode == "lines+markers"}
    assert marks == {"x-thin-open": 2, "circle-open": 1}


def test_a_loss_that_is_no_number_leaves_a_gap_and_no_broken_axis() -> None:
    run = RunCurve(2.0, 0, State.COMPLETE, (1, 2), (50.0, 100.0), (50.0, 100.0), (1.0, math.nan))
    figure = figures.training_loss(FOUND, Curves({1: [run]}), FOUND.plan.stages[0])
    assert '"y":[1.0,null]' in figure.to_json()
    assert figure.layout.yaxis.type == "log"


@pytest.mark.parametrize("count", [1, 2, 99, 200, 100_000])
def test_shown_points_are_few_and_hold_both_ends(count: int) -> None:
    points = shown_points(count)
    assert points == sorted(set(points))
    assert len(points) <= POINTS_OVERALL + POINTS_AT_END
    assert (points[0], points[-1]) == (0, count - 1)
    if count <= 50:
        assert len(points) == count


def test_of_many_candidates_and_seeds_a_bounded_choice_is_shown_the_best_among_them() -> None:
    truth: dict[float, float | list[float]] = {
        1 + i / 4: [20 - i % 60 + seed / 9 for seed in range(7)] for i in range(120)
    }
    snapshot = ended(stated(truth), k_max=30.75, k_cap=30.75, k_step=0.25, seeds=7)
    stage = snapshot.plan.stages[0]
    assert len(stage.candidates) == 120
    shown = shown_trials(snapshot, stage)
    assert len(shown) == MOST_CANDIDATES * MOST_SHOWN_SEEDS
    assert stage.best is not None
    assert {1.0, stage.best.k} <= {t.k for t in shown}
    assert all(len(figure.data) for figure in every_figure(snapshot))


# ---- epochs ---------------------------------------------------------------------------------


def test_epochs_by_k_adds_up_to_what_the_study_trained_and_saved() -> None:
    queue = MemoryQueue(spec(seeds=2), lambda t: pruned(t) if t.k == 3.0 else simulated(spec())(t))
    queue.play()
    queue.trials.append(trial(99, 2.0, candidate=1, state=State.FAILED, epochs=1, reason="error"))
    snapshot = seen(queue)
    figure = figures.epochs_by_k(snapshot, snapshot.plan.stages[0])
    sums = {trace.name: sum(trace.y) for trace in figure.data}
    assert sums == {"complete runs": 12, "runs ended early": 4, "failed attempts": 1,
                    "saved: ended early": 2}  # fmt: skip
    effort = effort_of(snapshot.trials, snapshot.spec.task.length)
    assert effort.trained == snapshot.epochs_trained == 17
    assert effort.saved == 2
    assert "seed 0: ended early after epoch 2 of 3" in figure.data[0].customdata[2]


# ---- any study ------------------------------------------------------------------------------


def begun() -> StudySnapshot:
    queue = MemoryQueue(spec())
    queue.reconcile()
    return seen(queue)


def running() -> StudySnapshot:
    queue = MemoryQueue(spec(), stated(ERRORS))
    queue.reconcile()
    queue.put(replace(queue.trials[0], state=State.RUNNING, epochs=1, averaged_error=50.0))
    return seen(queue)


VIEWS: dict[str, Callable[[], StudySnapshot]] = {
    "not begun": lambda: StudySnapshot(spec(), (), False),
    "queued": begun,
    "running": running,
    "one candidate": lambda: ended(stated({1.0: [9.0, 8.0]}), k_max=1.0, k_cap=1.0, seeds=2),
    "one run": lambda: ended(stated({1.0: 9.0}), k_max=1.0, k_cap=1.0, seeds=1),
    "failed": lambda: ended(failed),
    "sampler": lambda: ended(simulated(spec()), sampler="random", trials=4),
    "wide": lambda: ended(
        stated(dict.fromkeys([1.0, 50.0, 99.0], 9.0)), k_max=99.0, k_cap=99.0, k_step=49.0
    ),
    "two terms": lambda: TWO_TERMS,
}


@pytest.mark.parametrize("snapshot", VIEWS.values(), ids=VIEWS)
def test_every_figure_of_any_study_shows_something_or_says_why_not(
    snapshot: Callable[[], StudySnapshot],
) -> None:
    for figure in every_figure(snapshot()):
        if any(trace.x and trace.x != (None,) for trace in figure.data):
            assert figure.layout.xaxis.title.text
            assert figure.layout.yaxis.title.text
        else:
            assert "yet" in words(figure)
        assert "NaN" not in figure.to_json()


# ---- colours --------------------------------------------------------------------------------


def luminance(red: int, green: int, blue: int) -> float:
    """Relative luminance, WCAG 2."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in (red, green, blue))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_differ_by_k_and_stand_out_from_light_and_dark_pages() -> None:
    palette = Palette([Candidate(1 + i / 2) for i in range(12)])
    colours = [palette(1 + i / 2) for i in range(12)]
    assert len(set(colours)) == 12
    for colour in colours:
        own = luminance(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))
        for page in (LIGHT, DARK):
            light, dark = sorted((own, luminance(*page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 2.7


def test_a_k_has_one_colour_in_all_figures() -> None:
    palette, stage, curves = Palette.of(FOUND), FOUND.plan.stages[0], curves_of(FOUND)
    means = named(figures.error_by_k(FOUND, stage), "mean")
    assert list(means.marker.color) == [palette(k) for k in (1.0, 2.0, 3.0)]
    for figure in (figures.validation_error(FOUND, curves, stage),
                   figures.training_loss(FOUND, curves, stage)):  # fmt: skip
        for k in ERRORS:
            assert named(figure, f"k = {k:g}").line.color == palette(k)
    assert named(figures.schedules(FOUND), "found: k = 2").line.color == palette(2.0)
