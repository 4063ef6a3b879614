"""What counts as a result or a report of user code, and what becomes of all other output."""

from __future__ import annotations

import math

import pytest

from kdecay_search.errors import KEPT_BYTES
from kdecay_search.tasks.protocol import Epoch
from kdecay_search.user_code import command, python
from tests.user_code.programs import (
    EVERY_EPOCH,
    failure,
    function,
    numbers,
    program,
    report_line,
)

FLOOD_BYTES = 10_000_000
pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_program_that_diverges(value: str) -> None:
    run = program(f'{report_line(1, 40)}; echo \'{{"epoch": 2, "error": {value}}}\'; sleep 600')
    command.train(run)
    assert [(epoch.validation_error, epoch.diverged) for epoch in run.epochs] == [
        (40.0, False), (math.inf, True)
    ]  # fmt: skip


def test_a_function_that_diverges() -> None:
    run = function("run.report(1, 40.0)\nrun.report(2, float('nan'))\ntime.sleep(600)")
    assert python.train(run) is None
    assert [(epoch.validation_error, epoch.diverged) for epoch in run.epochs] == [
        (40.0, False), (math.inf, True)
    ]  # fmt: skip


def test_a_function_s_result() -> None:
    assert python.train(function(f"{EVERY_EPOCH}\nreturn 12.5")) == 12.5
    assert python.train(function(EVERY_EPOCH)) is None


def test_other_output_around_reports() -> None:
    line = '{"epoch": 2, "error": 20, "averaged_error": 10, "loss": 1.5, "lr": 0.1, "else": "x"}'
    first, last = report_line(1, 40), report_line(3, 30)
    run = program(f"echo start; {first}; echo '  {line}'; echo '{{x'; {last}; echo end")
    command.train(run)
    assert run.epochs[1] == Epoch(2, 1.5, 20.0, 10.0, 0.1)
    assert numbers(run) == [1, 2, 3]


FLOOD = f"head -c {FLOOD_BYTES} /dev/zero | tr '\\0' x"


@pytest.mark.parametrize("flood", [FLOOD, f"{FLOOD} | fold -w 100", f"yes '{{' | head -c {10**7}"])
def test_only_the_end_of_a_flood_is_kept(flood: str) -> None:
    first, second = report_line(1, 40), report_line(2, 30)
    run = program(f"{first}; {flood}; echo; {flood} >&2; {second}; echo last >&2; exit 1")
    error = failure(command.train, run)
    assert numbers(run) == [1, 2]
    assert error.output.endswith("last")
    assert len(error.output) <= KEPT_BYTES + 1


def test_a_function_may_print_a_flood() -> None:
    flood = f"for part in range(100): print('x' * {FLOOD_BYTES // 100})"
    run = function(f'{flood}\nprint(\'{{"epoch": 1, "error": 1}}\')\n{EVERY_EPOCH}')
    python.train(run)
    assert [epoch.validation_error for epoch in run.epochs] == [40.0, 20.0, 40 / 3]


@pytest.mark.parametrize("name", ["PYTHONIOENCODING", "LC_ALL"])
def test_a_function_may_print_any_character(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Even if the worker's own output could not hold it."""
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv(name, {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}[name])
    run = function(f"print('k\\N{{SUBSCRIPT ONE}} = 2')\n{EVERY_EPOCH}")
    python.train(run)
    assert numbers(run) == [1, 2, 3]
