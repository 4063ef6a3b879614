"""Programs that cannot be changed: their reports are in a file, or in their log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.errors import TaskError
from kdecay_search.study.training_length import TrainingLength
from kdecay_search.tasks.protocol import Epoch, Lost, Released
from kdecay_search.user_code import command, monitoring, reporting_program
from kdecay_search.user_code.findings import findings
from kdecay_search.user_code.report_numbers import ReportCounter, number_of
from kdecay_search.user_code.tryout import Tryout, try_task
from tests.support.recorded_run import RecordedRun
from tests.user_code.programs import LONG, failure, let_time_fly, numbers, program

pytestmark = pytest.mark.usefixtures("own_folder")

CSV = {"file": "summary.csv", "step": "epoch", "value": "error", "averaged": "ema", "loss": "loss"}
HEADER = 'echo "epoch,loss,error,ema" > "$2/summary.csv"'


def row(*cells: object) -> str:
    return f'echo "{",".join(map(str, cells))}" >> "$2/summary.csv"'


def with_file(script: str, output: str = "{output_dir}", **run: Any) -> RecordedRun:
    report = CSV | run.pop("report", {})
    return program(script, output, task={"report": report} | run.pop("task", {}), **run)


def with_pattern(script: str, pattern: str, **run: Any) -> RecordedRun:
    report = {"pattern": pattern} | run.pop("report", {})
    return program(script, task={"report": report} | run.pop("task", {}), **run)


# ---- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_epochs_of_a_file_count_from_zero_or_one(first: int) -> None:
    rows = [row(first + n, 3 - n, 30 - n, 20 - n if n else "") for n in range(3)]
    run = with_file("\n".join([HEADER, *rows]))
    command.train(run)
    assert run.epochs == [
        Epoch(1, 3.0, 30.0, None), Epoch(2, 2.0, 29.0, 19.0), Epoch(3, 1.0, 28.0, 18.0)
    ]  # fmt: skip


def test_reports_arrive_while_the_program_runs() -> None:
    """The program waits for a file that a report makes."""
    wait = "while [ ! -e reported ]; do sleep .05; done"
    run = with_file("\n".join([HEADER, row(0, 3, 30, 9), wait, row(1, 2, 20, 9), row(2, 1, 10, 9)]))
    report = run.report

    def noted(epoch: Epoch) -> None:
        Path("reported").touch()
        report(epoch)

    run.report = noted  # type: ignore[method-assign]
    command.train(run)
    assert numbers(run) == [1, 2, 3]


def test_the_number_of_the_first_report_may_be_stated() -> None:
    """A validation before the training is no report."""
    rows = [row(number, 1, 10 + number, 9) for number in range(4)]
    run = with_file("\n".join([HEADER, *rows]), report={"first": 1})
    command.train(run)
    assert [(epoch.number, epoch.validation_error) for epoch in run.epochs] == [
        (1, 11.0), (2, 12.0), (3, 13.0)
    ]  # fmt: skip


def test_json_lines_with_nested_keys_and_no_numbers() -> None:
    line = """echo '{"split": "val", "eval": {"error": 12.5}}' >> "$2/log.jsonl" """
    other = """echo '{"split": "train", "loss": 2}' >> "$2/log.jsonl" """
    report = {"file": "{output_dir}/*.jsonl", "value": "eval.error"}
    run = program("\n".join([other, line] * 3), "{output_dir}", task={"report": report})
    command.train(run)
    assert run.epochs == [Epoch(number, None, 12.5) for number in (1, 2, 3)]


def test_a_program_resumes_in_its_own_folder(tmp_path: Path) -> None:
    """It appends to the file of the attempt that was interrupted."""
    script = f"""
    n=$(cat "$2/epoch" || echo 0)
    [ $n != 0 ] || {HEADER}
    while [ $n -lt 3 ]; do
        echo "$n,1,$((30 - n)),9" >> "$2/summary.csv"; n=$((n + 1)); sleep .8; echo $n > "$2/epoch"
    done
    """
    report = {"file": "{checkpoint_dir}/summary.csv", "first": 0}
    first, second = (
        with_file(script, "{checkpoint_dir}", folder=tmp_path / "run", ends=ends, report=report)
        for ends in ({2: Released}, {})
    )
    with pytest.raises(Released):
        command.train(first)
    assert numbers(first) == [1, 2]
    (kept,) = tmp_path.glob("run/**/epoch")
    kept.write_text("2")
    command.train(second)
    assert numbers(second) == [3]
    assert second.restored == first.epochs
    assert second.epochs == [Epoch(3, 1.0, 28.0, 9.0)]


NO_FILE = "the program wrote no such file; {output_dir} has no file"
NO_COLUMN = "summary.csv has no such column; it has epoch, loss, error, ema"


@pytest.mark.parametrize(
    ("script", "report", "message"),
    [
        ("echo done", {}, f"file = 'summary.csv': {NO_FILE}"),
        (f"{HEADER}; {row(1, 2, 3, 4)}", {"value": "top1"}, f"value = 'top1': {NO_COLUMN}"),
        (f"{HEADER}; {row(1, 2, 3, 4)}; sleep 60", {"step": "n"}, f"step = 'n': {NO_COLUMN}"),
        (f"{HEADER}; {row('a', 2, 3, 4)}; sleep 60", {}, "sh: epoch = a: must be a whole number"),
        (f"{HEADER}; {row(0.5, 2, 3, 4)}; sleep 60", {}, "sh: epoch = 0.5: must be a whole number"),
        (f"{HEADER}; {row(1, 2, 'bad', 4)}; sleep 60", {}, "sh: error = bad: must be a number"),
        (f"{HEADER}; {row(1, 2, 3, 4)}", {}, "sh ended after 1 of task.epochs = 3"),
        (f"{HEADER}; exit 3", {}, "sh ended with exit status 3"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(script: str, report: dict[str, Any], message: str) -> None:
    failed = failure(command.train, with_file(script, report=report))
    assert failed.is_wrong == ("ended" not in message), "it would be wrong in every attempt"
    error = str(failed)
    assert error.startswith((message, f"task.report.{message}", f"sh: task.report.{message}"))


def test_a_program_that_hangs_says_what_its_file_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"{HEADER}; {row(1, 2, 3, 4)}; touch hangs; sleep 6000"
    monkeypatch.setattr(reporting_program, "FILE_SECONDS", 0.0)
    looks = iter([False, False])  # at the file
    let_time_fly(monkeypatch, lambda: Path("hangs").exists() and next(looks, True))
    error = str(failure(command.train, with_file(script, report={"value": "top1"}, task=LONG)))
    assert error.startswith("epoch 1 was not reported within task.epoch_timeout = 600 s")
    assert error.endswith(f"; task.report.value = 'top1': {NO_COLUMN}")


def test_a_run_that_is_lost_after_its_program_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows were written at once: the first is reported when the program is gone, which then
    gets no time to end."""
    monkeypatch.setattr(monitoring, "MOST_GRACE_SECONDS", 600.0)
    rows = [row(number, 3, 30, 20) for number in range(3)]
    run = with_file("\n".join([HEADER, *rows]), ends={1: Lost}, workers={"grace_seconds": 1200.0})
    started = time.monotonic()
    with pytest.raises(Lost):
        command.train(run)
    assert numbers(run) == [1]
    assert time.monotonic() - started < 500


