"""docs/operations.md is true: its permissions suffice, and its limits on what a database can do."""

from __future__ import annotations

import base64
import json
import pickle
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import optuna_dashboard
import pytest
import sqlalchemy

from kdecay_search.doctor.check import Severity
from kdecay_search.doctor.database import database_checks
from kdecay_search.errors import InvalidSpec
from kdecay_search.storage import Storage, records
from kdecay_search.storage.attributes import LAUNCH
from kdecay_search.storage.url import parse_url
from kdecay_search.study.trials import State
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay, simulated_study
from tests.support.memory_studies import images_table, study_table
from tests.support.postgres_servers import PASSWORD, Server, password_server

GUIDE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
ADMIN_SQL, OWNER_SQL = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def server(storage_url: str) -> Iterator[Server]:
    with password_server() as started:
        execute(started.url(PASSWORD), "CREATE DATABASE kdecay")
        yield started


def execute(url: str, sql: str) -> None:
    """Run each of the statements by itself, as psql does."""
    engine = sqlalchemy.create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in filter(str.strip, sql.split(";")):
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def url_of(server: Server, user: str, password: str) -> str:
    password = password.replace(" ", "%20")
    return f"postgresql://{user}:{password}@127.0.0.1:{server.port}/kdecay"


@pytest.fixture(scope="module")
def users(home: Path, server: Server) -> tuple[Kdecay, Kdecay]:
    """The command as the owner and as the worker of the guide, with the guide's SQL run."""
    execute(server.url(PASSWORD).removesuffix("postgres") + "kdecay", ADMIN_SQL)
    owner = url_of(server, "kdecay_owner", "change me")
    Kdecay(home, owner).run("list")
    execute(owner, OWNER_SQL)
    return Kdecay(home, owner), Kdecay(home, url_of(server, "kdecay_worker", "change me too"))


def test_permissions_of_the_guide_suffice(users: tuple[Kdecay, Kdecay], tmp_path: Path) -> None:
    owner, worker = users
    assert worker.url is not None
    assert {check.severity for check in database_checks(worker.url, 2)} == {Severity.OK}
    summary = worker.json("launch", simulated_study(tmp_path, name="least"), "--workers", "2")
    assert summary["state"] == "done"
    worker.run("publish", "least")
    as_worker = Storage(worker.url)
    page = optuna.load_study(study_name="least/k1", storage=as_worker.rdb)
    assert "The study is done" in optuna_dashboard.get_note(page)
    as_worker.close()
    assert worker.run("delete", "least", "--yes", code=2).stderr.count("\n") == 1
    owner.run("delete", "least", "--yes")
    assert owner.json("list") == []


# ---- what a database may ask of a worker ------------------------------------------------------


class Touch:
    """An object whose unpickling creates a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


MODULE = "kdecay_intruder"
"""A module that workers could import, which would create a file."""


def images(**task: Any) -> dict[str, Any]:
    table = images_table()
    return table | {"task": table["task"] | task}


HOSTILE: dict[str, Any] = {
    "unknown-kind": study_table(task={"kind": MODULE, "epochs": 1}),
    "kind-with-a-function": study_table(task={"kind": f"{MODULE}:run", "epochs": 1}),
    "own-model": images(model={"name": MODULE}),
    "own-data": images(data={"name": f"../{MODULE}"}),
    "own-key": study_table() | {"import": MODULE},
    "own-sampler": study_table(search={"sampler": f"{MODULE}.Sampler"}),
    "jsonpickle": {"py/object": f"{MODULE}.run", "py/reduce": [{"py/type": MODULE}]},
    "expression": f"__import__('{MODULE}').run()",
    "yaml": f"!!python/object/apply:{MODULE}.run []",
    "of-another-study": study_table("another"),
    "nothing": None,
    "number": 1,
    "deep": "[" * 100_000,
}
"""Specs by the name of the study. Texts are stored as they are, everything else as JSON."""


REQUEST = {"stage": 1, "candidate": 0, "seed": 0, "earlier_ks": [], "k": 1.0, "bounds": [1.0, 2.0],
         "protected": True}  # fmt: skip
HOSTILE_REQUESTS: list[dict[str, Any]] = [
    {},
    {"candidate": 0},
    REQUEST | {"stage": "1/../../../intruder"},
    REQUEST | {"seed": [0]},
    REQUEST | {"candidate": -1},
    REQUEST | {"k": float("nan")},
    REQUEST | {"k": "2"},
    REQUEST | {"earlier_ks": {"a": 1}},
    REQUEST | {"bounds": [1.0, 1e300]},
]


def plant(storage: Storage, name: str, **attributes: Any) -> None:
    """Write a study with a waiting trial, as an attacker with the database's password could."""
    study_id = records.create_stage(storage, name, 1)
    for key, value in attributes.items():
        storage.optuna.set_study_user_attr(study_id, key, value)
    storage.optuna.set_study_system_attr(study_id, "sampler", MODULE)
    plant_trial(storage, study_id, REQUEST)


