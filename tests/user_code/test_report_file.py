"""CSV and JSON-lines files that are read while a program writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.errors import TaskError
from kdecay_search.study.report_source import ReportSource
from kdecay_search.user_code.report_file import FollowedFile
from kdecay_search.user_code.report_rows import RowReader, value_of

HEADER = "epoch,train_loss,eval_top1\n"


def followed(folder: Path, file: str = "summary.csv", **keys: Any) -> FollowedFile:
    keys = {"step": "epoch", "value": "eval_top1"} | keys
    return FollowedFile(ReportSource(file=file, **keys), folder)


def values(rows: Iterable[Any], name: str = "eval_top1") -> list[str]:
    return [value_of(row, name) for row in rows]


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


# ---- rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(1, 40))
def test_pieces_of_any_size_make_the_same_rows(cut: int) -> None:
    text = b"epoch,eval_top1\r\n0,91.5\r\n1,92.25\r\n2,93"
    reader = RowReader("eval_top1")
    pieces = [text[start : start + cut] for start in range(0, len(text), cut)]
    rows = [row for piece in pieces for row in reader.feed(piece)]
    assert values(rows) == ["91.5", "92.25"], "the last line may not be complete"
    assert values(reader.finish()) == ["93"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffepoch,eval_top1\n1,5\n",
        "epoch\teval_top1\n1\t5\n",
        "epoch;eval_top1\n1;5\n",
        "          epoch,      eval_top1\n              1,              5\n",
        'epoch,"eval_top1"\n1,"5"\n',
        "# made by a program\nseed,3\n\nepoch,eval_top1\n1,5\n",
        '{"epoch": 1, "eval_top1": "5"}\n',
        '{"loss": 3}\n{"epoch": 1, "eval_top1": "5"}\nnot json\n',
    ],
)
def test_forms_of_tables(text: str) -> None:
    rows = [row for row in RowReader("eval_top1").feed(text.encode()) if "eval_top1" in row]
    assert values(rows) == ["5"]
    assert str(rows[0]["epoch"]) == "1"


def test_a_header_that_comes_again_counts_from_there_on() -> None:
    text = "epoch,loss\n0,3\nepoch,loss,eval_top1\n0,3,50\nepoch,eval_top1,loss\n1,60,2\n"
    assert values(RowReader("eval_top1").feed(text.encode())) == ["50", "60"]


def test_keys_of_nested_objects() -> None:
    row = {"eval": {"loss": 0.5, "none": None}, "a.b": 1}
    assert [value_of(row, name) for name in ("eval.loss", "a.b", "eval.none", "eval.loss.x")] == [
        0.5, 1, None, None
    ]  # fmt: skip
    reader = RowReader("eval.loss")
    assert len(list(reader.feed(json.dumps(row).encode() + b"\n"))) == 1
    assert reader.names == ("eval.loss", "eval.none", "a.b")


# ---- a file that grows ------------------------------------------------------------------------


def test_rows_come_as_the_file_grows(tmp_path: Path) -> None:
    path, file = tmp_path / "summary.csv", followed(tmp_path)
    assert file.rows() == []
    append(path, HEADER + "0,3.0,10.5\n1,2.")
    assert values(file.rows()) == ["10.5"]
    assert file.rows() == []
    append(path, "5,20.5\n2,2.0,\n3,1.5,30.5")
    assert values(file.rows()) == ["20.5"], "an empty cell is no report"
    assert values(file.rows(is_last=True)) == ["30.5"]


@pytest.mark.parametrize("by", ["in place", "replaced"])
def test_a_file_that_is_written_anew_repeats_no_row(tmp_path: Path, by: str) -> None:
    """pandas and Lightning's CSVLogger write the whole table each time."""
    path, file, found = tmp_path / "summary.csv", followed(tmp_path), []
    for count in range(1, 6):
        header = HEADER if count < 4 else "epoch,lr,train_loss,eval_top1\n"
        row = "{0},3,{0}0\n" if count < 4 else "{0},.1,3,{0}0\n"
        text = header + "".join(row.format(number) for number in range(1, count + 1))
        if by == "in place":
            path.write_text(text)
        else:
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").rename(path)
        found += values(file.rows())
    assert found == ["10", "20", "30", "40", "50"]


def test_a_folder_whose_name_the_program_chooses(tmp_path: Path) -> None:
    file = followed(tmp_path, "**/summary.csv")
    (tmp_path / "2026-01-02-resnet").mkdir()
    append(tmp_path / "2026-01-02-resnet/summary.csv", HEADER + "0,3,10\n")
    assert values(file.rows()) == ["10"]


def test_several_files_are_ambiguous(tmp_path: Path) -> None:
    file = followed(tmp_path, "*.csv")
    for name in ("a.csv", "b.csv"):
        append(tmp_path / name, HEADER)
    with pytest.raises(TaskError, match=r"several files match: a\.csv, b\.csv"):
        file.rows()


def test_rows_of_an_earlier_attempt_are_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    append(path, HEADER + "0,3,10\n1,2,20\n2,1.")  # was killed while it wrote
    file = followed(tmp_path)
    assert file.rows() == []
    append(path, "2,1.5,30\n")
    assert values(file.rows()) == ["30"]


def test_a_file_of_an_earlier_attempt_that_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    append(path, HEADER + "0,3,10\n1,2,20\n")
    file = followed(tmp_path)
    path.write_text(HEADER + "0,4,11\n")
    assert values(file.rows()) == ["11"]
    append(path, "1,4,12\n2,4,13\n")
    assert values(file.rows()) == ["12", "13"]


def test_a_file_in_another_folder_than_an_earlier_attempt_s(tmp_path: Path) -> None:
    """As timm does, which adds a number to the name of a folder that exists."""
    for folder in ("run", "run-1"):
        (tmp_path / folder).mkdir()
    append(tmp_path / "run/summary.csv", HEADER + "0,3,10\n")
    file = followed(tmp_path, "*/summary.csv")
    append(tmp_path / "run-1/summary.csv", HEADER + "1,2,20\n")
    assert values(file.rows()) == ["20"]


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "summary.csv")
    assert followed(tmp_path).rows() == []
    file = followed(tmp_path, "later.csv")
    append(tmp_path / "later.csv", HEADER)
    assert file.rows() == []
    (tmp_path / "later.csv").unlink()
    os.mkfifo(tmp_path / "later.csv")
    assert file.rows() == []


# ---- why there is no report -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        (None, {}, "the program wrote no such file; {output_dir} has other/log.txt"),
        ("", {}, "summary.csv is empty, or no table; it must be CSV or JSON lines"),
        ('[{"epoch": 1}]\n', {}, "summary.csv is a JSON array; it must be CSV or JSON lines"),
        (
            HEADER + "0,3,10\n", {"value": "top1"},
            "task.report.value = 'top1': summary.csv has no such column; it has epoch, train_loss, "
            "eval_top1",
        ),
        (HEADER + "0,3,\n", {}, "summary.csv has no value in this column; it has epoch"),
        (
            '{"epoch": 1, "eval": {"loss": 3}}\n', {"value": "eval.top1"},
            "task.report.value = 'eval.top1': summary.csv has no such key; it has epoch, eval.loss",
        ),
    ],
)  # fmt: skip
def test_why_there_is_no_report(
    tmp_path: Path, text: str | None, keys: dict[str, str], message: str
) -> None:
    (tmp_path / "other").mkdir()
    append(tmp_path / "other/log.txt", "x")
    file = followed(tmp_path, **keys)
    if text is not None:
        append(tmp_path / "summary.csv", text)
    assert file.rows(is_last=True) == []
    assert message in file.problem()
