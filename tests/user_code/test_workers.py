"""Workers that run user code: what they may run, how they end, and what failed attempts show."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdecay_search import reconcile
from kdecay_search.cli.options import allowance
from kdecay_search.errors import KDecayError, NotAllowed
from kdecay_search.report.failures import MOST_KINDS, as_text, read_failures
from kdecay_search.snapshot import StudySnapshot, read_snapshot
from kdecay_search.storage import Storage, queue, records
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import LOST, State
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.user_code.allowance import BUILT_IN_ONLY, Allowance
from kdecay_search.worker.loop import Options, Worker
from kdecay_search.worker.train import WorkerContext
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay
from tests.support.memory_studies import study
from tests.support.wait import wait_for
from tests.user_code.programs import alive, report_line

EPOCHS = 3
SEARCH = {"k_max": 2.0, "k_cap": 2.0, "k_step": 1.0, "seeds": 1, "max_terms": 1}
ONE_RUN = SEARCH | {"k_max": 1.0, "k_cap": 1.0}
MOST_CHARACTERS = 20_000

pytestmark = pytest.mark.usefixtures("own_folder")


def python_study(name: str, source: str, **tables: Any) -> StudySpec:
    Path("mine.py").write_text(source)
    task = {"kind": "python", "epochs": EPOCHS, "entry": "mine:train"} | tables.pop("task", {})
    return study(name, task=task, **({"search": SEARCH} | tables))


def command_study(name: str, script: str, **tables: Any) -> StudySpec:
    Path("mine.sh").write_text(script)
    command = ["sh", "mine.sh", "{k}", "{checkpoint_dir}"]
    task = {"kind": "command", "epochs": EPOCHS, "command": command}
    return study(name, task=task, **({"search": SEARCH} | tables))


def launched(storage: Storage, spec: StudySpec) -> None:
    reconcile.launch(storage, spec)
    reconcile.reconcile(storage, spec.name)


def work(storage: Storage, name: str | None, allowed: Allowance) -> Worker:
    """Run a worker in this process until no work is left."""
    folder = CheckpointFolder(Path("checkpoints").resolve())
    context = WorkerContext("cpu", folder, threading.Event())
    worker = Worker(storage, Options(name, True, allowed), context)
    worker.serve()
    return worker


def trained(storage: Storage, spec: StudySpec) -> StudySnapshot:
    """Launch the study, work it to its end, and return its snapshot."""
    launched(storage, spec)
    work(storage, spec.name, Allowance.of(spec))
    return read_snapshot(storage, spec.name)


def errors(storage: Storage, snapshot: StudySnapshot) -> str:
    """Return what ``status --errors`` prints."""
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(as_text(read_failures(storage, snapshot)), soft_wrap=True)
    return console.export_text()


# ---- why attempts failed -----------------------------------------------------------------------

RAISES = """
def train(run):
    run.steps_per_epoch = 1
    run.report(1, 40.0)
    if run.schedule(1) > 0.08:  # k = 2
        raise ValueError("my own \\x1b[31mmistake\\nin two lines")
    for epoch in run.remaining_epochs():
        run.report(epoch, 30.0)
"""


def test_tracebacks_are_shown(kdecay: Kdecay, storage: Storage) -> None:
    snapshot = trained(storage, python_study("raises", RAISES, workers={"max_attempts": 2}))
    assert (snapshot.count(State.COMPLETE), snapshot.count(State.FAILED)) == (1, 2)
    shown = kdecay.run("status", "raises", "--errors").stdout
    assert shown.splitlines()[:4] == [
        "raises: 2 failed attempts",
        "",
        "2 times: stage 1  k = 2  seed 0",
        "error: ValueError: my own mistake in two lines (mine.py, line 6)",
    ]
    assert 'mine.py", line 6, in train' in shown
    assert shown.count("Traceback") == 1, "equal failures are shown once"
    assert "kdecay_search" not in shown
    assert all(line.isprintable() for line in shown.splitlines())
    attempts = kdecay.json("status", "raises", "--errors")["errors"]
    assert [(each["k"], each["reason"], each["worker"] is None) for each in attempts] == [
        (2.0, "error", False), (2.0, "error", False)
    ]  # fmt: skip
    assert all("line 6, in train" in each["output"] for each in attempts)
    assert "errors" not in kdecay.json("status", "raises")
    assert "why each failed: kdecay status raises --errors" in kdecay.run("status", "raises").stdout


def test_the_output_shown_is_bounded(storage: Storage) -> None:
    flood = f"yes 'wrong {'x' * 200}' | head -c 3000000"
    script = f"{report_line(1, 40)}; {flood} >&2; echo >&2; echo last >&2; exit 1"
    spec = command_study("talks", script, search=ONE_RUN, workers={"max_attempts": 1})
    shown = errors(storage, trained(storage, spec))
    assert "error: sh ended with exit status 1 after epoch 1: last" in shown
    assert shown.rstrip().endswith("    last")
    assert 10_000 < len(shown) < MOST_CHARACTERS


def test_many_kinds_of_failures(
    storage: Storage,
) -> None:
    spec = study("planted", search=SEARCH | {"seeds": 30})
    launched(storage, spec)
    for number in range(15):
        claim = queue.claim(storage, "planted", "somebody")
        assert claim is not None
        output = f"\x1b]0;title\x07number {number}\x9b2J\nend"
        queue.fail(storage, claim.trial_id, "error", "planted", output)
        reconcile.reconcile(storage, "planted")
    shown = errors(storage, read_snapshot(storage, "planted"))
    assert shown.startswith("planted: 15 failed attempts; the oldest 5 are not")
    assert shown.count("number") == MOST_KINDS
    assert "    number 14\\x9b2J\n    end" in shown


def test_no_failures(storage: Storage) -> None:
    spec = study("well", search=SEARCH)
    reconcile.launch(storage, spec)
    assert (
        errors(storage, read_snapshot(storage, "well")) == "well: no attempt at a run has failed\n"
    )


# ---- what a worker may run ---------------------------------------------------------------------

WRITES = """
open("imported", "a").write("x")
def train(run):
    for epoch in run.remaining_epochs():
        run.report(epoch, 30.0)
