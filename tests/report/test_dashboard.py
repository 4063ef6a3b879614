"""What Optuna's dashboard shows of a study, and who writes it when."""

from __future__ import annotations

import http.client
import json
import logging
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
import optuna_dashboard
import pytest
import sqlalchemy
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from kdecay_search import reconcile
from kdecay_search.errors import StorageError
from kdecay_search.report.dashboard import artifacts, publication
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, pages, queue, records
from kdecay_search.storage.pages import Page, write_pages
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.memory_studies import study

FIGURES = {"error-by-k", "schedules", "validation-error", "training-loss"}


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"dashboard-{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def study_id(storage: Storage, name: str) -> int:
    return records.create_stage(storage, name, 1)


def seen(storage: Storage, name: str, stage: int = 1) -> optuna.Study:
    """One stage as the dashboard reads it."""
    study_name = records.stage_name(name, stage)
    return optuna.load_study(study_name=study_name, storage=storage.rdb)


def attributes(storage: Storage, study_id: int) -> dict[str, Any]:
    return dict(storage.rdb.get_study_system_attrs(study_id))


def note(storage: Storage, name: str, stage: int = 1) -> str:
    return optuna_dashboard.get_note(seen(storage, name, stage))


def figures(storage: Storage, name: str, stage: int = 1) -> dict[str, Any]:
    texts = get_plotly_graph_objects(attributes(storage, seen(storage, name, stage)._study_id))
    return {key: json.loads(text) for key, text in texts.items()}


def launched(storage: Storage, name: str, **search: Any) -> None:
    """Five candidates, one seed, one term: five runs."""
    part = {"k_max": 3.0, "k_cap": 3.0, "max_terms": 1, "seeds": 1, "min_gain": 0.0} | search
    reconcile.launch(storage, study(name, search=part))
    reconcile.reconcile(storage, name)


def work(storage: Storage, name: str, runs: int) -> None:
    """Finish so many runs: the best k is 2."""
    for _ in range(runs):
        claim = queue.claim(storage, name, "tests")
        assert claim is not None
        assert claim.request.k is not None
        queue.complete(storage, claim.trial_id, 5.0 + abs(claim.request.k - 2.0))


# ---- pages, as rows ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*experimental")
@pytest.mark.parametrize("length", [1, 2044, 2045, 2046, 9000])
def test_rows_are_those_that_the_dashboard_s_own_functions_write(
    storage: Storage, study_id: int, length: int
) -> None:
    import plotly.graph_objects as go

    text = ("# Nöte \\ \"%s\" 'x' " * 500)[:length]
    figure = go.Figure(layout={"title": {"text": text}})
    page = Page("validation error, %", text, {"a-b.c_1": figure.to_json()})
    write_pages(storage, study_id, {study_id: page}, "content", "milestone")
    theirs = optuna.create_study()
    theirs.set_metric_names(["validation error, %"])
    optuna_dashboard.save_note(theirs, text)
    optuna_dashboard.save_plotly_graph_object(theirs, figure, graph_object_id="a-b.c_1")
    expected = theirs._storage.get_study_system_attrs(theirs._study_id)
    ours = attributes(storage, study_id)
    assert {key: ours[key] for key in ours if not key.startswith("kdecay:")} == expected


def test_a_shorter_page_leaves_nothing_of_the_longer_one(
    storage: Storage, name: str, study_id: int
) -> None:
    for text in ("long " * 2000, "short", "middle " * 500, ""):
        page = Page("error", text, {"one": json.dumps(text)})
        write_pages(storage, study_id, {study_id: page}, "", "")
        assert note(storage, name) == text
        assert figures(storage, name) == {"one": text}


def test_writing_the_same_page_again_changes_no_row_of_it(storage: Storage, study_id: int) -> None:
    def rows() -> set[tuple[str, str]]:
        query = "SELECT key, xmin::text FROM study_system_attributes WHERE study_id = :id"
        with storage.engine.connect() as connection:
            found = connection.execute(sqlalchemy.text(query), {"id": study_id}).all()
        return {(key, version) for key, version in found if key != pages.PUBLISHED}

    page = Page("error", "note " * 1000, {"one": "1" * 5000})
    write_pages(storage, study_id, {study_id: page}, "", "")
    before = rows()
    write_pages(storage, study_id, {study_id: page}, "", "")
    assert rows() == before
    assert len(before) == 3 + 3 + 3, "objective, version and digest; 3 pieces of each text"


