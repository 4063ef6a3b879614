"""``[task.report]``: where the reports of a program are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdecay_search.study.file import from_json, load, to_toml
from kdecay_search.study.user_tasks import CommandTask
from tests.study.files import refused, written
from tests.support.memory_studies import study_table

COMMAND = ["sh", "train.sh", "{k}", "{output_dir}"]


def table(report: dict[str, Any], command: list[str] = COMMAND, **task: Any) -> dict[str, Any]:
    command_task = {"kind": "command", "epochs": 3, "command": command, "report": report}
    return {**study_table(), "task": command_task | task}


FILE = {"file": "*/summary.csv", "step": "epoch", "value": "eval_top1"}


@pytest.mark.parametrize(
    ("report", "command", "folder", "inside"),
    [
        (FILE, COMMAND, "output_dir", "*/summary.csv"),
        (FILE | {"file": "{output_dir}/a.csv"}, COMMAND, "output_dir", "a.csv"),
        (
            FILE | {"file": "{checkpoint_dir}/a.csv", "first": 0},
            ["sh", "{k}", "{checkpoint_dir}"],
            "checkpoint_dir",
            "a.csv",
        ),
        ({"pattern": "loss (?P<value>.*)"}, ["sh", "{k}"], None, ""),
    ],
)
def test_where_reports_are_is_stored(
    tmp_path: Path, report: dict[str, Any], command: list[str], folder: str | None, inside: str
) -> None:
    spec = load(written(tmp_path, table(report, command)))
    assert from_json(spec.to_json()) == spec
    again = tmp_path / "again.toml"
    again.write_text(to_toml(spec))
    assert load(again) == spec
    task = spec.task
    assert isinstance(task, CommandTask)
    assert task.report is not None
    assert (task.report.folder, task.report.path_in_folder) == (folder, inside)
    assert task.report.has_step == (folder is not None)


def test_a_study_without_the_table_is_stored_as_before(tmp_path: Path) -> None:
    whole = table(FILE)
    del whole["task"]["report"]
    assert '"report"' not in load(written(tmp_path, whole)).to_json()


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({}, "needs either file or pattern"),
        (FILE | {"pattern": "(?P<value>.)"}, "needs either file or pattern"),
        ({"file": "a.csv"}, "needs value: the column or key of the metric in the file"),
        (FILE | {"file": "/tmp/a.csv"}, "must be a path in {output_dir} or in {checkpoint_dir}"),
        (FILE | {"file": "../a.csv"}, "must be a path in {output_dir}"),
        (FILE | {"file": "{output_dir}/"}, "must be a path in {output_dir}"),
        (FILE | {"file": "{seed}/a.csv"}, "may begin with {output_dir}/ or {checkpoint_dir}/"),
        (FILE | {"file": "a**/b.csv"}, "** stands for whole folders"),
        ({"pattern": "("}, "is not a regular expression"),
        ({"pattern": r"loss (\d+)"}, "needs a group for the metric"),
        ({"pattern": "(?P<value>.)(?P<acc>.)"}, "has a group 'acc'; known are step, value"),
        ({"pattern": "(?P<value>.)", "step": "s"}, "step belongs to file; in a pattern it is"),
        (FILE | {"colum": "x"}, "task.report.colum: unknown key"),
        (
            FILE | {"file": "{checkpoint_dir}/a.csv"},
            "file lies in {checkpoint_dir}, so task.command must pass {checkpoint_dir}",
        ),
    ],
)
def test_tables_that_say_too_little_or_too_much(
    tmp_path: Path, report: dict[str, Any], message: str
) -> None:
    text = refused(tmp_path, table(report))
    assert "task.report" in text
    assert message in text


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"pattern": "(?P<value>.)"}, "needs step, since a program that resumes"),
        ({"pattern": "(?P<step>.)(?P<value>.)"}, "needs first: whether the program counts epochs"),
    ],
)
def test_a_program_that_resumes_numbers_its_reports(
    tmp_path: Path, report: dict[str, Any], message: str
) -> None:
    assert message in refused(tmp_path, table(report, ["sh", "{k}", "{checkpoint_dir}"]))
