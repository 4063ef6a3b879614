"""Commands as users start them, each in a new Python: other tests fork theirs from a warm one."""

from __future__ import annotations

import pytest

from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay

OF_A_STUDY = ["status", "best", "plan", "report", "plot", "stop", "delete", "confirm"]


@pytest.mark.parametrize("command", OF_A_STUDY)
def test_a_command_in_a_new_python_tells_in_one_line_that_there_is_no_such_study(
    kdecay: Kdecay, command: str
) -> None:
    process = kdecay.start(command, "nobody", *(["--yes"] if command == "delete" else []))
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("kdecay: no study named 'nobody'; there are")
    assert err.count("\n") == 1


def test_a_warm_python_runs_a_command_as_a_new_one_does(alone: Kdecay) -> None:
    for arguments in (["list"], ["--help"], ["status", "nobody", "--debug"], ["bogus"]):
        process = alone.start(*arguments)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        done = alone.run(*arguments, code=process.returncode)
        assert done.stdout == out
        assert done.stderr.splitlines()[-1:] == err.splitlines()[-1:]