def test_pages_are_written_all_or_none(storage: Storage, name: str, study_id: int) -> None:
    write_pages(storage, study_id, {study_id: Page("error", "old", {})}, "1", "1")
    new = {study_id: Page("error", "new", {}), -1: Page("error", "of no study", {})}
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        write_pages(storage, study_id, new, "2", "2")
    assert note(storage, name) == "old"
    last = pages.read_published(storage, study_id)
    assert last is not None
    assert (last.content, last.milestone) == ("1", "1")


def test_a_note_that_somebody_edited_is_left_as_it_is(
    storage: Storage, name: str, study_id: int
) -> None:
    write_pages(storage, study_id, {study_id: Page("error", "ours", {})}, "", "")
    optuna_dashboard.save_note(seen(storage, name), "theirs")
    write_pages(storage, study_id, {study_id: Page("error", "ours, newer", {"f": "1"})}, "", "")
    assert note(storage, name) == "theirs"
    assert figures(storage, name) == {"f": 1}


# ---- when they are written --------------------------------------------------------------------


def published(storage: Storage, name: str) -> pages.Published:
    found = pages.read_published(storage, records.stage_ids(storage, name)[1])
    assert found is not None
    return found


def let_pass(storage: Storage, name: str, seconds: float) -> Storage:
    """As if so much time had gone by since the pages were written; another process's snapshot."""
    statement = """
        UPDATE study_system_attributes SET value_json = jsonb_set(value_json::jsonb, '{at}',
            to_jsonb((value_json::jsonb ->> 'at')::float - :seconds))::text
        WHERE study_id = :id AND key = :key
    """
    first = records.stage_ids(storage, name)[1]
    with storage.engine.begin() as connection:
        values = {"seconds": seconds, "id": first, "key": pages.PUBLISHED}
        connection.execute(sqlalchemy.text(statement), values)
    return Storage(storage.secret_url)


def test_a_new_study_has_a_note_that_says_what_it_is_and_no_figure(
    storage: Storage, name: str
) -> None:
    launched(storage, name)
    text = note(storage, name)
    assert f"Stage 1 of `{name}`: the term k1" in text
    assert "**Running.**" in text
    assert "No run is complete yet." in text
    assert "| 2.5 |  |  |  | 1 to go |" in text
    assert seen(storage, name).metric_names == ["validation error, %"]
    assert figures(storage, name) == {}


def test_results_are_shown_after_the_period_and_not_before(storage: Storage, name: str) -> None:
    launched(storage, name)
    first = published(storage, name)
    work(storage, name, 2)
    reconcile.reconcile(storage, name)
    assert published(storage, name).content == first.content
    later = let_pass(storage, name, 10.0)
    reconcile.reconcile(later, name)
    later.close()
    assert published(storage, name).content == first.content
    later = let_pass(storage, name, 20.0)
    reconcile.reconcile(later, name)
    reconcile.reconcile(later, name)
    later.close()
    assert published(storage, name).content != first.content
    assert published(storage, name).milestone == first.milestone
    assert "2 complete" not in note(storage, name)
    assert note(storage, name).count("1 to go") == 3
    assert set(figures(storage, name)) == FIGURES


def test_nothing_is_written_while_nothing_happens(storage: Storage, name: str) -> None:
    launched(storage, name)
    later = let_pass(storage, name, 3600.0)
    reconcile.reconcile(later, name)
    later.close()
    assert published(storage, name).seconds_ago > 3000


def test_the_end_of_a_stage_and_of_the_study_is_shown_at_once(storage: Storage, name: str) -> None:
    launched(storage, name, max_terms=2, k_max=2.5, k_cap=2.5)
    work(storage, name, 4)
    reconcile.reconcile(storage, name)
    assert "**Done: k1 = 2 is kept.**" in note(storage, name)
    assert "**Running.**" in note(storage, name, 2)
    second = records.stage_ids(storage, name)[2]
    assert f"[k2](/dashboard/studies/{second})" in note(storage, name)
    work(storage, name, 1)
    snapshot = reconcile.reconcile(storage, name)
    assert snapshot is not None
    assert snapshot.state == "done"
    assert "**Done: no term is kept.**" in note(storage, name, 2)
    for stage in (1, 2):
        assert "**The study is done:** k = 2: 5.00 %" in note(storage, name, stage)
        assert set(figures(storage, name, stage)) == FIGURES
    before = published(storage, name)
    reconcile.reconcile(storage, name)
    assert published(storage, name).content == before.content