def plant_trial(storage: Storage, study_id: int, request: dict[str, Any]) -> int:
    waiting = optuna.trial.create_trial(
        state=optuna.trial.TrialState.WAITING,
        system_attrs={"fixed_params": {"k": 1.0}},
        user_attrs=request,
    )
    return storage.optuna.create_new_trial(study_id, template_trial=waiting)


@pytest.fixture
def planted(alone: Kdecay, tmp_path: Path) -> Iterator[Storage]:
    """A database with all of the hostile studies; an import or unpickling creates a file."""
    mark = tmp_path / "mark"
    (tmp_path / f"{MODULE}.py").write_text(f"open({str(mark)!r}, 'w').close()")
    pickled = pickle.dumps(Touch(str(mark)))
    specs = HOSTILE | {
        "pickle": base64.b64encode(pickled).decode(),
        "raw-pickle": pickled.decode("latin-1"),
    }
    assert alone.url is not None
    storage = Storage(alone.url)
    for name, spec in specs.items():
        plant(storage, name, spec=spec if isinstance(spec, str) else json.dumps(spec), code=MODULE)
    plant(storage, "a\x1b]0;title\x07\n/../b", spec=json.dumps(study_table()))
    yield storage
    storage.close()
    assert not mark.exists()


def run_in(folder: Path, kdecay: Kdecay, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where it would find the intruder, if it looked for it."""
    process = kdecay.start(*arguments, cwd=folder)
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def test_stored_specs_cannot_run_code(alone: Kdecay, planted: Storage, tmp_path: Path) -> None:
    """A worker of all studies leaves them alone and serves the good one beside them."""
    alone.run("launch", simulated_study(tmp_path, name="good"), "--workers", "0", "--detach")
    good = records.stage_ids(planted, "good")[1]
    own = {LAUNCH: records.read_study(planted, "good").launch}
    foreign = [plant_trial(planted, good, request | own) for request in HOSTILE_REQUESTS]
    ignored = [plant_trial(planted, good, request) for request in HOSTILE_REQUESTS]
    worker = run_in(tmp_path, alone, "worker", "--drain")
    assert "Traceback" not in worker.stderr
    assert worker.stderr.replace("\n", "").isprintable()
    assert alone.json("status", "good")["state"] == "done"
    ended = {planted.optuna.get_trial(trial_id).state for trial_id in foreign}
    assert ended == {optuna.trial.TrialState.FAIL}
    left = {planted.optuna.get_trial(trial_id).state for trial_id in ignored}
    assert left == {optuna.trial.TrialState.WAITING}
    states = {
        trial.state
        for name in records.study_names(planted)
        if name != "good"
        for trial in records.read_trials(planted, name)
    }
    assert states == {State.WAITING}
    assert len(records.study_names(planted)) == len(HOSTILE) + 3


def test_worker_of_a_hostile_study_ends_with_one_line(
    alone: Kdecay, planted: Storage, tmp_path: Path
) -> None:
    ended = run_in(tmp_path, alone, "worker", "--study", "unknown-kind", "--drain")
    *_, last = ended.stderr.splitlines()
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert f"task.kind = \"{MODULE}\": must be 'images', 'python', 'command' or 'simulated'" in last
    for name in records.study_names(planted):
        with pytest.raises(InvalidSpec) as refused:
            records.read_study(planted, name)
        assert str(refused.value).isprintable()