"""


def test_a_function_that_is_not_allowed(kdecay: Kdecay, storage: Storage) -> None:
    launched(storage, python_study("not-allowed", WRITES))
    for options in ([], ["--allow", "mine:other"], ["--allow-command"]):
        error = kdecay.run("worker", "--study", "not-allowed", *options, code=2).stderr
        assert error.splitlines()[-1] == (
            "kdecay: study 'not-allowed' runs mine:train, which is not allowed here; if it is your "
            "code, allow it: --allow mine:train"
        )
        assert "Traceback" not in error
        assert not Path("imported").exists()
    kdecay.run("worker", "--study", "not-allowed", "--drain", "--allow", "mine:train")
    assert Path("imported").read_text() == "xx", "once per run"
    assert read_snapshot(storage, "not-allowed").state == "done"


def test_a_program_that_is_not_allowed(storage: Storage) -> None:
    lines = "\n".join(report_line(number, 30) for number in range(1, EPOCHS + 1))
    spec = command_study("no-program", f"echo x >> ran\n{lines}")
    launched(storage, spec)
    for allowed in (BUILT_IN_ONLY, Allowance(frozenset({"sh", "mine:train"}))):
        with pytest.raises(NotAllowed, match=r"runs a program \(sh …\), .*--allow-command"):
            work(storage, "no-program", allowed)
        assert not Path("ran").exists()
    work(storage, "no-program", Allowance.of(spec))
    assert Path("ran").read_text().split() == ["x", "x"]


def test_a_worker_of_all_studies_skips_what_it_may_not_run(
    alone: Kdecay, caplog: pytest.LogCaptureFixture
) -> None:
    assert alone.url is not None
    storage = Storage(alone.url)
    launched(storage, python_study("own", WRITES))
    launched(storage, study("built-in", search=SEARCH))
    work(storage, None, BUILT_IN_ONLY)
    states = {name: read_snapshot(storage, name).state for name in records.study_names(storage)}
    assert states == {"own": "running", "built-in": "done"}
    assert caplog.text.count("own cannot be served here: study 'own' runs mine:train, which") == 1
    assert not Path("imported").exists()
    storage.close()


@pytest.mark.parametrize("entry", ["train", "mine:", "mine.py", "../mine:train", "mine:train()"])
def test_an_invalid_allow_option(entry: str) -> None:
    with pytest.raises(KDecayError) as caught:
        allowance([entry], commands=False)
    assert str(caught.value) == (
        f"--allow {entry}: must be MODULE:FUNCTION, as task.entry in the study file"
    )


# ---- a worker's end ----------------------------------------------------------------------------

KEEPS = """
import os, pathlib, time
def train(run):
    total = run.resume() or 0
    for epoch in run.remaining_epochs():
        while epoch == 2 and not os.path.exists("go"):
            pathlib.Path("waiting").touch()
            time.sleep(0.01)
            run.poll()
        pathlib.Path("program").write_text(str(os.getpid()))
        print(epoch, file=open("trained", "a"))
        total += epoch
        run.report(epoch, 40.0 / total)
        run.save(total)
"""
KEEPS_SHELL = """
state="$2/state"; done=$(cat "$state" 2>/dev/null || echo 0)
echo $$ > program
for epoch in 1 2 3; do
  [ $epoch -le $done ] && continue
  while [ $epoch = 2 ] && [ ! -e go ]; do touch waiting; sleep 0.01; done
  echo $epoch >> trained
  echo "{\\"epoch\\": $epoch, \\"error\\": $((40 - epoch))}"
  echo $epoch > "$state"
