"""Commands in a new Python process, as users start them. Other tests fork a process that has
already imported the package."""

from __future__ import annotations

import pytest

from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay

OF_A_STUDY = ["status", "best", "plan", "report", "plot", "stop", "delete", "confirm"]


@pytest.mark.parametrize("command", OF_A_STUDY)
def test_unknown_study_is_refused_in_one_line(kdecay: Kdecay, command: str) -> None:
    process = kdecay.start(command, "nobody", *(["--yes"] if command == "delete" else []))
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("kdecay: no study named 'nobody'; there are")
    assert err.count("\n") == 1


def test_forked_process_behaves_as_a_new_one(alone: Kdecay) -> None:
    for arguments in (["list"], ["--help"], ["status", "nobody", "--debug"], ["bogus"]):
        process = alone.start(*arguments)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        done = alone.run(*arguments, code=process.returncode)
        assert done.stdout == out
        assert done.stderr.splitlines()[-1:] == err.splitlines()[-1:]
