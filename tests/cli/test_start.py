"""Commands in a new Python process, as users start them. Other tests fork a process that has
already imported the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay

OF_A_STUDY = ["status", "best", "plan", "report", "plot", "stop", "delete", "confirm"]
EACH_IMPORTS_THE_PACKAGE = """
import json, os, sys
import numpy, optuna, pydantic, rich, sqlalchemy, typer  # what all commands wait for longest
for arguments in json.loads(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        sys.argv[1:] = arguments
        from kdecay_search.cli.main import main
        main()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print("==", arguments[0], code, file=sys.stderr, flush=True)
"""


def test_unknown_study_is_refused_in_one_line(kdecay: Kdecay) -> None:
    calls = [[each, "nobody", *(["--yes"] if each == "delete" else [])] for each in OF_A_STUDY]
    done = subprocess.run(
        [sys.executable, "-c", EACH_IMPORTS_THE_PACKAGE, json.dumps(calls)],
        env=kdecay.environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    shown = re.findall(r"(.*)\n== (\w+) (\d+)\n", done.stderr)
    assert [(name, code) for _, name, code in shown] == [(name, "2") for name in OF_A_STUDY]
    for line, name, _ in shown:
        assert line.startswith("kdecay: no study named 'nobody'; there are"), name
    assert done.stderr.count("\n") == 2 * len(OF_A_STUDY)


def test_forked_process_behaves_as_a_new_one(alone: Kdecay) -> None:
    for arguments in (["--help"], ["status", "nobody", "--debug"]):
        process = alone.start(*arguments)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        done = alone.run(*arguments, code=process.returncode)
        assert done.stdout == out
        assert done.stderr.splitlines()[-1:] == err.splitlines()[-1:]
