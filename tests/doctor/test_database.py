"""``kdecay doctor`` on real databases, good and broken."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kdecay_search.doctor.check import Check, Severity, within
from kdecay_search.doctor.database import database_checks, fix_for
from kdecay_search.storage import Storage
from kdecay_search.storage.url import parse_url
from tests.doctor.databases import as_user, contents, execute
from tests.support.postgres_servers import PASSWORD, Server, free_port


def by_subject(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.subject: check for check in checks}


@pytest.mark.parametrize("database", ["empty", "used"])
def test_good_database_has_no_error_and_is_unchanged(
    database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(database)
    before = contents(url)
    checks = list(database_checks(url, workers=2))
    assert [check.subject for check in checks] == [
        "server", "tables", "permissions", "round trip", "connections", "clock"
    ]  # fmt: skip
    assert Severity.ERROR not in {check.severity for check in checks}
    assert PASSWORD not in repr(checks)
    assert contents(url) == before


def test_superuser_is_a_warning_except_on_the_embedded_server(used: str, storage_url: str) -> None:
    elsewhere, own = (by_subject(database_checks(url, 1)) for url in (used, storage_url))
    assert elsewhere["permissions"].severity == Severity.WARNING
    assert "superuser" in elsewhere["permissions"].value
    assert own["permissions"].severity == Severity.OK
    assert "Unix socket" in own["server"].value


def test_unreachable_server_is_one_error() -> None:
    (check,) = database_checks(f"postgresql://me:hunter2@127.0.0.1:{free_port()}/x", 1)
    assert check.severity == Severity.ERROR
    assert "Connection refused" in check.value
    assert "start Postgres" in (check.fix or "")
    assert "hunter2" not in repr(check)


def test_wrong_password_is_one_error(server: Server) -> None:
    (check,) = database_checks(server.url("hunter2"), 1)
    assert (check.severity, check.fix) == (
        Severity.ERROR, "check the user and the password in KDECAY_STORAGE"
    )  # fmt: skip
    assert "hunter2" not in repr(check)


def test_silent_server_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x"
        (check,) = within(0.5, "server", lambda: database_checks(url, 1), "look")
    assert check == Check("server", Severity.ERROR, "no answer within 0.5 s", "look")


@pytest.mark.parametrize(
    ("revision", "fix"),
    [
        ("v2.6.0.a", "upgrade --storage postgresql+psycopg2"),
        ("v99", "pip install -U kdecay-search"),
    ],
)
def test_tables_of_another_optuna_are_an_error_with_its_fix(
    used: str, revision: str, fix: str
) -> None:
    execute(used, f"UPDATE alembic_version SET version_num = '{revision}'")
    found = by_subject(database_checks(used, 1))
    assert found["tables"].severity == Severity.ERROR
    assert revision in found["tables"].value
    assert fix in (found["tables"].fix or "")


def test_missing_create_permission_names_the_grant(empty: str) -> None:
    url, user = as_user(empty)
    found = by_subject(database_checks(url, 1))
    assert found["permissions"].severity == Severity.ERROR
    assert "permission denied for schema public" in found["permissions"].value
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {user}" in (found["permissions"].fix or "")
    execute(empty, f"GRANT USAGE, CREATE ON SCHEMA public TO {user}")
    assert by_subject(database_checks(url, 1))["permissions"].severity == Severity.OK


def test_every_missing_permission_is_named(used: str) -> None:
    url, user = as_user(used)
    execute(
        used,
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {user}",
        f"REVOKE INSERT ON trial_heartbeats FROM {user}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}",
        f"REVOKE USAGE ON SEQUENCE trials_trial_id_seq FROM {user}",
    )
    found = by_subject(database_checks(url, 1))["permissions"]
    assert found.severity == Severity.ERROR
    assert found.value == (
        f"user {user}: may not INSERT trial_heartbeats, USAGE trials_trial_id_seq"
    )


def test_unreadable_tables_are_one_error(used: str) -> None:
    url, _ = as_user(used)
    *_, last = database_checks(url, 1)
    assert last.severity == Severity.ERROR
    assert "permission denied for table alembic_version" in last.value
    assert "docs/operations.md" in (last.fix or "")


def test_read_only_database_is_an_error(used: str) -> None:
    url, user = as_user(used, "SUPERUSER")
    execute(used, f"ALTER ROLE {user} SET default_transaction_read_only = on")
    found = by_subject(database_checks(url, 1))["permissions"]
    assert (found.severity, "read-only" in found.value) == (Severity.ERROR, True)
    assert "primary" in (found.fix or "")


@pytest.mark.parametrize(
    ("limit", "workers", "severity", "value"),
    [
        (9, 4, Severity.OK, "room for 4 more workers"),
        (4, 4, Severity.WARNING, "room for 2 more workers; launch would start 4"),
        (1, 1, Severity.ERROR, "room for 0 more workers"),
    ],
)
def test_connections_are_counted_as_two_per_worker(
    used: str, limit: int, workers: int, severity: Severity, value: str
) -> None:
    url, _ = as_user(used, f"CONNECTION LIMIT {limit}")
    execute(used, "GRANT SELECT ON alembic_version TO PUBLIC")
    found = by_subject(database_checks(url, workers))["connections"]
    assert found.severity == severity
    assert value in found.value


def test_connections_of_others_count(used: str) -> None:
    name = parse_url(used).database
    execute(used, f"ALTER DATABASE {name} CONNECTION LIMIT 5")
    url, _ = as_user(used)
    execute(used, "GRANT SELECT ON alembic_version TO PUBLIC")
    others = Storage(used)
    with others.engine.connect(), others.engine.connect():
        found = by_subject(database_checks(url, 1))["connections"]
    others.close()
    assert "3 left for this user: room for 1 more workers" in found.value


def test_known_messages_have_a_fix_and_others_point_to_the_log() -> None:
    assert "max_connections" in fix_for("FATAL: sorry, too many clients already")
    assert fix_for("gibberish") == "look at the server's log"
