"""Workers on two hosts, which share Debian's Postgres over TLS and by PgBouncer."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.doctor.check import Check, Severity
from kdecay_search.doctor.database import database_checks
from kdecay_search.errors import StorageUnavailable
from kdecay_search.storage import Storage
from tests.chaos import hosts
from tests.chaos.hosts import Link, second_host
from tests.deployment import debian
from tests.deployment.debian import Service, pgbouncer, postgres
from tests.deployment.studies import launched, summary_of
from tests.support.kdecay_command import (
    KDECAY,
    TIMEOUT_SECONDS,
    Kdecay,
    errors_by_run,
    simulated_study,
)

NO_SERVICES = debian.why_not("postgres", "pgbouncer", "openssl")
NO_HOST = hosts.unavailable_reason()

pytestmark = pytest.mark.skipif(NO_SERVICES is not None, reason=str(NO_SERVICES))
on_two_hosts = pytest.mark.skipif(NO_HOST is not None, reason=str(NO_HOST))

RUNS = 10
"""Five candidates of two seeds."""


@pytest.fixture
def link() -> Iterator[Link]:
    with second_host() as made:
        yield made


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A server with an empty database, at an address that the second host sees, if there is one."""
    address = (
        request.getfixturevalue("link").near if "link" in request.fixturenames else "127.0.0.1"
    )
    with postgres(address) as service:
        yield service


def owner_of(server: Service) -> str:
    """The URL of a new user that may make tables."""
    url = server.add_user("owner")
    server.execute("ALTER DATABASE kdecay OWNER TO owner")
    return url


def study(folder: Path, name: str) -> str:
    return simulated_study(folder, name=name, task__epoch_seconds=0.1)


class Workers:
    """``kdecay worker`` processes, and what they logged."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, url: str, *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.processes.append(
            subprocess.Popen(
                [*prefix, *KDECAY, "worker", *arguments],
                env=Kdecay(self.home, url).environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    def trials(self, end: signal.Signals | None = None) -> list[int]:
        """Wait for all, having sent them a signal; how many trials each has done, by its log."""
        for process in self.processes:
            if end is not None:
                process.send_signal(end)
        return [self._trials(process) for process in self.processes]

    @staticmethod
    def _trials(process: subprocess.Popen[str]) -> int:
        _, log = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, log
        for word in ("Traceback", "storage:", "no heartbeat"):
            assert word not in log, log
        found = re.search(r"ends after (\d+) trials", log)
        assert found is not None, log
        return int(found[1])

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def workers(home: Path) -> Iterator[Workers]:
    started = Workers(home)
    yield started
    started.kill()


def finished_runs(summary: dict[str, Any]) -> int:
    assert summary["state"] == "done"
    return len(errors_by_run(summary))


@on_two_hosts
def test_two_hosts_share_a_study_over_tls(
    home: Path, tmp_path: Path, link: Link, server: Service, workers: Workers
) -> None:
    storage = launched(owner_of(server), study(tmp_path, "hosts"))
    here, there = (
        server.add_user(name, "IN ROLE owner CONNECTION LIMIT 2") for name in ("here", "there")
    )
    workers.start(here, "--study", "hosts", "--drain")
    workers.start(there, "--study", "hosts", "--drain", prefix=link.prefix)
    done = workers.trials()
    assert all(done)
    assert sum(done) == finished_runs(summary_of(storage, "hosts")) == RUNS
    storage.close()


@on_two_hosts
def test_study_through_a_transaction_pooler(
    home: Path, tmp_path: Path, link: Link, server: Service, workers: Workers
) -> None:
    """Four processes with up to eight connections share three; they begin on an empty database."""
    owner_of(server)
    with pgbouncer(server, ["owner"], pool_size=3) as pooler:
        for prefix in ([], [], link.prefix):
            workers.start(pooler.url("owner"), prefix=prefix)
        launch = ("launch", study(tmp_path, "pooled"), "--workers", "0")
        summary = Kdecay(home, pooler.url("owner")).json(*launch)
        done = workers.trials(signal.SIGTERM)
    assert sum(done) == finished_runs(summary) == RUNS


def by_subject(url: str) -> dict[str, Check]:
    return {check.subject: check for check in database_checks(url, 1)}


def test_client_certificate_replaces_the_password(server: Service) -> None:
    owner_of(server)
    server.add_user("certified", "IN ROLE owner")
    certificate, key = server.certificates.sign("certified")
    pair = {"sslcert": str(certificate), "sslkey": str(key)}
    Storage(server.url("certified", None, **pair)).close()
    with pytest.raises(StorageUnavailable, match="valid client certificate"):
        Storage(server.url("certified", None))


def test_doctor_shows_tls_and_pooler_and_names_the_fix(server: Service) -> None:
    url = owner_of(server)
    direct = by_subject(url)
    assert "TLSv1.3" in direct["server"].value
    assert "pooler" not in direct["server"].value
    server.certificates.sign("stranger")
    stranger = str(server.certificates.pair("stranger")[0])
    unknown = by_subject(server.url("owner", sslrootcert=stranger))["server"]
    assert (unknown.severity, "sslrootcert" in str(unknown.fix)) == (Severity.ERROR, True)
    missing = by_subject(server.url("owner", sslrootcert="/nowhere.pem"))["server"]
    assert "sslrootcert" in str(missing.fix)
    plain = by_subject(server.url("owner", sslmode="disable"))["server"]
    assert "sslmode=verify-full" in str(plain.fix)
    with pgbouncer(server, ["owner"], pool_size=1) as pooler:
        pooled = by_subject(pooler.url("owner"))
        assert "behind a pooler, TLSv1.3" in pooled["server"].value
        assert "shared by the pooler's clients" in pooled["connections"].value
        options = by_subject(pooler.url("owner", options="-csearch_path=public"))["server"]
        assert "ignore_startup_parameters" in str(options.fix)
        wrong = by_subject(pooler.url("owner", "wrong"))["server"]
        assert "password" in str(wrong.fix)
