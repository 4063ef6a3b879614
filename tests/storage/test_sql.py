"""Every SQL text, on tables that the pinned Optuna has made."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

import kdecay_search
from kdecay_search import reconcile
from kdecay_search.storage import (
    Storage,
    attributes,
    history,
    parameters,
    queue,
    records,
    schema,
    sql,
)
from kdecay_search.storage.sql import queue as queue_sql
from kdecay_search.storage.sql import server
from kdecay_search.storage.url import parse_url
from kdecay_search.study.file import load
from kdecay_search.study.spec import NAME_PATTERN
from tests.support.kdecay_command import simulated_study

MODULES = [
    importlib.import_module(f"{sql.__name__}.{found.name}")
    for found in pkgutil.iter_modules(sql.__path__)
]
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": texts
    for module in MODULES
    for name, value in vars(module).items()
    for texts in [value if isinstance(value, tuple) else (value,)]
    if isinstance(texts[0], sqlalchemy.TextClause)
}
"""Every constant that is a statement, or a few that belong together."""
UTILITY = {"server.TRY_CREATE"}
"""Statements that are no query, and name none of Optuna's tables."""
FINDS_NOTHING = UTILITY | {"server.MISSING_PERMISSIONS"}  # a superuser lacks none
"""Statements for which there are no rows in the example."""
BEFORE = {
    "server.TRY_DELETE": server.TRY_WORK,
    "queue.RESUME": (queue_sql.PAUSE,),
    "queue.CLOSE_PAUSED": (queue_sql.PAUSE,),
}
"""Statements that make the rows for another one."""


