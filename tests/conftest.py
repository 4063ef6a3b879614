"""Fixtures: a data folder of the tests' own, with a real Postgres in it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import settings
from playwright.sync_api import Browser

from kdecay_search.storage import Storage, embedded_url
from kdecay_search.storage.embedded.data import ROLE, SUPERUSER
from kdecay_search.storage.url import parse_url
from tests.support import browser
from tests.support.kdecay_command import Kdecay
from tests.support.postgres_servers import server_user

# As many test processes, and their children, as there are cores: no library starts more threads.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# A busy machine is slow and not wrong; and CI tries the same examples every time.
settings.register_profile("unhurried", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "unhurried")


def pytest_configure(config: pytest.Config) -> None:
    """Make the user that database servers run as before several processes want to make it."""
    if not hasattr(config, "workerinput"):
        server_user()


ACCEPTANCE_ROOMS = {"chaos", "cli", "deployment", "whole_studies"}
INTEGRATION_ROOMS = {"benchmarks", "storage", "training", "user_code", "worker"}
ACCEPTANCE_FIXTURES = {"kdecay", "alone"}
INTEGRATION_FIXTURES = {"storage", "storage_url", "chromium"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it starts: ``unit`` nothing, ``integration`` one real part (a
    database, a browser, torch, a process), ``acceptance`` the commands as users run them."""
    tests = Path(__file__).parent
    for item in items:
        room = item.path.relative_to(tests).parts[0]
        fixtures = set(getattr(item, "fixturenames", ()))
        if room in ACCEPTANCE_ROOMS or fixtures & ACCEPTANCE_FIXTURES:
            item.add_marker("acceptance")
        elif room in INTEGRATION_ROOMS or fixtures & INTEGRATION_FIXTURES:
            item.add_marker("integration")
        else:
            item.add_marker("unit")


@pytest.fixture(scope="session")
def home() -> Path:
    """The user's data folder for this test process; a short path, since it holds a socket."""
    folder = Path(tempfile.mkdtemp(prefix="kdecay-test-"))
    os.environ["KDECAY_HOME"] = str(folder)
    os.environ.pop("KDECAY_STORAGE", None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs after the server's end
    return folder


@pytest.fixture(scope="session")
def storage_url(home: Path) -> str:
    """The embedded Postgres: kept running by this process until it ends. It need not outlive the
    machine's power: tests kill processes, whose writes the kernel keeps."""
    url = embedded_url()
    superuser = parse_url(url).set(username=SUPERUSER)
    engine = sqlalchemy.create_engine(superuser, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("ALTER SYSTEM SET fsync = off"))
        connection.execute(sqlalchemy.text("SELECT pg_reload_conf()"))
        connection.execute(sqlalchemy.text(f"ALTER ROLE {ROLE} CREATEDB"))  # for tests' own
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.running() as started:
        yield started


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """Remove the environment variables that a test's libraries add to this process: torch notes its
    cache folder, which the programs that later tests start would inherit."""
    before = set(os.environ)
    yield
    for name in os.environ.keys() - before:
        del os.environ[name]


@pytest.fixture
def storage(storage_url: str) -> Iterator[Storage]:
    connected = Storage(storage_url)
    yield connected
    connected.close()


@pytest.fixture
def kdecay(home: Path, storage_url: str) -> Kdecay:
    """The command, on the same embedded Postgres as ``storage``."""
    return Kdecay(home)


@pytest.fixture(scope="session")
def new_database(storage_url: str) -> Callable[[], str]:
    """Makes a database with the tables and nothing in them, and returns its URL. It is a copy of
    one whose tables were made once, since that takes a second."""
    url = parse_url(storage_url)

    def make(name: str, template: str) -> str:
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        engine.dispose()
        return url.set(database=name).render_as_string(hide_password=False)

    Storage(make("tables", "template1")).close()
    return lambda: make(f"alone_{uuid.uuid4().hex}", "tables")


@pytest.fixture
def alone(home: Path, new_database: Callable[[], str]) -> Kdecay:
    """The command on a database of its own, where no other test has left studies."""
    return Kdecay(home, new_database())


@pytest.fixture
def own(alone: Kdecay) -> Iterator[Storage]:
    """The database of ``alone``, which holds no other test's studies."""
    assert alone.url is not None
    connected = Storage(alone.url)
    yield connected
    connected.close()


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where own code lies and workers are started: the current folder, until the test ends."""
    place = tmp_path / "mine"
    place.mkdir()
    monkeypatch.chdir(place)
    return place
