"""One bad row: its study is shown as unreadable and left alone, and all others go on."""

from __future__ import annotations

import json
import threading
from itertools import cycle
from pathlib import Path

import pytest
import sqlalchemy

from kdecay_search import reconcile
from kdecay_search.errors import InvalidSpec, UnreadableStudy
from kdecay_search.report.dashboard.publisher import Publisher
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, queue, records
from kdecay_search.storage.parameters import distributions, parameters
from kdecay_search.study.file import load
from tests.support.kdecay_command import Kdecay, simulated_study

VALUE = "UPDATE trial_values SET {} WHERE trial_id = :trial"
PARAMETER = "UPDATE trial_params SET {} WHERE trial_id = :trial AND param_name = '{}'"
TRIAL = "UPDATE trial_user_attributes SET value_json = '{}' WHERE trial_id = :trial AND key = '{}'"
STUDY = "UPDATE study_user_attributes SET value_json = {} WHERE study_id = :study AND key = '{}'"
BAD_ROWS = {
    "told NaN": VALUE.format("value = 'NaN'"),
    "told 1e308": VALUE.format("value = 1e308"),
    "told -1e308": VALUE.format("value = -1e308"),
    "told nothing": "DELETE FROM trial_values WHERE trial_id = :trial",
    "unknown distribution": PARAMETER.format("distribution_json = '{{}}'", "lr_max"),
    "distribution that is not JSON": PARAMETER.format("distribution_json = 'what?'", "lr_max"),
    "no such choice": PARAMETER.format("param_value = 77", "lr_max"),
    "k of NaN": PARAMETER.format("param_value = 'NaN'", "k"),
    "attribute that is not JSON": TRIAL.format("{what?", "bounds"),
    "attribute that is too deep": TRIAL.format("[" * 100_000, "bounds"),
    "spec that is not JSON": STUDY.format("'{what?'", "spec"),
    "spec that is no text": STUDY.format("'[1, 2]'", "spec"),
    "spec that does not parse": STUDY.format("to_json('{\"name\": 1}'::text)", "spec"),
    "spec of another study": STUDY.format("replace(value_json, 'bad-', 'other-')", "spec"),
    "spec that is null": STUDY.format("NULL", "spec"),
}
HARMLESS_ROWS = {
    "told infinity, as diverged runs": VALUE.format("value = NULL, value_type = 'INF_POS'"),
    "message that is not JSON": TRIAL.format("{what?", "worker"),
    "note that is not JSON": (
        "INSERT INTO study_user_attributes (study_id, key, value_json) "
        "VALUES (:study, 'note', '{what?'), (:study, NULL, '1'), (:study, 'nothing', NULL)"
    ),
    "epoch of infinity": (
        "INSERT INTO trial_intermediate_values "
        "(trial_id, step, intermediate_value, intermediate_value_type) VALUES "
        "(:trial, 1, 1e308, 'FINITE'), (:trial, 2, NULL, 'INF_POS'), (:trial, 3, NULL, 'NAN')"
    ),
}


@pytest.fixture
def own(alone: Kdecay) -> Storage:
    assert alone.url is not None
    return Storage(alone.url)


def break_study(storage: Storage, tmp_path: Path, name: str, statement: str) -> None:
    """Launch a study with one result, and write a bad row to it."""
    one_k = {"search__k_max": 1.0, "search__k_cap": 1.0, "search__seeds": 1}
    spec = load(simulated_study(tmp_path, name=name, search__lr_max=[0.1, 0.2], **one_k))
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, name)
    claim = queue.claim(storage, name, "me")
    assert claim is not None
    spaces = distributions(claim.request)
    queue.give_parameters(storage, claim.trial_id, parameters(claim.request), spaces)
    queue.complete(storage, claim.trial_id, 5.0)
    with storage.engine.begin() as connection:
        values = {"trial": claim.trial_id, "study": claim.study_id}
        bound = sqlalchemy.text(statement)
        used = {key: values[key] for key in bound.compile().params}
        assert connection.execute(bound, used).rowcount > 0


def test_every_command_and_worker_goes_on(alone: Kdecay, own: Storage, tmp_path: Path) -> None:
    """One worker and one list meet all bad rows, each in a study of its own, and each of the
    commands on one study meets some."""
    names = {bad: f"bad-{number}" for number, bad in enumerate(BAD_ROWS)}
    for bad, name in names.items():
        break_study(own, tmp_path, name, BAD_ROWS[bad])
        with pytest.raises((UnreadableStudy, InvalidSpec)):
            pytest.fail(f"{bad}: {read_snapshot(own, name).plan}")
    file = simulated_study(tmp_path, name="good", search__seeds=1, task__epochs=2)
    alone.run("launch", file, "--detach", "--workers", "0")
    worker = alone.run("worker", "--drain")
    listed = alone.run("list", "--json")
    shown = {each["study"]: each for each in json.loads(listed.stdout)}
    assert shown["good"]["state"] == "done"
    assert alone.run("list").stdout.count("unreadable") == len(BAD_ROWS)
    for (bad, name), command in zip(names.items(), cycle(("status", "report", "best"))):
        assert f"{name} is left alone" in worker.stderr, bad
        assert shown[name]["state"] == "unreadable", bad
        assert f"{name}: {shown[name]['reason']}\n" in listed.stderr, bad
        refused = alone.run(command, name, code=2)
        assert len(refused.stderr.splitlines()) == 1, (bad, refused.stderr)
        assert "unforeseen" not in refused.stderr, bad
    assert alone.json("status", "good")["state"] == "done"
    own.close()


def test_rows_that_decide_nothing_are_skipped(alone: Kdecay, own: Storage, tmp_path: Path) -> None:
    names = {row: f"odd-{number}" for number, row in enumerate(HARMLESS_ROWS)}
    for row, name in names.items():
        break_study(own, tmp_path, name, HARMLESS_ROWS[row])
    alone.run("worker", "--drain")
    for row, name in names.items():
        assert alone.json("status", name)["state"] == "done", row
    own.close()


def test_error_in_planning_is_one_line(
    own: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a record leads to that nobody has thought of."""
    reconcile.launch(own, load(simulated_study(tmp_path, name="odd")))

    def fail(*arguments: object) -> None:
        raise ValueError("need at least one array to concatenate")

    monkeypatch.setattr("kdecay_search.snapshot.make_plan", fail)
    with pytest.raises(UnreadableStudy, match="study 'odd' cannot be read: ValueError: need"):
        reconcile.reconcile(own, "odd")
    own.close()


def test_dashboard_publishes_the_others(own: Storage, tmp_path: Path) -> None:
    break_study(own, tmp_path, "bad", BAD_ROWS["told NaN"])
    reconcile.launch(own, load(simulated_study(tmp_path, name="good")))
    reconcile.reconcile(own, "good")
    Publisher(own).look(threading.Event())
    good = records.stage_ids(own, "good")[1]
    assert own.optuna.get_study_system_attrs(good)
    own.close()
