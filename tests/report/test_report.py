"""The report of real studies in Postgres, and what a browser makes of it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest
import sqlalchemy
from playwright.sync_api import Browser, Locator, Page

from benchmarks.report import measure
from kdecay_search import reconcile
from kdecay_search.cli.report import FigureName
from kdecay_search.report.cost import cost_of
from kdecay_search.report.page import figures_of, study_report
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, queue
from kdecay_search.storage.durations import read_durations
from kdecay_search.study.file import load
from kdecay_search.study.spec import StudySpec
from kdecay_search.worker.trial import ClaimedTrial
from tests.support.browser import PHONE, WIDE, Screen, opened
from tests.support.kdecay_command import Kdecay, simulated_study

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)
SMALL = ["name=seen", "task.epochs=4", "search.k_max=2.0", "search.k_cap=2.0", "search.seeds=2",
         "search.k_step=1.0", "search.max_terms=1", "confirm.seeds=0"]  # fmt: skip
"""A digits study of a few seconds."""
OF_EVERY_STAGE = [
    name for name in FigureName if name not in (FigureName.SCHEDULE, FigureName.PLANE)
]
"""The figures that every stage of a grid has; test_whole_figures.py draws the plane."""


@pytest.fixture(scope="module")
def digits(home: Path, storage_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real study, with ``summary.json`` beside it: trained by the first test
    process of this run that asks for it, for all of them."""
    run = tmp_path_factory.getbasetemp()
    folder = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / "digits-report"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "summary.json").exists():
            command = Kdecay(home)
            settings = [part for setting in SMALL for part in ("--set", setting)]
            command.run("launch", str(ROOT / "studies/digits.toml"), "--workers", "1", *settings)
            printed = command.run("report", "seen", "--out", str(folder)).stdout.strip()
            assert printed == str(folder / "report.html")
            summary = command.run("status", "seen", "--json").stdout
            (folder / "summary.json").write_text(summary)
    return folder / "report.html"


@pytest.fixture(scope="module")
def screen(chromium: Browser, digits: Path) -> Iterator[Screen]:
    with opened(chromium, digits, WIDE) as shown:
        yield shown


def launched(storage: Storage, folder: Path, name: str, **settings: object) -> StudySpec:
    spec = load(simulated_study(folder, name=name, **settings))
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, name)
    return spec


def train(storage: Storage, spec: StudySpec, trials: int, worker: str = "node:1:cpu") -> None:
    """As a worker does, on the simulated surface."""
    from kdecay_search.study.builtin_tasks import SimulatedTask
    from kdecay_search.tasks.simulated import curve

    assert isinstance(spec.task, SimulatedTask)
    for _ in range(trials):
        claim = queue.claim(storage, spec.name, worker)
        assert claim is not None
        trial = ClaimedTrial(storage, spec, claim)
        ks = (*claim.request.earlier_ks, trial.candidate.k)
        epochs = curve(spec.task, ks, claim.request.key.seed)
        for epoch in epochs:
            trial.report(epoch)
        trial.complete(epochs)


def text_of(page: str) -> str:
    """What a reader sees of a page, without its figures, on one line."""
    body = page[page.index("<main>") : page.index("</main>")]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def draw_all(page: Page) -> list[Locator]:
    """Scroll down, as figures are drawn when they come near; return them."""
    places = page.locator(".plot").all()
    for place in places:
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for(state="attached")
    return places


# ---- in a browser ---------------------------------------------------------------------------


def test_every_figure_of_a_digits_study_shows_marks_and_nothing_complains(screen: Screen) -> None:
    places = draw_all(screen.page)
    assert len(places) == 1 + 4  # the schedule, and four a stage
    for place in places:
        marks = place.evaluate(
            """e => [...e.querySelectorAll('.plot .trace path, .plot .points path')]
            .filter(m => { const b = m.getBoundingClientRect(); return b.width + b.height > 4; })
            .length"""
        )
        assert marks > 0, place.get_attribute("aria-label")
    assert screen.complaints == []


def test_hovering_tells_k_seed_and_error(screen: Screen) -> None:
    place = screen.page.locator("#error .plot").first
    place.scroll_into_view_if_needed()
    points = place.locator(".scatterlayer .points path")
    points.first.wait_for()
    points.first.hover(force=True)
    hover = place.locator(".hovertext")
    hover.first.wait_for()
    text = " ".join((hover.first.text_content() or "").split())
    assert re.search(r"k = 1.*error \d+\.\d\d", text), text


