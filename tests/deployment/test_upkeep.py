"""Backup, restoration, and the upgrade of the tables, as docs/operations.md describes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdecay_search.errors import StorageError
from kdecay_search.storage import Storage
from kdecay_search.storage.url import parse_url
from tests.deployment import debian
from tests.deployment.debian import Service, postgres
from tests.deployment.studies import summary_of
from tests.support.kdecay_command import Kdecay, simulated_study

NO_SERVICES = debian.why_not("postgres", "openssl")
pytestmark = pytest.mark.skipif(NO_SERVICES is not None, reason=str(NO_SERVICES))

OLDER_TABLES = """
    DROP INDEX ix_trials_study_id;
    UPDATE alembic_version SET version_num = 'v3.0.0.d';
    UPDATE version_info SET library_version = '3.1.0';
"""
"""Undoes what Optuna 3.2 to 5.0 added to the tables of 3.1 (its migration v3.2.0.a)."""


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    with postgres() as service:
        yield service


def shell(command: str, **environment: str) -> None:
    subprocess.run(
        ["bash", "-euc", command], env=os.environ | environment, check=True, capture_output=True
    )


def test_backup_is_restored(home: Path, tmp_path: Path, server: Service) -> None:
    before = Kdecay(home, server.url("postgres"))
    study = simulated_study(tmp_path, name="kept", search__seeds=1)
    summary = before.json("launch", study, "--workers", "1")
    server.execute("CREATE DATABASE restored")
    copy = server.url("postgres", database="restored")
    guide = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    for command in ('pg_dump "$KDECAY_STORAGE" > studies.sql',
                    'psql "$KDECAY_STORAGE" < studies.sql'):  # fmt: skip
        assert f"`{command}`" in guide
    dump = f'cd {tmp_path}; pg_dump "$KDECAY_STORAGE" > studies.sql'
    shell(dump, KDECAY_STORAGE=server.url("postgres"))
    shell(f'cd {tmp_path}; psql "$KDECAY_STORAGE" < studies.sql', KDECAY_STORAGE=copy)
    restored = Storage(copy)
    assert summary_of(restored, "kept") == summary
    restored.close()


def test_older_tables_are_refused_until_upgraded(server: Service) -> None:
    server.execute("CREATE DATABASE aged")
    url = server.url("postgres", database="aged")
    Storage(url).close()
    server.execute(OLDER_TABLES, database="aged")
    with pytest.raises(StorageError, match="optuna storage upgrade"):
        Storage(url)
    optuna = Path(sys.executable).with_name("optuna")
    target = parse_url(url).render_as_string(hide_password=False)
    shell(f"{optuna} storage upgrade", OPTUNA_STORAGE=target)
    Storage(url).close()