def test_stopping_and_going_on_is_shown_at_once(storage: Storage, name: str) -> None:
    launched(storage, name)
    reconcile.stop(storage, name)
    reconcile.reconcile(storage, name)
    assert "**Stopped.**" in note(storage, name)
    launched(storage, name)
    assert "**Running.**" in note(storage, name)


def test_who_finds_another_at_it_goes_on_with_his_work(storage: Storage, name: str) -> None:
    launched(storage, name)
    work(storage, name, 5)
    other = Storage(storage.secret_url)
    with other.lock(f"dashboard/{name}") as held:
        assert held is not None
        snapshot = reconcile.reconcile(storage, name)
    assert snapshot is not None
    assert snapshot.state == "done"
    assert "**Running.**" in note(storage, name)
    reconcile.reconcile(other, name)
    assert "The study is done" in note(storage, name), "a later tick heals it"
    other.close()


def test_who_writes_has_the_last_news_that_another_brought_in_vain(
    storage: Storage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(storage, name)
    work(storage, name, 4)
    other = Storage(storage.secret_url)
    make_pages = publication.make_pages

    def make_while_the_study_ends(*arguments: Any) -> Any:
        made = make_pages(*arguments)
        monkeypatch.setattr(publication, "make_pages", make_pages)
        work(other, name, 1)
        snapshot = reconcile.reconcile(other, name)  # finds the pages locked
        assert snapshot is not None
        assert snapshot.state == "done"
        return made

    monkeypatch.setattr(publication, "make_pages", make_while_the_study_ends)
    writer = let_pass(storage, name, 31.0)
    reconcile.reconcile(writer, name)
    assert "The study is done" in note(storage, name)
    writer.close()
    other.close()


def test_a_failure_there_harms_no_study_and_is_told_once(
    storage: Storage,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*arguments: Any) -> None:
        raise StorageError("permission denied for table study_system_attributes")

    monkeypatch.setattr(publication, "_failed", False)
    monkeypatch.setattr(pages, "write_pages", refuse)
    with caplog.at_level(logging.WARNING):
        launched(storage, name)
        work(storage, name, 5)
        snapshot = reconcile.reconcile(storage, name)
    assert snapshot is not None
    assert snapshot.state == "done"
    assert [r.message for r in caplog.records if "pages of" in r.message] == [
        f"the dashboard's pages of {name}: permission denied for table study_system_attributes"
    ]
    monkeypatch.undo()
    later = Storage(storage.secret_url)
    reconcile.reconcile(later, name)
    later.close()
    assert "The study is done" in note(storage, name)


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
    reconcile.reconcile(storage, name)
    drawn = figures(storage, name)
    assert {
        len(trace["x"]) for trace in drawn["training-loss"]["data"] if trace["x"] != [None]
    } == {60}
    assert sum(len(json.dumps(figure)) for figure in drawn.values()) < 100_000


# ---- artifacts --------------------------------------------------------------------------------


def test_the_winner_of_a_study_that_is_done_is_kept_once_as_source_and_json(
    storage: Storage, name: str, tmp_path: Path
) -> None:
    launched(storage, name)
    store = artifacts.artifact_store(str(tmp_path / "new" / "folder"))
    assert not artifacts.keep_winner(storage, store, name)
    work(storage, name, 5)
    reconcile.reconcile(storage, name)
    for _ in range(2):
        assert artifacts.keep_winner(storage, store, name)
    kept = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(seen(storage, name))}
    assert set(kept) == {f"{name}-k-2.py", f"{name}-k-2.json"}
    names: dict[str, Any] = {}
    with store.open_reader(kept[f"{name}-k-2.py"]) as source:
        exec(source.read(), names)
    assert names["learning_rate"](5, 10) == read_snapshot(storage, name).spec.schedule_for((2.0,))(
        5, 10
    )
    store.remove(kept[f"{name}-k-2.json"])  # as if somebody had been killed over it
    artifacts.keep_winner(storage, store, name)
    with store.open_reader(kept[f"{name}-k-2.json"]) as told:
        assert json.load(told)["schedule"]["ks"] == [2.0]
    assert len(get_all_artifact_meta(seen(storage, name))) == 2


