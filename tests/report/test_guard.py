"""What the dashboard refuses to browsers, and how it answers what it does not refuse."""

from __future__ import annotations

import csv
import http.client
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.errors import KDecayError
from kdecay_search.report.cells import FORMULA, safe_cell, safe_csv
from kdecay_search.report.dashboard.artifacts import artifact_store
from kdecay_search.report.dashboard.guard import known_names
from kdecay_search.report.dashboard.server import Server
from kdecay_search.storage import Storage
from tests.report.dashboards import launched, seen, work
from tests.support.kdecay_command import Kdecay

Answer = tuple[int, dict[str, str], bytes]


def ask(
    server: Server, path: str, method: str = "GET", body: object = None, **headers: str | None
) -> Answer:
    """Send a request to the server as a browser would; ``HEADER=None`` leaves a header out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.putrequest(method, path, skip_host=True)
    given = {"Host": f"127.0.0.1:{server.port}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    content = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        given |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(content)
    answer = connection.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    result = answer.status, found, answer.read()
    connection.close()
    return result


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def server(request: pytest.FixtureRequest, own: Storage, tmp_path: Path) -> Iterator[Server]:
    """A dashboard, for this machine alone or for all, that also answers to mine.example."""
    store = artifact_store(str(tmp_path / "artifacts"))
    with Server(own, request.param, 0, store, ["mine.example", "10.0.0.7"]) as started:
        yield started


# ---- names ------------------------------------------------------------------------------------


STATED = ["localhost", "localhost:{port}", "LOCALHOST", "localhost.", "127.0.0.1:{port}",
          "[::1]:{port}", "mine.example", "Mine.Example:8080", "10.0.0.7"]  # fmt: skip
OTHERS = ["evil.example", "evil.example:{port}", "localhost.evil.example",
          "mine.example.evil.example", "x.mine.example", "10.0.0.8", "0.0.0.0", "me@localhost",
          "localhost/x", "[::1", "", "localhost,evil", "127.0.0.1.nip.io", "192.168.1.5:8080",
          None]  # fmt: skip


def test_stated_names_are_answered(server: Server) -> None:
    for host in STATED:
        assert ask(server, "/dashboard", Host=host.format(port=server.port))[0] == 200, host


def test_other_names_are_refused(server: Server) -> None:
    for host in OTHERS:
        shown = None if host is None else host.format(port=server.port)
        for path in ("/dashboard", "/api/studies", "/csv/1", "/artifacts/1/ab"):
            status, _, body = ask(server, path, Host=shown)
            assert (status, b"--allow-host NAME" in body) == (403, True), (host, path)


def test_the_address_that_it_listens_on_is_known_unless_it_is_any() -> None:
    loopback = ["localhost", "127.0.0.1", "::1"]
    assert known_names("10.1.2.3") == [*loopback, "10.1.2.3"]
    assert known_names("0.0.0.0") == known_names("::") == known_names("127.0.0.1") == loopback
    assert known_names("::", ["[2001:DB8::1]", "A.b"]) == [*loopback, "2001:db8::1", "a.b"]


@pytest.mark.parametrize("name", ["http://a", "a:80", "a/b", "*", "", "a b", "*.a", "a\x1b[2J"])
def test_what_is_no_host_name_is_one_line(kdecay: Kdecay, name: str) -> None:
    with pytest.raises(KDecayError, match=r"--allow-host .*: must be a host name or an address"):
        known_names("127.0.0.1", [name])
    if name == "http://a":
        line = kdecay.run("dashboard", "--port", "0", "--allow-host", name, code=2).stderr
        assert line.startswith("kdecay: --allow-host http://a: must be")
        assert line.count("\n") == 1


# ---- other sites ------------------------------------------------------------------------------

FOREIGN: list[Mapping[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[::1"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://localhost:{port}"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "same-origin", "Origin": "http://evil.example"},
]
OWN: list[Mapping[str, str]] = [
    {},
    {"Origin": "http://127.0.0.1:{port}"},
    {"Origin": "https://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"},
]
CHANGES = [
    ("POST", "/api/studies", {"study_name": "planted", "directions": ["minimize"]}),
    ("DELETE", "/api/studies/{id}", None),
    ("PUT", "/api/studies/{id}/note", {"body": "planted", "version": 1}),
    ("POST", "/api/artifacts/{id}", {"file": "data:text/html;base64,PHA+", "filename": "x.html"}),
]


def test_no_other_site_changes_anything(own: Storage, server: Server) -> None:
    launched(own, "safe")
    study_id = seen(own, "safe")._study_id
    for headers in FOREIGN:
        given = {name: value.format(port=server.port) for name, value in headers.items()}
        for method, path, body in CHANGES:
            status, _, text = ask(server, path.format(id=study_id), method, body, **given)
            assert (status, text) == (403, b"This request comes from another site.\n"), headers
    assert "planted" not in ask(server, "/api/studies")[2].decode()
    assert seen(own, "safe")._study_id == study_id


@pytest.mark.parametrize("headers", OWN)
def test_its_own_pages_do(own: Storage, server: Server, headers: Mapping[str, str]) -> None:
    launched(own, "own")
    study_id = seen(own, "own")._study_id
    given = {name: value.format(port=server.port) for name, value in headers.items()}
    statuses = [
        ask(server, path.format(id=study_id), method, body, **given)[0]
        for method, path, body in reversed(CHANGES)
    ]
    assert statuses == [201, 204, 204, 201]


def test_a_proxy_that_passes_the_name_on_may_be_used(server: Server) -> None:
    headers = {"Host": "mine.example", "Origin": "https://mine.example"}
    body = {"study_name": "proxied", "directions": ["minimize"]}
    assert ask(server, "/api/studies", "POST", body, **headers)[0] == 201


# ---- headers ----------------------------------------------------------------------------------


def test_no_site_may_frame_or_load_an_answer(server: Server) -> None:
    for path in ("/dashboard", "/dashboard/studies/1", "/api/studies", "/nothing"):
        _, headers, _ = ask(server, path)
        assert headers["content-security-policy"].endswith("frame-ancestors 'none'")
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        if path.startswith("/dashboard"):
            assert "script-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize("trial", [False, True])
def test_artifacts_are_downloads(own: Storage, server: Server, trial: bool) -> None:
    launched(own, "kept")
    study = seen(own, "kept")
    place = f"{study._study_id}/{study.trials[0]._trial_id}" if trial else f"{study._study_id}"
    page = {"file": "data:text/html;base64,PHA+", "filename": "x.html"}
    status, _, body = ask(server, f"/api/artifacts/{place}", "POST", page)
    assert status == 201
    for name in ("Range", "Origin"):
        path = f"/artifacts/{place}/{json.loads(body)['artifact_id']}"
        status, headers, content = ask(server, path, **{name: "http://evil.example"})
        assert (status, content) == (200, b"<p>")
        assert headers["content-disposition"] == "attachment"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert "access-control-allow-origin" not in headers


# ---- CSV files --------------------------------------------------------------------------------


def test_csv_cells_hold_no_formulas_and_no_control_characters(own: Storage, server: Server) -> None:
    launched(own, "cells")
    work(own, "cells", 1)
    study = seen(own, "cells")
    evil = {"=name": "=1+1", "a": "+cmd|' /C calc'!A0", "b": "-2+3", "c": "@SUM(1)", "d": "\t=1",
            "e": "\x1b[2J", "f": -1.5, "g": " =1", "h": "x\r\n=1", "i": "fine; -1",
            "j": "＝1"}  # fmt: skip
    for name, value in evil.items():
        own.rdb.set_trial_user_attr(study.trials[1]._trial_id, name, value)
    status, headers, body = ask(server, f"/csv/{study._study_id}")
    assert status == 200
    assert headers["content-disposition"].startswith("attachment")
    assert int(headers["content-length"]) == len(body)
    rows = [*csv.reader(io.StringIO(body.decode(), newline=""))]
    assert len(rows) == len(study.trials) + 1
    found = dict(zip(rows[0], rows[2], strict=True))
    assert found["UserAttribute =name"] == "'=1+1"
    expected = {"a": "'+cmd|' /C calc'!A0", "b": "'-2+3", "c": "'@SUM(1)", "d": "\\t=1",
                "e": "\\x1b[2J", "f": "-1.5", "g": "' =1", "h": "x\\r\\n=1", "i": "fine; -1",
                "j": "'＝1"}  # fmt: skip
    assert {name: found[f"UserAttribute {name}"] for name in expected} == expected


def test_csv_of_no_study_stays_an_error(server: Server) -> None:
    assert ask(server, "/csv/99999999")[0] == 404


@given(st.lists(st.lists(st.text(), min_size=1), min_size=1))
def test_every_cell_is_safe(table: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written, escapechar="\\").writerows(table)
    for row in csv.reader(io.StringIO(safe_csv(written.getvalue()), newline="")):
        assert all(cell.isprintable() for cell in row)
        assert not any(cell.strip().startswith(FORMULA) and _is_text(cell) for cell in row)


def _is_text(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("number", ["-1", "+2.5e-3", "-inf", "0.1", "-1e400"])
def test_numbers_stay_as_they_are(number: str) -> None:
    assert safe_cell(number) == number
