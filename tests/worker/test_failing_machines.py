"""Machines that fail every run: they burn few attempts, change no answer, and are named."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdecay_search import reconcile
from kdecay_search.snapshot import read_snapshot
from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import State, Trial
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.user_code.allowance import Allowance
from kdecay_search.worker.loop import (
    MAX_FAILURE_SECONDS,
    MAX_FAILURE_SECONDS_ALONE,
    Options,
    Worker,
    failure_pause,
)
from kdecay_search.worker.train import WorkerContext
from tests.support.embedded_homes import is_root
from tests.support.kdecay_command import KDECAY, Forked, Kdecay
from tests.support.memory_studies import study
from tests.support.wait import wait_for

SOURCE = """
if [ "$(hostname)" = broken ] || [ -n "$BROKEN" ]; then echo no data here >&2; exit 1; fi
for epoch in 1 2; do sleep 0.5; echo "{\\"epoch\\": $epoch, \\"error\\": $((40 - epoch))}"; done
"""
SEARCH = {"k_max": 2.0, "k_cap": 2.0, "k_step": 0.5, "seeds": 2, "max_terms": 1}
RUNS = 6
ELSEWHERE = ("unshare", "--uts", "sh", "-c", 'hostname broken; exec "$@"', "sh")
"""What starts a process under another host name."""

pytestmark = pytest.mark.usefixtures("own_folder")


def launched(storage: Storage, name: str, **tables: object) -> None:
    Path("mine.sh").write_text(SOURCE)
    task = {"kind": "command", "epochs": 2, "command": ["sh", "mine.sh", "{k}"]}
    spec = study(name, task=task, **({"search": SEARCH} | tables))
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, spec.name)


@contextmanager
def worker(kdecay: Kdecay, name: str, *prefix: str, **environment: str) -> Iterator[None]:
    arguments = ["worker", "--study", name, "--allow-command"]
    variables = kdecay.environment | environment
    process: subprocess.Popen[str]
    if prefix:
        process = subprocess.Popen(
            [*prefix, *KDECAY, *arguments], env=variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    else:
        process = Forked(arguments, variables)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def failures(storage: Storage, name: str) -> list[Trial]:
    return [t for t in records.read_trials(storage, name) if t.state == State.FAILED]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("machine", marks=pytest.mark.skipif(not is_root, reason="needs root")),
        "worker",
    ],
)
def test_a_black_hole_burns_few_attempts_and_no_run_is_given_up(
    kind: str, kdecay: Kdecay, storage: Storage
) -> None:
    name = f"black-hole-{kind}"
    launched(storage, name)
    prefix = ELSEWHERE if kind == "machine" else ()
    with worker(kdecay, name, *prefix, **({} if prefix else {"BROKEN": "1"})):
        wait_for(lambda: failures(storage, name), "a failure")
        with worker(kdecay, name):
            wait_for(lambda: read_snapshot(storage, name).state != "running", "the end")
    snapshot = read_snapshot(storage, name)
    assert snapshot.state == "done"
    assert snapshot.given_up == []
    assert snapshot.count(State.COMPLETE) == RUNS
    failed = failures(storage, name)
    assert 3 <= len(failed) <= 9, "one after 1, 2, 4, 8, ... seconds"
    [place] = snapshot.failing_places
    assert place.name == ("broken" if prefix else failed[0].worker)
    shown = kdecay.run("status", name).stdout
    assert f"every run fails on {place.name}: {len(failed)} attempts in succession" in shown
    assert "no data here" in shown
    [stated] = kdecay.json("status", name)["failing_places"]
    assert (stated["name"], stated["failures"]) == (place.name, len(failed))


def test_errors_of_runs_fail_them_soon_on_the_only_machine_and_do_not_delay_another_study(
    alone: Kdecay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BROKEN", "1")
    assert alone.url is not None
    storage = Storage(alone.url)
    launched(storage, "at-fault", search=SEARCH | {"k_step": 1.0, "seeds": 1},
             workers={"max_attempts": 2})  # fmt: skip
    attempts = 2 * 2
    spec = study("sound", search=SEARCH)
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, "sound")
    context = WorkerContext("cpu", CheckpointFolder(Path("ckpt").resolve()), threading.Event())
    ended: list[str] = []
    server = Worker(storage, Options(None, True, Allowance(commands=True)), context)
    server.trial_ended = lambda claim, outcome: ended.append(claim.study)  # type: ignore[method-assign]
    server.serve()
    assert {name: ended.count(name) for name in ended} == {"at-fault": attempts, "sound": RUNS}
    assert ended.index("sound") == 1, "while the other pauses"
    pauses = re.findall(r"no further run of at-fault for (\d+) s", caplog.text)
    assert set(pauses) == {f"{MAX_FAILURE_SECONDS_ALONE:.0f}"}, "after failures in succession"
    assert read_snapshot(storage, "at-fault").state == "failed"
    assert read_snapshot(storage, "sound").state == "done"
    storage.close()


@pytest.mark.parametrize(
    ("failed", "others_work", "seconds"),
    [(1, True, 1), (2, True, 2), (5, True, 16), (10, True, 512), (11, True, MAX_FAILURE_SECONDS),
     (9999, True, MAX_FAILURE_SECONDS), (1, False, 1), (9999, False, MAX_FAILURE_SECONDS_ALONE)],
)  # fmt: skip
def test_pauses_grow_and_are_short_where_nobody_else_could_take_the_runs(
    failed: int, others_work: bool, seconds: float
) -> None:
    assert failure_pause(failed, others_work) == seconds
