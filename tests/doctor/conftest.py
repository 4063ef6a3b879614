"""Databases in which each test may make what it needs, and look at what it left."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from kdecay_search.storage import Storage
from tests.doctor.databases import execute
from tests.support.postgres_servers import PASSWORD, Server, password_server


@pytest.fixture(scope="module")
def server(storage_url: str) -> Iterator[Server]:
    with password_server() as started:
        yield started


@pytest.fixture
def empty(server: Server) -> str:
    """The URL of a new database."""
    name = f"empty_{uuid.uuid4().hex}"
    execute(server.url(PASSWORD), f"CREATE DATABASE {name}")
    return server.url(PASSWORD).removesuffix("postgres") + name


@pytest.fixture
def used(empty: str) -> str:
    """The URL of a database with Optuna's tables."""
    Storage(empty).close()
    return empty