# ---- patterns ---------------------------------------------------------------------------------

LOSSES = r"step (?P<step>\d+): train loss (?P<loss>[\d.]+), val loss (?P<value>[\d.]+)"


@pytest.mark.parametrize("where", ["", ">&2"])
def test_a_pattern_finds_reports_in_a_log(where: str) -> None:
    lines = [f"echo '[a] step {n}: train loss 2.{n}, val loss 3.{n}' {where}" for n in (1, 2, 3)]
    run = with_pattern("\n".join(["echo start", *lines, "echo end"]), LOSSES)
    command.train(run)
    assert run.epochs == [Epoch(n, 2 + n / 10, 3 + n / 10) for n in (1, 2, 3)]


def test_reports_in_a_progress_bar_and_in_colour() -> None:
    """A line is drawn again and again, the last one without an end."""
    bar = "".join(f"\\r{part} %%| step 1: \\033[1mval loss\\033[0m 3.5 %%" for part in range(3))
    script = f'printf "{bar}\\n\\rstep 2: val loss 2.5\\rstep 3: val loss 1.5" >&2'
    run = with_pattern(script, r"step (?P<step>\d+): val loss (?P<value>[\d.]+ ?%?)")
    command.train(run)
    assert [(epoch.number, epoch.validation_error) for epoch in run.epochs] == [
        (1, 3.5), (2, 2.5), (3, 1.5)
    ]  # fmt: skip


