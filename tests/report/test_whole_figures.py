"""Figures, charts and the page of a search of whole schedules."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from rich.console import Console

from kdecay_search.errors import KDecayError
from kdecay_search.report import figures
from kdecay_search.report.charts import study_charts
from kdecay_search.report.contents import Facts
from kdecay_search.report.curves import shown_trials
from kdecay_search.report.dashboard import artifacts
from kdecay_search.report.dashboard import figures as cards
from kdecay_search.report.dashboard.note import stage_note
from kdecay_search.report.page import planes_of, report_page
from kdecay_search.report.whole import featured, lateness
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.trials import State
from tests.support.joint_studies import COOLED, RUNS, joint
from tests.support.joint_studies import whole as candidate
from tests.support.memory_studies import failed
from tests.support.metric_studies import curves_of
from tests.support.snapshots import ended

FOUND = "k = 4.1, N = 1.1 at lr_max 0.21, lr_min 1 %"
COOLDOWN = "cooldown over 30 % at lr_max 0.22, lr_min 1 %"


def named(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def page(snapshot: StudySnapshot) -> str:
    return report_page(Facts(snapshot, {}, datetime.now(UTC)), curves_of(snapshot))


def test_lateness_is_k_where_a_schedule_is_one_minus_u_to_the_k() -> None:
    assert lateness(candidate(k=4.0)) == pytest.approx(4.0)
    half = math.log(0.5) / math.log1p(-0.3 * 0.75)  # 1 - sqrt(v) is a half at v = 1/4
    assert lateness(candidate("cooldown", decay_share=0.3)) == pytest.approx(half)


def test_the_plane_has_every_candidate_at_its_level_and_lateness() -> None:
    snapshot = joint()
    shown = figures.plane(snapshot, snapshot.plan.stages[0])
    assert shown is not None
    points = [t for t in shown.data if t.name in ("polynomial", "cosine", "cooldown")]
    at = {(x, y) for trace in points for x, y in zip(trace.x, trace.y, strict=True)}
    assert at == {(lateness(point), point.lr_max) for point, _ in RUNS}
    best = named(shown, "<b>best</b>")
    assert (best.x[0], best.y[0]) == (lateness(RUNS[-1][0]), 0.21)
    cooldowns = named(shown, "cooldown")
    assert any(text.startswith(f"<b>{COOLDOWN}</b>") for text in cooldowns.text)
    sizes = dict(zip(cooldowns.y, cooldowns.marker.size, strict=True))
    assert sizes[0.22] > sizes[0.1], "three runs, and one"
    colours = dict(zip(named(shown, "polynomial").y, named(shown, "polynomial").marker.color))  # noqa: B905
    assert colours[0.21] < colours[0.05]
    surface = named(shown, "smooth surface")
    lowest = min((z, y) for y, row in zip(surface.y, surface.z, strict=True) for z in row)
    assert 0.1 < lowest[1] < 0.4, "the level 0.2 is the best"


def test_the_plane_of_a_cooldown_is_drawn_along_its_length() -> None:
    snapshot = joint(COOLED)
    shown = figures.plane(snapshot, snapshot.plan.stages[0])
    surface = named(shown, "smooth surface")
    assert min(surface.x) == pytest.approx(0.5), "that of a decay over the whole training"
    assert list(surface.x) == sorted(surface.x)


def test_a_fixed_level_is_replaced_by_what_is_searched() -> None:
    snapshot = joint()
    one_level = tuple(
        replace(t, request=replace(t.request, point=t.point._replace(lr_max=0.1)))
        for t in snapshot.trials
        if t.point is not None
    )
    fixed = StudySnapshot(snapshot.spec, one_level, stopped=False)
    shown = figures.plane(fixed, fixed.plan.stages[0])
    assert shown is not None
    assert shown.layout.yaxis.title.text == "N"


def test_plot_draws_the_plane_of_a_search_of_whole_schedules() -> None:
    snapshot = joint()
    (shown,) = planes_of(snapshot)
    assert shown.to_json() == figures.plane(snapshot, snapshot.plan.stages[0]).to_json()


def test_a_grid_has_no_plane() -> None:
    with pytest.raises(KDecayError, match="has no searched plane"):
        planes_of(ended(lambda trial: replace(trial, state=State.COMPLETE, error=5.0)))


def test_errors_stand_at_the_lateness_of_their_candidates() -> None:
    snapshot = joint()
    shown = figures.error_by_k(snapshot, snapshot.plan.stages[0])
    runs = named(shown, "each seed")
    assert len(runs.x) == sum(count for _, count in RUNS)
    means = named(shown, "mean, cooldown")
    assert set(means.x) == {lateness(p) for p, _ in RUNS if p.family == "cooldown"}
    assert any(text.startswith(f"{FOUND} · seed 2") for text in runs.text)


def test_a_diverged_run_is_a_cross() -> None:
    snapshot = joint()
    *rest, last = snapshot.trials
    lost = replace(last, error=math.inf)
    shown_of = StudySnapshot(snapshot.spec, (*rest, lost), stopped=False)
    cross = named(figures.error_by_k(shown_of, shown_of.plan.stages[0]), "diverged")
    assert len(cross.x) == 1
    assert "A run of k = 4.1, N = 1.1" in page(shown_of).replace("\u00a0", " ")


def test_curves_are_of_the_best_and_of_the_usual_schedules_with_their_own_colours() -> None:
    snapshot = joint(COOLED)
    stage = snapshot.plan.stages[0]
    names = featured(stage)
    assert names[0] == RUNS[5][0]
    assert {t.point for t in shown_trials(snapshot, stage)} == set(names)
    drawn = figures.validation_error(snapshot, curves_of(snapshot), stage)
    legend = {t.name: t.line.color for t in drawn.data if t.name and "seed" not in t.name}
    assert COOLDOWN in legend
    colours = [legend[name] for name in legend if "at lr_max" in name]
    assert len(set(colours)) == len(colours) == len(names)
    schedules = named(figures.schedules(snapshot), f"found: {COOLDOWN}")
    assert schedules.line.color == legend[COOLDOWN]


def test_the_schedules_are_those_that_were_tuned() -> None:
    names = [trace.name for trace in figures.schedules(joint()).data]
    assert names == [
        COOLDOWN,
        "cosine k = 1 at lr_max 0.25, lr_min 1 %",
        "original: k = 1 at lr_max 0.2, lr_min 2 %",
        f"found: {FOUND}",
    ]


def test_effort_is_numbered_from_the_best_on() -> None:
    snapshot = joint()
    shown = figures.epochs_by_k(snapshot, snapshot.plan.stages[0])
    (bars,) = shown.data
    assert list(bars.x) == list(range(1, len(RUNS) + 1))
    assert bars.customdata[0].startswith(f"<br>{FOUND}")
    assert sum(bars.y) == snapshot.epochs_trained


@pytest.mark.parametrize("runs", [None, 9, 1])
def test_the_page_stands_at_any_time(runs: int | None) -> None:
    text = page(joint(COOLED, runs=runs)).replace("\u00a0", " ")
    assert "cooldown" in text
    assert "Usual schedules, equally tuned" in text
    assert "What was searched" in text


def test_the_page_stands_without_a_result() -> None:
    snapshot = joint()
    assert "No run is complete yet" in page(StudySnapshot(snapshot.spec, (), stopped=False))
    lost = StudySnapshot(snapshot.spec, tuple(map(failed, snapshot.trials[:2])), stopped=False)
    assert "stage 1, k = 1 at lr_max 0.2, lr_min 2 %, seed 0" in page(lost).replace("\u00a0", " ")


def test_the_page_s_figures_are_json() -> None:
    text = page(joint())
    start = text.index("[", text.index('type="application/json"'))
    assert "NaN" not in text[start : text.index("</script>", start)]
    assert json.loads(text[start : text.index("</script>", start)])


def test_the_charts_place_whole_schedules_by_lateness() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(study_charts(joint(COOLED), 100))
    assert study_charts(joint(COOLED, runs=1), 100) is not None
    text = console.export_text()
    assert "validation error against k of equal half-time" in text
    assert "── cooldown over 30 %" in text


# ---- the dashboard ---------------------------------------------------------------------------


def test_the_note_has_the_candidates_the_usual_schedules_and_the_budget() -> None:
    snapshot = joint(COOLED, max_terms=2)
    note = stage_note(snapshot, snapshot.plan.stages[0], {1: 1})
    assert "### Stage 1 of `joint`: whole schedules" in note
    assert f"Done: found {COOLDOWN}." in note
    assert "Of the budget, 20 of 20 trainings are spent." in note
    assert "| cooldown |  |  | 30 % | 0.22 | 1 % |" in note
    assert "| cosine | lr_max 0.25, lr_min 1 % | 3 |" in note
    assert "No further term was tried: a cooldown has none." in note


def test_the_dashboard_has_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = joint(COOLED)
    monkeypatch.setattr(cards, "read_curves", lambda storage, of: curves_of(of))
    drawn = cards.stage_figures(cast("Any", None), snapshot)[1]
    assert next(iter(drawn)) == "plane"
    assert drawn["plane"].layout.title.text == "The searched plane, by validation error"
    assert drawn["error-by-k"].layout.title.text.endswith("against k of equal half-time")


def test_the_files_of_a_cooldown_are_named_by_its_length() -> None:
    names = [name for name, _ in artifacts._files(joint(COOLED))]
    assert names == ["joint-cooldown-0.3.py", "joint-cooldown-0.3.json"]