@pytest.fixture(scope="module")
def fresh(storage_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A database whose tables Optuna alone has made, with a study under way in it."""
    url = parse_url(storage_url)
    name = f"sql_{uuid.uuid4().hex}"
    admin = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    own = url.set(database=name).render_as_string(hide_password=False)
    RDBStorage(own).engine.dispose()
    storage = Storage(own)
    file = simulated_study(tmp_path_factory.mktemp("sql"), name="study", search__seeds=3)
    reconcile.launch(storage, load(file))
    reconcile.reconcile(storage, "study")
    for end in (queue.complete, None):
        claim = queue.claim(storage, "study", "me")
        assert claim is not None
        assert queue.report(storage, claim, 1, 40.0)
        if end is not None:
            end(storage, claim.trial_id, 5.0, {"validation_error": [5.0]})
    storage.optuna.set_study_system_attr(claim.study_id, "note", "a note")
    given = parameters.parameters(claim.request)
    queue.give_parameters(storage, claim.trial_id, given, parameters.distributions(claim.request))
    yield storage
    storage.close()


@pytest.fixture(scope="module")
def values(fresh: Storage) -> dict[str, Any]:
    """An example of every parameter: statements find rows with it, or write some."""
    with fresh.engine.connect() as connection:
        rows = connection.execute(sqlalchemy.text("SELECT state, trial_id, study_id FROM trials"))
        by_state = {row.state: row for row in rows}
    study_id, running = by_state["RUNNING"].study_id, by_state["RUNNING"].trial_id
    return {
        "attributes": list(attributes.RECORD),
        "beginning": '"me',
        "ended": datetime(2026, 1, 1),
        "ended_key": "ended",
        "first_stage": "study/k1",
        "fixed": ["{}"],
        "grace": -3600,  # nobody has sent a heartbeat for so long
        "id": -1,
        "ids": [row.trial_id for row in by_state.values()],
        "key": "worker",
        "keys": ["paused"],
        "latest": -1,
        "level": "lr_max",
        "longest": 1000,
        "looks": [1],
        "marks": ["spec"],
        "memory": '"memory"',
        "most": 2,
        "name": "a name",
        "names": ["validation_error"],
        "now": datetime(2026, 1, 1),
        "open": [],
        "overview_key": "overview",
        "parameter": "k",
        "pattern": f"{NAME_PATTERN[:-1]}/k1$",
        "places": [1],
        "param_names": ["k"],
        "param_places": [1],
        "param_spaces": ["{}"],
        "param_values": [2.0],
        "prefix": "study/",
        "request": "earlier_ks",
        "seed": "0",
        "spaces": ["{}"],
        "spec": "spec",
        "stage_name": "study/k9",
        "direction": "MAXIMIZE",
        "stage_pattern": records.STAGES_PATTERN,
        "state": "PRUNED",
        "step": 2,
        "study_id": study_id,
        "study_ids": [study_id],
        "study_names": ["study"],
        "texts": ["1"],
        "timeout": "30s",
        "trial_id": running,
        "trial_ids": [running],
        "type": "FINITE",
        "value": 1.5,
        "values": [2.0],
        "verbs": ["SELECT"],
        "worker": '"me"',
        "worker_key": "worker",
        "workers": ['"me"'],
    }


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_runs_and_finds_or_writes_rows(
    fresh: Storage, values: dict[str, Any], name: str
) -> None:
    with fresh.engine.connect() as connection:
        for statement in (*BEFORE.get(name, ()), *STATEMENTS[name]):
            given = {key: values[key] for key in statement.compile().params}
            found = connection.execute(statement, given).rowcount
            assert (found > 0) == (name not in FINDS_NOTHING)
        connection.rollback()


def test_tables_and_columns_are_those_of_optuna_s_models(
    fresh: Storage, values: dict[str, Any]
) -> None:
    """A function with the statement as its body: Postgres keeps a list of what it depends on."""
    known = {
        (table.name, column.name)
        for table in models.BaseModel.metadata.tables.values()
        for column in table.columns
    }
    used: set[tuple[str, str]] = set()
    for name in STATEMENTS.keys() - UTILITY:
        for statement in STATEMENTS[name]:
            found = columns_of(fresh, statement, values)
            assert found <= known | {("alembic_version", "version_num")}, name
            used |= found
    assert len({table for table, _ in used}) > 8  # the list is not empty for want of looking


def columns_of(
    storage: Storage, statement: sqlalchemy.TextClause, values: dict[str, Any]
) -> set[tuple[str, str]]:
    """The tables and columns that a statement names, without those of Postgres itself."""
    given = {key: values[key] for key in statement.compile().params}
    text = str(statement.compile(dialect=storage.engine.dialect))
    depends = sqlalchemy.text("""
        SELECT c.relname, a.attname FROM pg_depend d
        JOIN pg_proc p ON p.oid = d.objid AND p.proname = 'probe'
        JOIN pg_class c ON c.oid = d.refobjid AND c.relnamespace <> 'pg_catalog'::regnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjsubid > 0
    """)
    with storage.engine.connect() as connection, connection.connection.cursor() as cursor:
        body = cursor.mogrify(text, given).decode()
        cursor.execute(
            f"CREATE FUNCTION probe() RETURNS void LANGUAGE sql BEGIN ATOMIC {body}; END"
        )
        found = {(str(table), str(column)) for table, column in connection.execute(depends)}
        connection.rollback()
    return found


def test_names_of_tables_and_states_are_those_of_optuna_s_models() -> None:
    assert set(schema.TABLES) == set(models.BaseModel.metadata.tables)
    assert history.STATES.keys() == {state.name for state in TrialState}


def test_versions_are_all_that_the_pinned_optuna_knows(fresh: Storage) -> None:
    assert list(schema.VERSIONS) == fresh.rdb.get_all_versions()[::-1]
    assert schema.VERSION == fresh.rdb.get_head_version() == fresh.rdb.get_current_version()


@pytest.mark.parametrize("value", [0.0, -1.5, math.inf, -math.inf, math.nan])
def test_reported_values_are_stored_as_optuna_stores_them(value: float) -> None:
    of_report = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    stored, kind = of_report(value)
    assert queue.stored_value(value) == (stored, kind.name)


@pytest.mark.parametrize("value", [0.0, -1.5, math.inf, -math.inf, math.nan])
def test_result_is_read_by_optuna_as_it_was_written(fresh: Storage, value: float) -> None:
    claim = queue.claim(fresh, "study", "me")
    assert claim is not None
    queue.complete(fresh, claim.trial_id, value)
    read = fresh.rdb.get_trial(claim.trial_id).value
    assert read == pytest.approx(value, nan_ok=True)


def test_every_statement_says_what_it_does() -> None:
    """A statement's description is the string that follows it, as for any constant here."""
    for module in MODULES:
        body = ast.parse(inspect.getsource(module)).body
        for assignment, after in pairwise(body):
            if isinstance(assignment, ast.Assign) and isinstance(assignment.targets[0], ast.Name):
                name = assignment.targets[0].id
                described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert described or name.startswith("_"), f"{module.__name__}.{name}"


def test_no_sql_text_lies_anywhere_else() -> None:
    package = Path(kdecay_search.__file__).parent
    elsewhere = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "storage/sql" not in path.as_posix()
        and re.search(r"sqlalchemy\.text\(|sqlalchemy import .*\btext\b", path.read_text())
    ]
    assert elsewhere == []
