"""Functions and programs that fail: what their failures show."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdecay_search.errors import TaskError
from kdecay_search.user_code import command, python
from tests.user_code.programs import (
    ALL_EPOCHS,
    EVERY_EPOCH,
    LONG,
    failure,
    function,
    let_time_fly,
    numbers,
    program,
    report_line,
)

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_function_s_traceback_is_shown() -> None:
    run = function("run.report(1, 40.0)\nraise ZeroDivisionError('my own mistake')")
    error = failure(python.train, run)
    assert str(error) == "ZeroDivisionError: my own mistake (mine.py, line 6)"
    assert error.output.startswith("Traceback (most recent call last):\n")
    assert "raise ZeroDivisionError('my own mistake')" in error.output
    assert "kdecay_search" not in error.output
    assert numbers(run) == [1]


def test_a_program_s_last_output_is_shown() -> None:
    run = program(f"{report_line(1, 40)}; echo first >&2; echo 'my own mistake' >&2; exit 3")
    error = failure(command.train, run)
    assert str(error) == "sh ended with exit status 3 after epoch 1: my own mistake"
    assert error.output == "first\nmy own mistake"
    assert numbers(run) == [1]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('enough')", "SystemExit: enough (mine.py, line 5)"),
        ("os._exit(3)", "mine:train ended with exit status 3 and returned nothing"),
        ("os.abort()", "mine:train was killed by SIGABRT and returned nothing"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL; perhaps the machine's memory was full"),
        ("run.report(2, 40.0)", "run.report(epoch=2): epoch 1 is next"),
        ("run.report(1, 40.0); run.report(1, 30.0)", "run.report(epoch=1): epoch 2 is next"),
        ("run.report(1, 'low')", "value = 'low': must be a number (mine.py, line 5)"),
        ("run.report(1, True)", "value = True: must be a number (mine.py, line 5)"),
        ("run.report(step=1, value=3.0)", "run.report: this study has task.epochs = 3; call run.r"),
        ("run.report(1, 40.0)", "mine:train returned after 1 of task.epochs = 3"),
        ("return 'low'", "the returned value = 'low': must be a number"),
    ],
)
def test_a_faulty_function_fails(body: str, words: str) -> None:
    assert words in str(failure(python.train, function(body)))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo hello", "sh ended after 0 of task.epochs = 3; it must print a line such as"),
        (report_line(1, 40), "sh ended after 1 of task.epochs = 3"),
        ("echo '{not JSON'; echo '[1]'; echo '{\"epoch\": 1}'", "sh ended after 0 of"),
        (report_line(1, "low"), "error = 'low': must be a number"),
        (report_line(1, None), "error = None: must be a number"),
        (report_line(1, True), "error = True: must be a number"),
        (report_line(1, 40, averaged_error="low"), "averaged_error = 'low': must be a number"),
        ('echo \'{"epoch": 1.5, "error": 40}\'', "epoch = 1.5: must be a whole number"),
        (
            report_line(2, 40),
            "epoch = 2: epoch 1 is next; report every epoch once, in order, from 1",
        ),
        (f"{report_line(1, 40)}; {report_line(1, 30)}", "epoch = 1: epoch 2 is next"),
        (
            f"{ALL_EPOCHS}\n{report_line(4, 5)}",
            "epoch = 4: all of 3 epochs were reported before; set task.epochs to the number",
        ),
        ("kill -SEGV $$", "sh was killed by SIGSEGV after epoch 0"),
    ],
)
def test_a_faulty_program_fails(script: str, words: str) -> None:
    error = str(failure(command.train, program(script)))
    assert words in error
    assert "validation_error" not in error, "a report line calls it error"


def test_a_missing_function_is_a_worker_s_error() -> None:
    run = function(EVERY_EPOCH, task={"entry": "mine:trian"})
    with pytest.raises(TaskError, match=r"did you mean train\?"):
        python.train(run)


def test_a_missing_program_is_a_worker_s_error() -> None:
    run = program("", task={"command": ["./no-such-program", "{k}"]})
    with pytest.raises(TaskError, match=r"no-such-program: No such file or directory.*task\.comm"):
        command.train(run)


def test_a_hanging_function_shows_where_it_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    run = function("run.report(1, 40.0)\nopen('hangs', 'w'); time.sleep(6000)", task=LONG)
    let_time_fly(monkeypatch, Path("hangs").exists)
    error = failure(python.train, run)
    assert "epoch 2 was not reported within task.epoch_timeout = 600 s" in str(error)
    assert 'mine.py", line 6 in train' in error.output
    assert "kdecay_search" not in error.output


def test_a_hanging_program_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"{report_line(1, 40)}; echo busy; touch hangs; sleep 6000"
    run = program(script, task=LONG)
    let_time_fly(monkeypatch, lambda: run.epochs and Path("hangs").exists())
    error = failure(command.train, run)
    assert "epoch 2 was not reported within task.epoch_timeout = 600 s" in str(error)
    assert error.output == "busy"