def test_a_pattern_without_a_step_counts() -> None:
    script = "for n in 1 2 3; do echo Train Epoch: $n; echo Accuracy: 9$n/100 '('$n.5%')'; done"
    run = with_pattern(script, r"Accuracy: .*\((?P<value>.*?%)\)")
    command.train(run)
    assert [epoch.validation_error for epoch in run.epochs] == [1.5, 2.5, 3.5]


def test_steps_of_a_log_count_updates() -> None:
    """The loss before the training, at step 0, is no report."""
    script = "for n in 0 20 40 60; do echo step $n: train loss 1, val loss 3.$n; done"
    task = {"epochs": None, "steps": 60, "report_every": 20}
    run = with_pattern(script, LOSSES, task=task)
    command.train(run)
    assert run.epochs == [Epoch(1, 1.0, 3.2), Epoch(2, 1.0, 3.4), Epoch(3, 1.0, 3.6)]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo hello; echo val loss: 3",
            "task.report.pattern matched no line that sh printed; the last was 'val loss: 3'",
        ),
        ("true", "task.report.pattern matched no line that sh printed; it printed nothing"),
        (
            "echo 'step 1: train loss 3, val loss 1.2.3'; sleep 60",
            "sh: the pattern's group value = 1.2.3: must be a number",
        ),
    ],
)  # fmt: skip
def test_patterns_that_do_not_fit(script: str, message: str) -> None:
    error = failure(command.train, with_pattern(script, LOSSES))
    assert (str(error), error.is_wrong) == (message, True)
    if "hello" in script:
        assert error.output == "hello\nval loss: 3"


# ---- numbers ----------------------------------------------------------------------------------


def test_steps_count_updates_unless_the_first_number_is_stated() -> None:
    length = TrainingLength("step", 2000, 500)
    counter = ReportCounter(length, None)
    assert [counter.place("step", n) for n in ("0", 500, "1000.0")] == [None, 500, 1000]
    shifted = ReportCounter(length, 499)
    assert [shifted.place("step", n) for n in (0, 499, 999)] == [None, 500, 1000]
    counted = ReportCounter(length, None)
    assert [counted.next() for _ in range(5)] == [500, 1000, 1500, 2000, 2001]


@pytest.mark.parametrize("number", ["", "1.5", "-1", True, None, "9" * 5000, "nan"])
def test_what_is_no_whole_number(number: object) -> None:
    with pytest.raises(TaskError, match=r"epoch = .*: must be a whole number") as caught:
        ReportCounter(TrainingLength("epoch", 3), None).place("epoch", number)
    assert len(str(caught.value)) < 200


def test_numbers() -> None:
    assert [number_of("x", text) for text in (" 2.5 ", "81.2 %", 3, "-inf", "1e-3")] == [
        2.5, 81.2, 3.0, -float("inf"), 0.001
    ]  # fmt: skip
    for value in (True, None, [1.0], "x" * 5000):
        with pytest.raises(TaskError, match=r"x = .*: must be a number") as caught:
            number_of("x", value)
        assert len(str(caught.value)) < 200


# ---- kdecay try -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "script", "advice"),
    [
        (
            {"file": "a.csv", "step": "epoch", "value": "error"},
            'printf "epoch,error\\n0,50\\n1,40\\n2,30\\n" > "$2/a.csv"',
            "name its column in [task.report]",
        ),
        (
            {"pattern": "error (?P<value>.*)"},
            "for n in 5 4 3; do echo error $n; done",
            "add a group (?P<averaged>…) to [task.report]",
        ),
    ],
)
def test_a_program_that_is_tried(report: dict[str, Any], script: str, advice: str) -> None:
    lines: list[str] = []
    seen = Tryout(program(script, "{output_dir}", task={"report": report}).spec)
    try_task(seen, command.train, 2.0, "cpu", lines.append)
    assert [line.partition(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    texts = [finding.text for finding in findings(seen)]
    assert "3 of 3 epochs were reported" in texts
    assert any(text.endswith(f"if the program has one, {advice}") for text in texts)
