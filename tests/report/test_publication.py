"""What is published of a study in Optuna's dashboard, and what is left as it is."""

from __future__ import annotations

import json
from typing import Any

import optuna
import optuna_dashboard
import plotly.graph_objects as go
import pytest
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import note_ver_key

from kdecay_search import reconcile
from kdecay_search.errors import StudyError
from kdecay_search.report.dashboard import publication
from kdecay_search.report.dashboard.publication import Outcome, Page, publish, write_page
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.trials import CONFIRMATION
from tests.report.dashboards import (
    FIGURES,
    attributes,
    figures,
    launched,
    note,
    rows,
    seen,
    work,
)
from tests.support.memory_studies import study


@pytest.fixture
def study_id(storage: Storage, name: str) -> int:
    return records.create_stage(storage, name, 1)


def titled(text: str) -> go.Figure:
    return go.Figure(layout={"title": {"text": text}})


def write(storage: Storage, name: str, page: Page) -> None:
    write_page(storage, records.stage_name(name, 1), page)


# ---- one page -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*experimental")
@pytest.mark.parametrize("length", [1, 2044, 2045, 2046, 9000])
def test_a_page_is_what_the_dashboard_s_own_functions_write(
    storage: Storage, name: str, study_id: int, length: int
) -> None:
    text = ("# Nöte \\ \"%s\" 'x' " * 500)[:length]
    write(storage, name, Page("validation error, %", text, {"a-b.c_1": titled(text)}))
    theirs = optuna.create_study()
    theirs.set_metric_names(["validation error, %"])
    optuna_dashboard.save_note(theirs, text)
    optuna_dashboard.save_plotly_graph_object(theirs, titled(text), graph_object_id="a-b.c_1")
    expected = theirs._storage.get_study_system_attrs(theirs._study_id)
    ours = attributes(storage, study_id)
    assert {key: ours[key] for key in ours if not key.startswith("kdecay:")} == expected


def test_a_shorter_page_leaves_nothing_of_the_longer_one(
    storage: Storage, name: str, study_id: int
) -> None:
    for text in ("long " * 2000, "short", "middle " * 500, ""):
        write(storage, name, Page("error", text, {"one": titled(text)}))
        assert note(storage, name) == text
        (shown,) = figures(storage, name).values()
        assert shown["layout"]["title"]["text"] == text


def test_writing_the_same_page_again_changes_no_row(own: Storage, name: str) -> None:
    records.create_stage(own, name, 1)
    page = Page("error", "note " * 1000, {"one": titled("1" * 3000)})
    write(own, name, page)
    before = rows(own)
    write(own, name, page)
    assert rows(own) == before
    pieces = 1 + 3 + len(page.figures["one"].to_json()) // 2045 + 1
    assert len(before) == 4 + pieces, "objective, version and pieces; what was written last"


def test_only_figures_that_changed_are_written(own: Storage, name: str) -> None:
    records.create_stage(own, name, 1)
    write(own, name, Page("error", "note", {"one": titled("1"), "two": titled("2")}))
    before = rows(own)
    write(own, name, Page("error", "note", {"one": titled("1"), "two": titled("3")}))
    changed = {key for _, key, _ in rows(own) - before}
    assert changed == {publication.FIGURES, "dashboard:plot_data:two:0"}


def test_a_note_that_somebody_edited_is_kept(storage: Storage, name: str, study_id: int) -> None:
    write(storage, name, Page("error", "ours", {}))
    optuna_dashboard.save_note(seen(storage, name), "theirs")
    for newer in ("ours, newer", "newest"):
        write(storage, name, Page("error", newer, {"f": titled("1")}))
        assert note(storage, name) == "theirs"
    assert set(figures(storage, name)) == {"f"}


def test_a_note_that_somebody_wrote_before_us_is_kept(
    storage: Storage, name: str, study_id: int
) -> None:
    optuna_dashboard.save_note(seen(storage, name), "theirs")
    write(storage, name, Page("error", "ours", {}))
    assert note(storage, name) == "theirs"


def test_the_version_of_a_note_is_where_the_dashboard_keeps_it() -> None:
    assert note_ver_key(None) == publication.SHOWN_VERSION


class Killed(BaseException):
    """Ends a process where it stands."""


