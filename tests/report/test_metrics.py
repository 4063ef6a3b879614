"""What is shown of a study speaks in its metric's words, unit, digits and direction."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from typing import Any

import plotly.graph_objects as go
import pytest
from rich.console import Console, RenderableType

from kdecay_search.report import figures, metrics
from kdecay_search.report.charts import study_charts
from kdecay_search.report.contents import Facts
from kdecay_search.report.dashboard.note import confirmation_note, stage_note
from kdecay_search.report.page import report_page
from kdecay_search.report.summary import summarise
from kdecay_search.report.text import news, studies_table, study_panel
from kdecay_search.snapshot import StudySnapshot, overview
from kdecay_search.study.metric import Metric
from kdecay_search.study.trials import State
from tests.support.memory_studies import MemoryQueue, stated
from tests.support.metric_studies import (
    ACCURACIES,
    ACCURACY,
    LIKELIHOOD,
    LIKELIHOODS,
    LOSSES,
    NATS,
    RMSE,
    RMSES,
    STEPS,
    Values,
    curves_of,
    study_of,
)
from tests.support.snapshots import ended, seen, spec

NAN = math.nan
DIVERGING: Values = {**LOSSES, 3.0: [NAN, 2.8752, -math.inf]}
STUDIES: dict[str, tuple[StudySnapshot, Values]] = {
    "nats by steps": (study_of(NATS, LOSSES, STEPS, test=LOSSES), LOSSES),
    "accuracy": (study_of(ACCURACY, ACCURACIES, test=ACCURACIES), ACCURACIES),
    "falling far": (study_of(RMSE, RMSES), RMSES),
    "negative": (study_of(LIKELIHOOD, LIKELIHOODS), LIKELIHOODS),
    "diverging": (study_of(NATS, DIVERGING), DIVERGING),
}
each_study = pytest.mark.parametrize(("snapshot", "values"), STUDIES.values(), ids=STUDIES)


def rendered(shown: RenderableType, width: int = 160) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def page_of(snapshot: StudySnapshot) -> tuple[str, str]:
    """The words of a report on one line, without the study file, and its figures as JSON."""
    facts = Facts(snapshot, {}, datetime(2026, 5, 17, 12, 30, tzinfo=UTC))
    page = report_page(facts, curves_of(snapshot))
    body = page[page.index("<main>") : page.index("</main>")]
    body = re.sub(r"<pre>.*?</pre>", " ", body, flags=re.DOTALL)
    words = " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split()).replace("\xa0", " ")
    return words, " ".join(figure.to_json() for figure in drawn(snapshot))


def drawn(snapshot: StudySnapshot) -> list[go.Figure]:
    curves, stages = curves_of(snapshot), snapshot.plan.stages
    return [
        figures.schedules(snapshot),
        figures.differences(snapshot),
        *(figures.error_by_k(snapshot, stage) for stage in stages),
        *(figures.epochs_by_k(snapshot, stage) for stage in stages),
        *(figures.validation_error(snapshot, curves, stage) for stage in stages),
        *(figures.training_loss(snapshot, curves, stage) for stage in stages),
    ]


def notes(snapshot: StudySnapshot) -> str:
    texts = [stage_note(snapshot, stage, {}) for stage in snapshot.plan.stages]
    if snapshot.plan.confirmation is not None:
        texts.append(confirmation_note(snapshot, snapshot.plan.confirmation, {}))
    return "\n".join(texts)


def every_text(snapshot: StudySnapshot) -> dict[str, str]:
    words, drawings = page_of(snapshot)
    charts = study_charts(snapshot, 160)
    assert charts is not None
    return {
        "status": rendered(study_panel(snapshot)) + rendered(charts),
        "news": "\n".join(news(None, snapshot)),
        "list": rendered(studies_table([overview(snapshot)])),
        "report": words,
        "figures": drawings,
        "note": notes(snapshot),
        "JSON": json.dumps(summarise(snapshot), allow_nan=False),
    }


# ---- words and units ----------------------------------------------------------------------------


@each_study
def test_no_text_speaks_of_percent_points_or_an_error(
    snapshot: StudySnapshot, values: Values
) -> None:
    for where, text in every_text(snapshot).items():
        without = re.sub(r"95 % interval|four of five", "", text)
        without = without.replace("standard error", "")
        assert " %" not in re.sub(r" %\{", "", without), where
        assert not re.search(r"\bpoints\b", without), where
        if where != "JSON":  # whose keys stay
            assert not re.search(r"\berrors?\b(?!\")", without), where
        unit = snapshot.spec.task.metric.unit
        if unit and where != "news":
            assert unit in text, where


@each_study
def test_every_value_is_shown_as_it_was_reported_with_digits_enough(
    snapshot: StudySnapshot, values: Values
) -> None:
    decimals = snapshot.plan.format.decimals
    texts = every_text(snapshot)
    for of_k in values.values():
        for value in of_k:
            shown = f"{value:.{decimals}f}" if math.isfinite(value) else "diverged"
            for where in ("status", "report", "news"):
                assert shown.replace("-", "−") in texts[where].replace("-", "−"), where
    for seed in range(3):
        shown = {f"{of_k[seed]:.{decimals}f}" for of_k in values.values()}
        assert len(shown) == len(values), "no two values of a seed look alike"


@each_study
def test_json_has_the_metric_and_natural_values(snapshot: StudySnapshot, values: Values) -> None:
    summary, metric = summarise(snapshot), snapshot.spec.task.metric
    assert summary["metric"] == {
        "name": metric.name,
        "direction": metric.direction,
        "unit": metric.unit,
        "decimals": snapshot.plan.format.decimals,
    }
    for candidate in summary["stages"][0]["candidates"]:
        finite = {s: v for s, v in enumerate(values[candidate["k"]]) if math.isfinite(v)}
        assert candidate["errors"] == list(finite.values())
        assert candidate["seeds"] == list(finite)
        assert candidate["diverged"] == 3 - len(finite)
        assert candidate["mean"] == pytest.approx(sum(finite.values()) / len(finite))
    means = [sum(of_k) / 3 for of_k in (values[1.0], values[2.0])]
    assert summary["baseline"]["mean"] == pytest.approx(means[0])
    assert summary["error"]["mean"] == pytest.approx(means[1])
    assert summary["gain"]["mean"] == pytest.approx(abs(means[0] - means[1]))
    assert summary["verdict"]["outcome"] == "better"


@each_study
def test_figures_have_the_metric_s_axis_and_the_best_on_its_side(
    snapshot: StudySnapshot, values: Values
) -> None:
    stage, metric = snapshot.plan.stages[0], snapshot.spec.task.metric
    figure = figures.error_by_k(snapshot, stage)
    assert figure.layout.yaxis.title.text == metric.label
    means = next(trace for trace in figure.data if trace.name == "mean")
    heights = dict(zip(means.x, means.y, strict=True))
    best = max(heights.values()) if metric.direction == "max" else min(heights.values())
    assert heights[2.0] == best == pytest.approx(sum(values[2.0]) / 3)
    curve = next(trace for trace in figure.data if trace.name == "smooth curve")
    assert all(low <= at <= high for at, (low, high) in zip(curve.y, curve.customdata, strict=True))
    curves = figures.validation_error(snapshot, curves_of(snapshot), stage)
    assert curves.layout.yaxis.title.text == metric.label
    last = [trace.y[-1] for trace in curves.data if trace.name == "k = 2 · seed 0"]
    assert values[2.0][0] in [pytest.approx(y) for y in last]


def test_of_a_maximised_metric_outliers_stand_at_the_lower_edge() -> None:
    snapshot = study_of(ACCURACY, {**ACCURACIES, 3.0: [0.922, 0.05, 0.929]})
    figure = figures.error_by_k(snapshot, snapshot.plan.stages[0])
    seeds = next(trace for trace in figure.data if trace.name == "each seed")
    at = [value for _, value in seeds.customdata].index(0.05)
    assert seeds.y[at] == min(seeds.y) > 0.9
    assert seeds.marker.symbol[at] == "triangle-down"
    charts = study_charts(snapshot, 160)
    assert charts is not None
    assert "1 below" in rendered(charts)


def test_figures_of_the_dashboard_keep_all_decimals_of_large_values() -> None:
    snapshot = study_of(
        {"name": "RMSE", "decimals": 3}, {k: [98765.0 + v for v in vs] for k, vs in LOSSES.items()}
    )
    assert metrics.significant_digits(snapshot) == 8


# ---- divergence ---------------------------------------------------------------------------------


def test_runs_that_diverged_are_named_everywhere() -> None:
    snapshot = STUDIES["diverging"][0]
    texts = every_text(snapshot)
    (row,) = [row for row in texts["status"].splitlines() if row.strip().startswith("3  div")]
    assert row.split()[1] == row.split()[3] == "diverged"
    assert row.rstrip().endswith("2 diverged")
    sentence = "Runs have diverged: 2 of k = 3. They rank worst and count in no mean."
    for where in ("status", "report", "note"):
        assert sentence in texts[where], where
    figure = figures.error_by_k(snapshot, snapshot.plan.stages[0])
    crosses = next(trace for trace in figure.data if trace.name == "diverged")
    assert list(crosses.text) == ["k = 3 · seed 0", "k = 3 · seed 2"]
    drawn_seeds = next(trace for trace in figure.data if trace.name == "each seed")
    assert min(crosses.y) > max(drawn_seeds.y)


def test_a_run_that_diverged_does_not_flatten_the_curves_of_the_others() -> None:
    snapshot = STUDIES["diverging"][0]
    figure = figures.validation_error(snapshot, curves_of(snapshot), snapshot.plan.stages[0])
    assert figure.layout.yaxis.range[1] < 10
    assert max(y for trace in figure.data for y in trace.y or () if y is not None) > 1000
    marked = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert {trace.name for trace in marked} == {"k = 3 · seed 0", "k = 3 · seed 2"}
    assert all(", diverged<br>" in trace.hovertemplate for trace in marked)
    assert all(math.isfinite(trace.y[-1]) for trace in marked if trace.y)
    assert "where a run was ended early or diverged" in page_of(snapshot)[0]


def test_a_run_that_blew_up_to_a_finite_value_counts_as_diverged() -> None:
    """It ended worse than it began, and a thousand times as high as any other."""
    snapshot = study_of(NATS, LOSSES)
    trials = [
        replace(trial, error=3000.0, worsened=True)
        if (trial.k, trial.key.seed) == (3.0, 1)
        else trial
        for trial in snapshot.trials
    ]
    shown = StudySnapshot(snapshot.spec, trials, stopped=False)
    (line,) = [line for line in rendered(study_panel(shown)).splitlines() if "1 diverged" in line]
    assert line.split()[2] == "diverged"
    assert "A run of k = 3 has diverged. It ranks worst and counts in no mean." in page_of(shown)[0]
    figure = figures.validation_error(shown, curves_of(shown), shown.plan.stages[0])
    assert figure.layout.yaxis.range[1] < 10
    assert figure.layout.yaxis2.range[1] < 10
    assert {t.name for t in figure.data if t.mode == "lines+markers"} == {"k = 3 · seed 1"}


def test_a_study_in_which_every_run_diverged_says_so() -> None:
    snapshot = study_of(NATS, dict.fromkeys((1.0, 2.0, 3.0), [NAN] * 3))
    texts = every_text_without_charts(snapshot)
    assert "All complete runs have diverged." in texts["status"]
    (figure,) = (figures.error_by_k(snapshot, stage) for stage in snapshot.plan.stages)
    assert figure.layout.annotations[0].text == "Every run of stage 1 has diverged."
    assert json.loads(texts["JSON"])["error"] == {"mean": None, "sd": None, "n": 0, "diverged": 3}


def every_text_without_charts(snapshot: StudySnapshot) -> dict[str, str]:
    return {
        "status": rendered(study_panel(snapshot)),
        "report": page_of(snapshot)[0],
        "note": notes(snapshot),
        "JSON": json.dumps(summarise(snapshot), allow_nan=False),
    }


def test_diverged_runs_of_a_confirmation_are_counted_in_its_table() -> None:
    snapshot = study_of(NATS, LOSSES, test={**LOSSES, 1.0: [2.8741, NAN, 2.8702]})
    assert "1 diverged" in rendered(study_panel(snapshot))
    assert "1 diverged" in notes(snapshot)
    rows = summarise(snapshot)["confirm"]["rows"]
    assert {row["schedule"]: row["diverged"] for row in rows}["original"] == 1


# ---- forecasts ----------------------------------------------------------------------------------


def test_the_chance_of_a_candidate_without_a_run_is_called_a_forecast() -> None:
    queue = MemoryQueue(spec(), stated({1.0: 10.0, 2.0: 8.0, 3.0: 9.0}))
    queue.reconcile()
    for waiting in queue.waiting:
        if waiting.k != 3.0:
            queue.put(queue.outcome(waiting))
    snapshot = seen(queue)
    (row,) = [c for c in snapshot.plan.stages[0].candidates if c.k == 3.0]
    assert not row.errors
    assert row.probability is not None
    shown = f"forecast {row.probability:.0%}"
    why = "P(best) is a forecast, by the smooth curve through the others' runs"
    for where, text in every_text_without_charts(snapshot).items():
        if where != "JSON":
            assert text.count("forecast ") == 1, where
            assert shown in text, where
            assert why in text, where
    candidates = summarise(snapshot)["stages"][0]["candidates"]
    assert [candidate["forecast"] for candidate in candidates] == [False, False, True]
    finished = ended(stated({1.0: 10.0, 2.0: 8.0, 3.0: 9.0}))
    assert "forecast" not in rendered(study_panel(finished))


# ---- steps --------------------------------------------------------------------------------------


def test_a_study_that_counts_steps_speaks_of_steps() -> None:
    """2,000 steps with a report every 300: the seventh, of 200 steps, is the last."""
    snapshot = STUDIES["nats by steps"][0]
    texts = every_text(snapshot)
    for where, text in texts.items():
        assert "epoch" not in text.lower(), where
    assert "steps: 36,000 of 36,000 planned" in texts["status"]
    assert "2,000 steps" in texts["status"]
    assert "It took 36,000 steps in 18 trials." in texts["report"]
    assert json.loads(texts["JSON"])["steps"] == {"trained": 36_000, "planned": 36_000}
    assert json.loads(texts["JSON"])["schedule"]["warmup_steps"] == 0
    figure = figures.validation_error(snapshot, curves_of(snapshot), snapshot.plan.stages[0])
    assert figure.layout.xaxis.title.text == "step"
    assert tuple(figure.layout.xaxis.range) == (0, 2000)
    whole = next(trace for trace in figure.data if trace.name == "k = 2 · seed 0")
    assert whole.x == (300, 600, 900, 1200, 1500, 1800, 2000)


def test_what_was_ended_early_is_stated_in_steps() -> None:
    snapshot = study_of(NATS, LOSSES, STEPS)
    *others, last = snapshot.trials
    early = replace(last, state=State.PRUNED, error=None, epochs=3)
    shown = StudySnapshot(snapshot.spec, (*others, early), stopped=False)
    assert news(None, shown)[-2].endswith("pruned after 900 steps")
    assert summarise(shown)["steps"] == {"trained": 8 * 2000 + 900, "planned": 18_000}


def test_a_metric_s_name_is_shown_and_never_obeyed() -> None:
    metric = {"name": "a [/b] | <script>alert(1)</script>", "unit": "[/x]"}
    snapshot = study_of(metric, LOSSES, test=LOSSES)
    panel = rendered(study_panel(snapshot), 300) + rendered(
        studies_table([overview(snapshot)]), 300
    )
    assert panel.count("[/b] | <script>alert(1)</script>") == 3
    mixed = [overview(snapshot), overview(STUDIES["accuracy"][0])]
    assert "[/x]" in rendered(studies_table(mixed), 300)
    page, text = page_of(snapshot)[0], notes(snapshot)
    assert "<script>alert" in page, "as text: what was escaped is a reader's again"
    assert "<" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(columns) == 1


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "word", "test", "begins"),
    [
        ("validation error", "error", "test error", "Validation error"),
        ("validation loss", "loss", "test loss", "Validation loss"),
        ("mAP", "mAP", "mAP on the test set", "mAP"),
        ("perplexity", "perplexity", "perplexity on the test set", "Perplexity"),
        ("R²", "R²", "R² on the test set", "R²"),
    ],
)
def test_a_metric_has_the_names_that_a_sentence_needs(
    name: str, word: str, test: str, begins: str
) -> None:
    metric = Metric(name=name)
    assert metrics.word(metric) == word
    assert metrics.test_name(metric) == test
    assert metrics.capitalised(name) == begins


@pytest.mark.parametrize("names", [["nats by steps", "accuracy"], ["accuracy", "negative"]])
def test_a_list_of_unlike_metrics_states_each(names: list[str]) -> None:
    shown: list[Mapping[str, Any]] = [overview(STUDIES[name][0]) for name in names]
    text = rendered(studies_table(shown))
    assert text.split()[:6] == ["study", "state", "best", "schedule", "metric", "value"]
    for each in shown:
        (row,) = [row for row in text.splitlines() if each["metric"]["name"] in row]
        assert each["metric"]["unit"] in row
    old = overview(ended(stated({1.0: 10.0, 2.0: 8.0, 3.0: 9.0})))
    del old["metric"]
    assert "error, %" in rendered(studies_table([old])), "noted before studies had metrics"
