"""``kdecay dashboard`` and ``kdecay publish``, and what a browser shows."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from kdecay_search.storage import Storage
from tests.report.dashboards import FIGURES, figures, launched, note, rows, work
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay, simulated_study
from tests.support.wait import wait_for

# ---- the command ------------------------------------------------------------------------------


@contextmanager
def served(kdecay: Kdecay, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command on a free port, and its URL."""
    process = kdecay.fork("dashboard", "--port", "0", *options)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Optuna's dashboard: http://"), line
        yield process, line.split()[2]
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_SECONDS)


def test_it_publishes_and_serves_this_machine_alone_until_ctrl_c(
    alone: Kdecay, own: Storage
) -> None:
    """Studies are published before the first page and later. A foreign name that points to this
    machine is refused."""
    launched(own, "live")
    work(own, "live", 2)
    with served(alone) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url) as answer:
            assert b"<title>Optuna Dashboard</title>" in answer.read()
        assert "**Running.**" in note(own, "live")
        assert set(figures(own, "live")) == FIGURES
        work(own, "live", 3)
        port = urlsplit(url).port
        for name, status in (
            ("localhost", 200),
            (f"127.0.0.1:{port}", 200),
            ("evil.example", 403),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/dashboard", headers={"Host": name})
            answer = connection.getresponse()
            assert answer.status == status
            assert (b"answers to the names localhost" in answer.read()) == (status == 403)
            connection.close()
        wait_for(lambda: "The study is done" in note(own, "live"), "the note of the end")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, out, err) == (0, "", "")


def test_at_another_address_it_says_who_can_do_what_and_what_cannot_be_published(
    alone: Kdecay, own: Storage
) -> None:
    """A study that cannot be published harms nothing."""
    launched(own, "odd")
    with own.engine.begin() as connection:
        statement = "UPDATE study_user_attributes SET value_json = '\"{}\"' WHERE key = 'spec'"
        connection.execute(sqlalchemy.text(statement))
    with served(alone, "--host", "0.0.0.0") as (process, url):
        assert process.stderr is not None
        access, names, failure = (process.stderr.readline() for _ in range(3))
        with urllib.request.urlopen(url.replace("0.0.0.0", "127.0.0.1")) as answer:
            assert answer.status == 200
        process.terminate()
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, "")
    assert "no authentication: anybody who reaches 0.0.0.0" in access
    assert "--allow-host" in names
    assert failure.startswith("publishing odd in the dashboard: InvalidSpec: ")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--port", "{port}"), "port {port} of 127.0.0.1 is taken; give another with --port"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1: Cannot assign requested address"),
        (("--artifacts", "/proc/here"), "--artifacts /proc/here: No such file or directory;"),
    ],
)
def test_what_does_not_work_is_one_line(
    kdecay: Kdecay, options: tuple[str, ...], line: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = [option.format(port=port) for option in options]
        done = kdecay.run("dashboard", *given, code=2)
    assert line.format(port=port) in done.stderr
    assert done.stderr.count("\n") == 1


# ---- what is published ------------------------------------------------------------------------


def test_publish_is_for_those_who_run_optuna_s_own_command(alone: Kdecay, own: Storage) -> None:
    for name in ("one", "two"):
        launched(own, name)
        work(own, name, 5)
    assert alone.run("publish", "one").stderr == "one: published\n"
    assert "The study is done" in note(own, "one")
    assert (note(own, "two"), set(figures(own, "one"))) == ("", FIGURES)
    assert alone.run("publish").stderr == "one: unchanged\ntwo: published\n"
    before = rows(own)
    assert alone.run("publish").stderr == "one: unchanged\ntwo: unchanged\n"
    assert rows(own) == before
    assert "no study named 'three'" in alone.run("publish", "three", code=2).stderr


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
