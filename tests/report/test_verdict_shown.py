"""A study's verdict is the same, word for word, wherever it is shown."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from rich.console import Console

from kdecay_search.report import contents, figures
from kdecay_search.report.contents import Facts
from kdecay_search.report.curves import Curves
from kdecay_search.report.dashboard.note import confirmation_note, stage_note
from kdecay_search.report.page import report_page, tidy
from kdecay_search.report.summary import summarise
from kdecay_search.report.text import study_panel
from kdecay_search.search.verdict import Outcome
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.study.spec import FIRST_CONFIRMATION_SEED
from kdecay_search.study.trials import Trial
from tests.support.memory_studies import MemoryQueue, completed, failed, simulated, stated, study
from tests.support.snapshots import ended, seen, spec

BETTER = stated({1.0: [10.0, 12.0, 11.0], 2.0: [8.0, 10.1, 8.9], 3.0: [9.0, 11.0, 10.0]})
UNCLEAR = stated({1.0: [10.0, 12.0, 11.0], 2.0: [8.0, 12.5, 11.2], 3.0: 20.0})
SECOND = stated(
    {1.0: [10.0, 12.0, 11.0], 2.0: [9.0, 11.1, 10.0], 3.0: [9.5, 11.6, 10.5]},
    {3.0: [8.0, 10.1, 8.9]},
)


def running() -> StudySnapshot:
    queue = MemoryQueue(spec(), BETTER)
    queue.reconcile()
    queue.work(6)
    return seen(queue)


def confirmed(found: list[float], original: list[float], runs: int | None = None) -> StudySnapshot:
    """A study whose search finds k = 2, and these errors on the test set."""

    def outcome(waiting: Trial) -> Trial:
        if waiting.request.comparator is None:
            return BETTER(waiting)
        table = found if waiting.request.comparator == "found" else original
        return completed(waiting, table[waiting.key.seed - FIRST_CONFIRMATION_SEED])

    search = {"k_max": 3.0, "k_cap": 3.0, "k_step": 1.0, "max_terms": 1, "min_gain": 0.0}
    queue = MemoryQueue(study(search=search, confirm={"seeds": 3}), outcome)
    if runs is None:
        queue.play()
    else:
        queue.reconcile()
        queue.work()
        queue.reconcile()
        queue.work(runs)
    return seen(queue)


STUDIES: dict[str, tuple[Callable[[], StudySnapshot], Outcome]] = {
    "not begun": (lambda: StudySnapshot(spec(), (), False), Outcome.TOO_FEW_RUNS),
    "running": (running, Outcome.BETTER),
    "better": (lambda: ended(BETTER), Outcome.BETTER),
    "unclear": (lambda: ended(UNCLEAR), Outcome.NO_DIFFERENCE),
    "original": (
        lambda: ended(stated({1.0: [10.0, 12.0, 11.0], 2.0: 20.0, 3.0: 30.0})),
        Outcome.NO_DIFFERENCE,
    ),
    "one seed": (lambda: ended(BETTER, seeds=1), Outcome.TOO_FEW_RUNS),
    "two terms": (lambda: ended(SECOND, max_terms=2), Outcome.BETTER),
    "failed": (lambda: ended(failed), Outcome.TOO_FEW_RUNS),
    "without the original": (
        lambda: ended(lambda waiting: failed(waiting) if waiting.k == 1.0 else BETTER(waiting)),
        Outcome.TOO_FEW_RUNS,
    ),
    "simulated": (lambda: ended(simulated(spec())), Outcome.BETTER),
}
CONFIRMED: dict[str, tuple[Callable[[], StudySnapshot], Outcome]] = {
    "better": (
        lambda: confirmed([8.0, 9.1, 10.0], [10.0, 11.0, 12.1]),
        Outcome.BETTER,
    ),
    "worse": (lambda: confirmed([10.0, 11.0, 12.1], [8.0, 9.1, 10.0]), Outcome.WORSE),
    "unclear": (
        lambda: confirmed([9.0, 10.5, 12.0], [10.0, 10.0, 12.1]),
        Outcome.NO_DIFFERENCE,
    ),
    "under way": (
        lambda: confirmed([8.0, 9.1, 10.0], [10.0, 11.0, 12.1], runs=2),
        Outcome.TOO_FEW_RUNS,
    ),
}


def terminal(snapshot: StudySnapshot) -> str:
    console = Console(record=True, width=500, file=io.StringIO())
    console.print(study_panel(snapshot))
    return console.export_text()


def facts(snapshot: StudySnapshot) -> Facts:
    return Facts(snapshot, {}, datetime(2026, 5, 17, 12, 30, tzinfo=UTC))


def report(snapshot: StudySnapshot) -> str:
    """What a reader sees, as one line."""
    page = report_page(facts(snapshot), Curves({}))
    body = page[page.index("<main>") : page.index("</main>")]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def on_page(sentence: str) -> str:
    """As :func:`report` shows it: tidied."""
    return " ".join(tidy(sentence).split())


@pytest.mark.parametrize(("make", "outcome"), STUDIES.values(), ids=STUDIES)
def test_terminal_report_note_and_json_show_one_verdict(
    make: Callable[[], StudySnapshot], outcome: Outcome
) -> None:
    snapshot = make()
    verdict = snapshot.verdict
    assert verdict.outcome == outcome
    assert verdict.sentence in terminal(snapshot)
    assert on_page(verdict.sentence) in report(snapshot)
    for stage in snapshot.plan.stages:
        assert verdict.sentence in stage_note(snapshot, stage, {})
    assert summarise(snapshot)["verdict"] == {
        "sentence": verdict.sentence,
        "outcome": str(outcome),
        "of": verdict.of,
        "against": verdict.against,
        "estimate": verdict.estimate,
        "interval95": list(verdict.interval) if verdict.interval else None,
        "model": str(verdict.model) if verdict.model else None,
        "pairs": verdict.pairs,
    }


@pytest.mark.parametrize(("make", "outcome"), STUDIES.values(), ids=STUDIES)
def test_the_numbers_of_a_report_are_the_verdicts(
    make: Callable[[], StudySnapshot], outcome: Outcome
) -> None:
    snapshot = make()
    verdict, shown = snapshot.verdict, contents.of(facts(snapshot))
    highlights, table = dict(shown["highlights"]), shown["table"]
    if verdict.estimate is None:
        assert "gain on k = 1" not in highlights
        assert (table["gain"], table["interval"], table["by"]) == ("–", "", "")
        return
    assert table["gain"] == f"{verdict.estimate:.2f}"
    if verdict.interval is None:
        assert (outcome, table["interval"]) == (Outcome.TOO_FEW_RUNS, "")
    else:
        assert table["interval"] == f"{verdict.interval[0]:.2f} to {verdict.interval[1]:.2f}"
    if outcome == Outcome.BETTER:
        assert highlights["gain on k = 1"] == f"+{verdict.estimate:.2f} points"
    else:
        assert highlights["gain on k = 1"] == "not clear"


@pytest.mark.parametrize(("make", "outcome"), CONFIRMED.values(), ids=CONFIRMED)
def test_all_of_them_show_one_verdict_of_the_confirmation(
    make: Callable[[], StudySnapshot], outcome: Outcome
) -> None:
    snapshot = make()
    verdict, confirmation = snapshot.confirmed, snapshot.plan.confirmation
    assert verdict is not None
    assert confirmation is not None
    assert verdict.outcome == outcome
    assert verdict.sentence in terminal(snapshot)
    assert on_page(verdict.sentence) in report(snapshot)
    assert verdict.sentence in confirmation_note(snapshot, confirmation, {})
    found = summarise(snapshot)["confirm"]
    assert found["sentence"] == verdict.sentence
    assert found["verdict"] == (str(outcome) if confirmation.is_over else None)
    highlights = dict(contents.of(facts(snapshot))["highlights"])
    if confirmation.is_over:
        assert highlights["gain on k = 1"] == verdict.gain
        assert "test error" in highlights
    else:
        assert highlights["gain on k = 1"] == snapshot.verdict.gain
        assert "validation error" in highlights


def test_a_best_row_that_another_seems_to_beat_is_explained_everywhere() -> None:
    """k = 3 has the lowest mean, of one run on an easy seed."""
    errors: Any = {1.0: [10.0, 12.0, 11.0], 2.0: [8.0, 10.1, 8.9], 3.0: [8.2, None, None]}

    def outcome(waiting: Trial) -> Trial:
        error = errors[waiting.k][waiting.key.seed]
        return failed(waiting) if error is None else completed(waiting, error)

    snapshot = ended(outcome)
    (stage,) = snapshot.plan.stages
    why = stage.why_best(snapshot.spec.task.metric)
    assert why is not None
    assert "the mean of k = 3 is lower" in why
    assert why in terminal(snapshot)
    assert on_page(why) in report(snapshot)
    assert why in stage_note(snapshot, stage, {})
    plain = ended(BETTER)
    assert plain.plan.stages[0].why_best(plain.spec.task.metric) is None
    assert "lowest point of the smooth curve" not in terminal(plain)
    assert figures.error_by_k(snapshot, stage).data