def test_the_end_of_the_training_is_enlarged_in_an_inset(screen: Screen) -> None:
    place = screen.page.locator("#curves .plot").first
    place.scroll_into_view_if_needed()
    place.locator(".x2y2 .trace path").first.wait_for(state="attached")
    inset = place.locator(".draglayer .x2y2 .nsewdrag").bounding_box()
    whole = place.bounding_box()
    assert inset is not None
    assert whole is not None
    assert 0.2 * whole["width"] < inset["width"] < 0.8 * whole["width"]
    ticks = place.locator(".x2tick text").all_text_contents()
    assert ticks
    assert min(map(float, ticks)) >= 3  # of four epochs


def test_the_page_fits_a_phone_and_follows_its_colours(
    chromium: Browser, digits: Path, screen: Screen
) -> None:
    draw_all(screen.page)
    assert redness_of_ink(screen.page) < 100
    with opened(chromium, digits, PHONE, "dark") as phone:
        places = draw_all(phone.page)
        assert phone.overflow() == 0
        for place in places:
            box = place.bounding_box()
            assert box is not None
            assert 300 < box["width"] <= PHONE
        assert redness_of_ink(phone.page) > 150
        assert phone.complaints == []


def redness_of_ink(page: Page) -> int:
    ink = page.locator(".xtitle").first.evaluate("e => getComputedStyle(e).fill")
    return int(re.findall(r"\d+", ink)[0])


def test_printing_draws_all_figures_and_opens_what_is_folded(
    chromium: Browser, digits: Path
) -> None:
    with opened(chromium, digits, WIDE, "dark") as shown:
        shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        for place in shown.page.locator(".plot").all():
            place.locator(".main-svg").first.wait_for(state="attached")
        assert shown.page.locator("details:not([open])").count() == 0
        inset = shown.page.locator("#curves .plot").first
        assert inset.evaluate("e => e.layout.shapes[0].fillcolor") == "#ffffff"
        assert len(shown.page.pdf()) > 50_000
        assert shown.complaints == []


# ---- what it says ---------------------------------------------------------------------------


def test_the_report_tells_the_same_numbers_as_status(digits: Path) -> None:
    summary = json.loads((digits.parent / "summary.json").read_text())
    page = text_of(digits.read_text())
    mean = summary["error"]["mean"]
    ks = ", ".join(f"{k:.4g}" for k in summary["schedule"]["ks"])
    assert f"k = {ks}" in page.replace("\xa0", " ")
    assert f"{mean:.2f}" in page
    trained, trials = summary["epochs"]["trained"], summary["trials"]["complete"]
    assert f"It took {trained} epochs in {trials} trials" in page.replace("\xa0", " ")
    for stage in summary["stages"]:
        for candidate in stage["candidates"]:
            assert all(f"{error:.2f}" in page for error in candidate["errors"])


def test_a_page_loads_nothing_from_elsewhere(digits: Path) -> None:
    page = digits.read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|img|iframe)\b|<script[^>]+src=", page[: page.index("</main>")])
    assert page.count("plotly.js v") == 1


def test_the_study_file_in_the_report_launches_the_same_study(digits: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"<pre>(.*?)</pre>", digits.read_text(), re.DOTALL)
    file = tmp_path / "again.toml"
    file.write_text(unescape(block))
    assert load(file) == load(ROOT / "studies/digits.toml", SMALL)


def test_a_study_that_still_runs_has_a_report_that_says_so(
    storage: Storage, tmp_path: Path
) -> None:
    spec = launched(storage, tmp_path, "half-way")
    assert "No run is complete yet." in text_of(study_report(storage, "half-way", NOW))
    train(storage, spec, 3)
    claim = queue.claim(storage, "half-way", "node:2:cpu")
    assert claim is not None
    storage.optuna.set_trial_intermediate_value(claim.trial_id, 1, 44.5)
    page = study_report(storage, "half-way", NOW)
    assert "So far, " in text_of(page)
    assert "It is running; so far the lowest is k" in text_of(page)
    assert "too few runs to tell a gain from noise" in text_of(page)
    assert "gain on k = 1 not clear" in text_of(page)
    assert "44.5" in page  # the curve of the trial that still runs
    assert "trials running 1" in text_of(page)
    assert "2026-05-17 12:30 UTC" in text_of(page)


def test_a_study_of_one_candidate_compares_nothing(storage: Storage, tmp_path: Path) -> None:
    settings = {"search__k_max": 1.0, "search__k_cap": 1.0, "search__seeds": 1}
    spec = launched(storage, tmp_path, "lonely", **settings)
    train(storage, spec, 1)
    page = text_of(study_report(storage, "lonely", NOW)).replace("\xa0", " ")
    assert "nothing is better than the original, k = 1" in page
    assert "The original, k = 1, is the best." in page