# ---- the command ------------------------------------------------------------------------------


@contextmanager
def served(kdecay: Kdecay, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command on a free port, and its URL."""
    process = kdecay.start("dashboard", "--port", "0", *options)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Optuna's dashboard: http://"), line
        yield process, line.split()[2]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_it_serves_this_machine_alone_until_ctrl_c(kdecay: Kdecay) -> None:
    with served(kdecay) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            assert b"<title>Optuna Dashboard</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "status"), [("localhost", 200), ("127.0.0.1:{port}", 200), ("evil.example", 403)]
)
def test_a_foreign_name_that_points_to_this_machine_is_refused(
    kdecay: Kdecay, name: str, status: int
) -> None:
    with served(kdecay) as (_, url):
        port = urlsplit(url).port
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/dashboard", headers={"Host": name.format(port=port)})
        answer = connection.getresponse()
        assert answer.status == status
        assert (b"answers to the names localhost" in answer.read()) == (status == 403)
        connection.close()


def test_another_address_comes_with_a_word_on_who_can_do_what(kdecay: Kdecay) -> None:
    with served(kdecay, "--host", "0.0.0.0") as (process, _):
        assert process.stderr is not None
        assert "no authentication: whoever reaches 0.0.0.0" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--port", "{port}"), "port {port} of 127.0.0.1 is taken; give another with --port"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1: Cannot assign requested address"),
        (("--artifacts", "/proc/here"), "--artifacts /proc/here: No such file or directory;"),
    ],
)
def test_what_does_not_work_is_one_line(
    kdecay: Kdecay, options: tuple[str, ...], told: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = [option.format(port=port) for option in options]
        done = kdecay.run("dashboard", *given, code=2)
    assert told.format(port=port) in done.stderr
    assert done.stderr.count("\n") == 1


# ---- in a browser -----------------------------------------------------------------------------


def test_a_browser_shows_stages_note_figures_trials_and_winner(
    chromium: Any, alone: Kdecay, tmp_path: Path
) -> None:
    from tests.support.browser import opened

    file = simulated_study(tmp_path, name="waves", search__max_terms=2, search__seeds=1)
    summary = alone.json("launch", file, "--workers", "2")
    assert summary["state"] == "done"
    with served(alone, "--artifacts", str(tmp_path / "kept")) as (_, url):
        with opened(chromium, url) as screen:
            screen.page.get_by_text("waves/k2").wait_for()
            screen.page.get_by_text("waves/k1").click()
            screen.page.get_by_text("Study Artifacts").wait_for()
            titles = ["Validation error against k1", "The schedule found", "Training loss by epoch"]
            stem = "-".join(["waves-k", *(f"{k:g}" for k in summary["schedule"]["ks"])])
            for title in (*titles, "Validation error by epoch", f"{stem}.py", f"{stem}.json"):
                screen.page.get_by_text(title).first.wait_for()
            drawn = "document.querySelectorAll('.js-plotly-plot .trace path[d]').length"
            assert screen.page.evaluate(drawn) > 20
            screen.page.get_by_role("link", name="Note").first.click()
            kept = summary["stages"][0]["k"]
            screen.page.get_by_text(f"Done: k1 = {kept:g} is kept.").wait_for()
            candidates = summary["stages"][0]["candidates"]
            assert screen.page.locator("table tr").count() == 1 + len(candidates)
            screen.page.get_by_role("link", name="k2", exact=True).click()
            screen.page.get_by_text("waves/k2").first.wait_for()
            assert screen.complaints == []
        with opened(chromium, f"{url}/studies/1/trials") as screen:
            screen.page.get_by_text(f"{len(candidates)} Trials").wait_for()
            assert screen.page.get_by_text("Complete", exact=True).count() >= len(candidates)
            for candidate in candidates:
                found = trial_of(url, candidate["k"])
                assert found["state"] == "Complete"
                assert found["values"] == candidate["errors"]
            assert screen.complaints == []


def trial_of(url: str, k: float) -> dict[str, Any]:
    """The first stage's trial with this k, as the page gets it."""
    address = url.replace("/dashboard", "/api/studies/1?after=0")
    with urllib.request.urlopen(address) as answer:
        trials = json.load(answer)["trials"]
    found = [t for t in trials if float(t["params"][0]["param_internal_value"]) == k]
    assert len(found) == 1
    return dict(found[0])