def written_until_killed(
    storage: Storage, name: str, page: Page, writes: int, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Write the page, but be killed after so many rows; return whether that came to pass."""
    left = [writes]
    write_row = storage.rdb.set_study_system_attr

    def write_or_die(*arguments: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        write_row(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(storage.rdb, "set_study_system_attr", write_or_die)
        try:
            write(storage, name, page)
        except Killed:
            return True
    return False


BLIND = 2
"""Rows after which a user's edit is taken for ours: the version that the note is going to have is
recorded, and the note does not have it yet."""


@pytest.mark.parametrize("edited", [False, True], ids=["ours", "edited"])
def test_a_process_killed_between_any_two_rows_is_made_good(
    storage: Storage, name: str, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a note that a user edits after that is kept."""
    old = Page("error", "old " * 1100, {"one": titled("old " * 1100)})
    new = Page("error", "new! " * 500, {"one": titled("new! " * 500)})
    for writes in range(100):
        each = f"{name}-{writes}"
        records.create_stage(storage, each, 1)
        write(storage, each, old)
        killed = written_until_killed(storage, each, new, writes, monkeypatch)
        if edited:
            optuna_dashboard.save_note(seen(storage, each), "theirs")
        write(storage, each, new)
        kept = edited and writes != BLIND
        assert note(storage, each) == ("theirs" if kept else new.note), writes
        (shown,) = figures(storage, each).values()
        assert shown["layout"]["title"]["text"] == "new! " * 500
        if not killed:
            assert writes > 8
            return


# ---- a study ------------------------------------------------------------------------------------


def test_a_new_study_has_a_note_that_says_what_it_is_and_no_figure(
    storage: Storage, name: str
) -> None:
    launched(storage, name)
    assert publish(storage, name) == Outcome.PUBLISHED
    text = note(storage, name)
    assert f"Stage 1 of `{name}`: the term k1" in text
    assert "**Running.**" in text
    assert "No run is complete yet." in text
    assert "| 2.5 |  |  |  | 1 to go |" in text
    assert seen(storage, name).metric_names == ["validation error, %"]
    assert figures(storage, name) == {}


def test_the_objective_is_the_study_s_metric_in_its_direction(storage: Storage, name: str) -> None:
    """And no digit of its values is lost, however large they are."""
    metric = {"name": "validation score", "direction": "max", "decimals": 4}
    task = {"kind": "python", "entry": "mine:train", "epochs": 3, "metric": metric}
    part = {"k_max": 2.0, "k_cap": 2.0, "k_step": 1.0, "max_terms": 1, "seeds": 1}
    reconcile.launch(storage, study(name, search=part, task=task, confirm={"seeds": 2}))
    reconcile.reconcile(storage, name)
    original, better = 98765.4321, 98765.4388
    values = iter([original, better] * 2)
    while (claim := queue.claim(storage, name, "tests")) is not None:
        storage.rdb.set_trial_intermediate_value(claim.trial_id, 1, value := next(values, original))
        queue.complete(storage, claim.trial_id, value)
        reconcile.reconcile(storage, name)
    assert publish(storage, name) == Outcome.PUBLISHED
    for stage, objective in {1: "validation score", CONFIRMATION: "test score"}.items():
        shown = seen(storage, name, stage)
        assert shown.metric_names == [objective]
        assert shown.direction == optuna.study.StudyDirection.MAXIMIZE
    assert seen(storage, name).best_value == better
    assert "| 2 | 98765.4388 |" in note(storage, name)
    assert {trace["name"]: trace["y"] for trace in figures(storage, name)["error-by-k"]["data"]}[
        "mean"
    ] == [original, better]


def test_neither_launch_nor_reconcile_publishes(storage: Storage, name: str) -> None:
    launched(storage, name)
    work(storage, name, 5)
    reconcile.reconcile(storage, name)
    assert note(storage, name) == ""
    assert figures(storage, name) == {}


def test_every_stage_is_published_with_links_to_the_others(storage: Storage, name: str) -> None:
    launched(storage, name, max_terms=2, k_max=2.5, k_cap=2.5)
    work(storage, name, 4)
    reconcile.reconcile(storage, name)
    publish(storage, name)
    assert "**Done: k1 = 2 is kept.**" in note(storage, name)
    assert "**Running.**" in note(storage, name, 2)
    second = records.stage_ids(storage, name)[2]
    assert f"[k2](/dashboard/studies/{second})" in note(storage, name)
    work(storage, name, 1)
    publish(storage, name)
    assert "**Done: no term is kept.**" in note(storage, name, 2)
    for stage in (1, 2):
        assert "**The study is done.** " in note(storage, name, stage)
        assert "k = 2: 5.00 %" in note(storage, name, stage)
        assert set(figures(storage, name, stage)) == FIGURES


def test_a_study_that_is_published_is_not_written_again(own: Storage, name: str) -> None:
    launched(own, name)
    work(own, name, 2)
    assert publish(own, name) == Outcome.PUBLISHED
    before = rows(own)
    other = Storage(own.secret_url)
    assert publish(own, name) == publish(other, name) == Outcome.UNCHANGED
    other.close()
    assert rows(own) == before
    work(own, name, 1)
    assert publish(own, name) == Outcome.PUBLISHED


def test_one_process_at_a_time_publishes_a_study(storage: Storage, name: str) -> None:
    launched(storage, name)
    work(storage, name, 5)
    other = Storage(storage.secret_url)
    with other.lock(f"dashboard/{name}") as held:
        assert held is not None
        assert publish(storage, name) == Outcome.BUSY
    assert note(storage, name) == ""
    assert publish(other, name) == Outcome.PUBLISHED
    other.close()
    assert "The study is done" in note(storage, name)


def test_a_study_that_does_not_exist_cannot_be_published(storage: Storage, name: str) -> None:
    with pytest.raises(StudyError, match=f"no study named '{name}'"):
        publish(storage, name)


def test_figures_of_long_runs_are_small(storage: Storage, name: str) -> None:
    launched(storage, name)
    curve = [90.0 * 0.97**epoch + 0.123456789 for epoch in range(200)]
    for _ in range(5):
        claim = queue.claim(storage, name, "tests")
        assert claim is not None
        curves = dict.fromkeys(("validation_error", "averaged_error", "training_loss"), curve)
        queue.note(storage, claim.trial_id, curves)
        storage.rdb.set_trial_intermediate_value(claim.trial_id, 200, curve[-1])
        queue.complete(storage, claim.trial_id, curve[-1])
    publish(storage, name)
    drawn = figures(storage, name)
    assert {
        len(trace["x"]) for trace in drawn["training-loss"]["data"] if trace["x"] != [None]
    } == {60}
    assert sum(len(json.dumps(figure)) for figure in drawn.values()) < 100_000
    stored = get_plotly_graph_objects(attributes(storage, seen(storage, name)._study_id))
    assert sum(map(len, stored.values())) < 100_000