def test_what_failed_is_told_and_nothing_that_was_written_there_is_obeyed(
    storage: Storage, tmp_path: Path, chromium: Browser
) -> None:
    evil = "<script>document.title = 'owned'</script>"
    spec = launched(storage, tmp_path, "hostile", workers__max_attempts=1)
    for index in range(2):
        claim = queue.claim(storage, "hostile", f"<b>{evil}:{index}:cpu")
        assert claim is not None
        queue.fail(storage, claim.trial_id, "error", f"</script>{evil}")
    train(storage, spec, 4)
    page = study_report(storage, "hostile", NOW)
    assert evil not in page
    assert "trials failed 2" in text_of(page)
    assert f"</script>{evil}" in text_of(page)
    file = tmp_path / "hostile.html"
    file.write_text(page)
    with opened(chromium, file) as shown:
        draw_all(shown.page)
        assert shown.page.title() == "hostile: learning-rate schedule search"
        assert shown.complaints == []


def test_device_seconds_are_those_from_claim_to_end_and_of_lost_trials_by_their_epochs(
    storage: Storage, tmp_path: Path
) -> None:
    spec = launched(storage, tmp_path, "timed-report")
    train(storage, spec, 2, "a:1:cpu")
    train(storage, spec, 1, "b:2:cuda:0")
    lost = queue.claim(storage, "timed-report", "b:2:cuda:0")
    assert lost is not None
    storage.optuna.set_trial_intermediate_value(lost.trial_id, 1, 44.0)
    queue.fail(storage, lost.trial_id, "lost", "its worker was killed")
    with storage.engine.begin() as connection:
        statement = """UPDATE trials SET datetime_complete = datetime_start + interval '8 s'
            WHERE state IN ('COMPLETE', 'FAIL') AND study_id IN
            (SELECT study_id FROM studies WHERE study_name = 'timed-report/k1')"""
        connection.execute(sqlalchemy.text(statement))
    cost = cost_of(read_snapshot(storage, "timed-report"), read_durations(storage, "timed-report"))
    assert cost.whole.seconds == pytest.approx(3 * 8 + 8 / 4)  # four epochs a trial
    assert cost.estimated_epochs == 1
    assert {name: share.seconds for name, share in cost.by_worker.items()} == {
        "a:1:cpu": pytest.approx(16),
        "b:2:cuda:0": pytest.approx(10),
    }


def test_a_large_study_has_a_report_of_bounded_size(storage: Storage, tmp_path: Path) -> None:
    found = measure(storage, trials=500, epochs=200, repeats=1, folder=tmp_path)
    assert found.megabytes < 15
    assert found.points < 40_000


# ---- the commands ---------------------------------------------------------------------------


def test_the_newest_study_is_reported_where_none_is_named(alone: Kdecay, tmp_path: Path) -> None:
    assert alone.url is not None
    own = Storage(alone.url)
    for name in ("older", "newer"):
        launched(own, tmp_path, name)
    own.close()
    out = tmp_path / "new" / "folder"
    assert alone.run("report", "--out", str(out)).stdout == f"{out / 'report.html'}\n"
    assert "<h1>newer</h1>" in (out / "report.html").read_text()
    assert [file.name for file in out.iterdir()] == ["report.html"]
    schedule = tmp_path / "schedule.html"
    alone.run("plot", "older", "--figure", "schedule", "--out", str(schedule))
    assert "<h1>older: schedule</h1>" in schedule.read_text()


@pytest.mark.parametrize("figure", OF_EVERY_STAGE)
def test_plot_draws_one_figure_for_every_stage(
    storage: Storage, tmp_path: Path, figure: FigureName
) -> None:
    spec = launched(storage, tmp_path, f"drawn-{figure}", search__max_terms=2)
    train(storage, spec, 10)
    reconcile.reconcile(storage, spec.name)
    train(storage, spec, 2)
    snapshot = read_snapshot(storage, spec.name)
    shown = figures_of(figure.value, storage, snapshot)
    assert len(snapshot.plan.stages) == len(shown) == 2
    assert all(any(trace.x and trace.x != (None,) for trace in each.data) for each in shown)


def test_a_place_that_cannot_be_written_to_is_one_line(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    launched(storage, tmp_path, "unwritten")
    file = tmp_path / "a-file"
    file.touch()
    refused = kdecay.run("report", "unwritten", "--out", str(file), code=2)
    assert refused.stderr.count("\n") == 1
    assert "cannot be written" in refused.stderr


def test_a_study_file_made_from_a_spec_reads_as_that_spec(tmp_path: Path) -> None:
    from kdecay_search.study.file import to_toml

    odd = 'quotes " and \\ and \x7f and \n lines, ü, 🎓 and [tables]'
    for number, shipped in enumerate(sorted((ROOT / "studies").rglob("*.toml"))):
        spec = load(shipped, ["task.data.root=/data"] if "folder" in shipped.name else [])
        spec = spec.model_copy(update={"description": odd})
        file = tmp_path / f"{number}.toml"
        file.write_text(to_toml(spec))
        assert load(file) == spec
        assert tomllib.loads(to_toml(spec))["description"] == odd