done
"""
QUICK = {"heartbeat_seconds": 0.2, "grace_seconds": 3.0}


def begun(
    kdecay: Kdecay, storage: Storage, kind: str, name: str
) -> tuple[StudySpec, subprocess.Popen[str]]:
    """Start a worker on a study of one run, and wait until it has trained one of three epochs."""
    make, source = (python_study, KEEPS) if kind == "python" else (command_study, KEEPS_SHELL)
    spec = make(f"{name}-{kind}", source, search=ONE_RUN, workers=QUICK)
    launched(storage, spec)
    options = [*Allowance.of(spec).options, "--checkpoints", "checkpoints"]
    worker = kdecay.start("worker", "--study", spec.name, *options)
    wait_for(Path("waiting").exists, "an epoch")
    wait_for(lambda: read_snapshot(storage, spec.name).epochs_trained, "its report")
    return spec, worker


def ended(storage: Storage, spec: StudySpec, kind: str) -> StudySnapshot:
    """Let another worker resume: every epoch was trained once, and the result is the same."""
    Path("go").touch()
    work(storage, spec.name, Allowance.of(spec))
    snapshot = read_snapshot(storage, spec.name)
    assert Path("trained").read_text().split() == ["1", "2", "3"]
    result = 40.0 / 6 if kind == "python" else 37.0
    assert [trial.error for trial in snapshot.trials if trial.state == State.COMPLETE] == [result]
    assert snapshot.epochs_trained == EPOCHS
    return snapshot


@pytest.mark.parametrize("kind", ["python", "command"])
def test_a_worker_that_stops_releases_its_run(kdecay: Kdecay, storage: Storage, kind: str) -> None:
    spec, worker = begun(kdecay, storage, kind, "drained")
    worker.send_signal(signal.SIGTERM)
    _, error = worker.communicate(timeout=TIMEOUT_SECONDS)
    assert worker.returncode == 0, error
    assert not alive(int(Path("program").read_text()))
    assert [trial.state for trial in read_snapshot(storage, spec.name).trials] == [State.WAITING]
    assert ended(storage, spec, kind).count(State.FAILED) == 0


@pytest.mark.parametrize("kind", ["python", "command"])
def test_a_killed_worker_s_run_is_resumed(kdecay: Kdecay, storage: Storage, kind: str) -> None:
    spec, worker = begun(kdecay, storage, kind, "killed")
    worker.kill()
    worker.communicate(timeout=TIMEOUT_SECONDS)
    wait_for(lambda: not alive(int(Path("program").read_text())), "the program's end")
    snapshot = ended(storage, spec, kind)
    assert [trial.reason for trial in snapshot.trials if trial.state == State.FAILED] == [LOST]


# ---- runs that end early -----------------------------------------------------------------------

HOPELESS = """
def train(run):
    run.steps_per_epoch = 4
    error = 1000 * run.schedule(20)
    run.resume()
    try:
        for epoch in run.remaining_epochs():
            run.report(epoch, error, error / 2)
            run.save(epoch)
    finally:
        print(f"{epoch} {error:.0f}", file=open("ended", "a"))
"""


def test_hopeless_runs_are_paused_and_end_as_pruned(storage: Storage) -> None:
    spec = python_study(
        "doomed", HOPELESS, task={"epochs": 10}, pruning={"enabled": True},
        search=SEARCH | {"k_max": 6.0, "k_cap": 6.0},
    )  # fmt: skip
    snapshot = trained(storage, spec)
    assert snapshot.state == "done"
    assert snapshot.plan.leader.ks == (1.0,)
    early = [t for t in snapshot.trials if t.state == State.PRUNED and t.epochs]
    assert (snapshot.count(State.FAILED), snapshot.count(State.PAUSED), bool(early)) == (0, 0, True)
    lengths = [int(line.split()[0]) for line in Path("ended").read_text().splitlines()]
    assert all(trial.epochs in lengths for trial in early), "every run's code ended by itself"
    assert lengths.count(10) == snapshot.count(State.COMPLETE)


def test_a_program_s_output_survives_as_json(storage: Storage) -> None:
    """Bytes that are not text, and characters that JSON escapes."""
    script = "printf 'a\\377\\000b \\033[1mbold\\033[0m \"quoted\" é\\n' >&2; exit 1"
    spec = command_study("bytes", script, search=ONE_RUN, workers={"max_attempts": 1})
    snapshot = trained(storage, spec)
    (output,) = read_failures(storage, snapshot).outputs.values()
    assert json.loads(json.dumps(output)) == 'a�\\x00b bold "quoted" é'
