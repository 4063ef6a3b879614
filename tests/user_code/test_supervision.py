"""Own code in a process of its own: real processes that fail, hang, flood, fork and are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.errors import KEPT_BYTES, TaskError
from kdecay_search.tasks.protocol import Epoch, Pruned, Released
from kdecay_search.user_code import command, python
from kdecay_search.user_code.monitoring import RunFailed
from tests.support.recorded_run import RecordedRun
from tests.support.wait import wait_for
from tests.user_code.processes import alive, said

PYTHON = {"kind": "python", "epochs": 3, "entry": "mine:train"}
ENOUGH_SECONDS = 3.0
"""For a program to start, of those that hang afterwards."""
FLOOD_BYTES = 10_000_000

pytestmark = pytest.mark.usefixtures("own_folder")


def function(body: str, **run: Any) -> RecordedRun:
    """A run of a function ``train(run)`` with this body."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    Path("mine.py").write_text(f"import os, sys, time\n\n\ndef train(run):\n{lines}")
    task = PYTHON | run.pop("task", {})
    return RecordedRun(task=task, **run)


def program(script: str, *arguments: str, **run: Any) -> RecordedRun:
    """A run of a shell script; ``$1`` is k, further ones are what ``arguments`` become."""
    plain = script.replace("{", "{{").replace("}", "}}")
    task = {"kind": "command", "epochs": 3, "command": ["sh", "-c", plain, "sh", "{k}", *arguments]}
    return RecordedRun(task=task | run.pop("task", {}), **run)


def failure(train: Callable[[Any], Any], run: RecordedRun) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        train(run)
    return caught.value


def numbers(run: RecordedRun) -> list[int]:
    return [epoch.number for epoch in run.epochs]


ALL_EPOCHS = "\n".join(said(number, 40 / number) for number in (1, 2, 3))
EVERY_EPOCH = "for epoch in run.remaining_epochs(): run.report(epoch, 40 / epoch)"


# ---- what fails --------------------------------------------------------------------------------


def test_a_function_that_raises_fails_with_its_own_traceback() -> None:
    run = function("run.report(1, 40.0)\nraise ZeroDivisionError('my own mistake')")
    error = failure(python.train, run)
    assert str(error) == "ZeroDivisionError: my own mistake (mine.py, line 6)"
    assert error.output.startswith("Traceback (most recent call last):\n")
    assert "raise ZeroDivisionError('my own mistake')" in error.output
    assert "kdecay_search" not in error.output
    assert numbers(run) == [1]


def test_a_program_that_fails_is_told_with_its_last_words() -> None:
    run = program(f"{said(1, 40)}; echo first >&2; echo 'my own mistake' >&2; exit 3")
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
        ("run.report(1, 'low')", "validation_error = 'low': must be a number (mine.py, line 5)"),
        ("run.report(1, 400.0)", "validation_error = 400: must be an error in percent"),
        ("run.report(1, 40.0)", "mine:train returned after 1 of task.epochs = 3"),
        ("return 'low'", "the returned validation error = 'low': must be a number"),
    ],
)
def test_a_function_that_does_not_do_what_it_must_fails(body: str, words: str) -> None:
    assert words in str(failure(python.train, function(body)))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo hello", "sh ended after 0 of task.epochs = 3; it must print a line such as"),
        (said(1, 40), "sh ended after 1 of task.epochs = 3"),
        ("echo '{not JSON'; echo '[1]'; echo '{\"epoch\": 1}'", "sh ended after 0 of"),
        (said(1, "low"), "error = 'low': must be a number"),
        (said(1, None), "error = None: must be a number"),
        (said(1, 400), "error = 400: must be an error in percent, from 0 to 100"),
        (said(1, 40, averaged_error=-1), "averaged_error = -1: must be an error in percent"),
        ('echo \'{"epoch": 1.5, "error": 40}\'', "epoch = 1.5: must be a whole number"),
        (said(2, 40), "epoch = 2: epoch 1 is next; every epoch once, in order, from 1"),
        (f"{said(1, 40)}; {said(1, 30)}", "epoch = 1: epoch 2 is next"),
        (f"{ALL_EPOCHS}\n{said(4, 5)}", "epoch = 4: 3 was the last"),
        ("kill -SEGV $$", "sh was killed by SIGSEGV after epoch 0"),
    ],
)
def test_a_program_that_does_not_do_what_it_must_fails(script: str, words: str) -> None:
    error = str(failure(command.train, program(script)))
    assert words in error
    assert "validation_error" not in error, "it is called error in a line"


def test_a_function_that_is_not_there_concerns_the_worker_and_not_the_run() -> None:
    run = function(EVERY_EPOCH, task={"entry": "mine:trian"})
    with pytest.raises(TaskError, match=r"did you mean train\?"):
        python.train(run)


def test_a_program_that_is_not_there_concerns_the_worker_and_not_the_run() -> None:
    run = program("", task={"command": ["./no-such-program", "{k}"]})
    with pytest.raises(TaskError, match=r"no-such-program: No such file or directory.*task\.comm"):
        command.train(run)


def test_a_function_that_hangs_is_killed_and_shows_where_it_hung() -> None:
    run = function("run.report(1, 40.0)\ntime.sleep(600)", task={"epoch_timeout": ENOUGH_SECONDS})
    error = failure(python.train, run)
    assert "epoch 2 was not reported within task.epoch_timeout = 3 s" in str(error)
    assert 'mine.py", line 6 in train' in error.output
    assert "kdecay_search" not in error.output


def test_a_program_that_hangs_is_killed() -> None:
    run = program(f"{said(1, 40)}; echo busy; sleep 600", task={"epoch_timeout": ENOUGH_SECONDS})
    error = failure(command.train, run)
    assert "epoch 2 was not reported within task.epoch_timeout = 3 s" in str(error)
    assert error.output == "busy"


# ---- what is a result --------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_program_that_diverges_ends_with_the_worst_error(value: str) -> None:
    run = program(f'{said(1, 40)}; echo \'{{"epoch": 2, "error": {value}}}\'; sleep 600')
    command.train(run)
    assert [(epoch.validation_error, epoch.diverged) for epoch in run.epochs] == [
        (40.0, False), (100.0, True)
    ]  # fmt: skip


def test_a_function_that_diverges_ends_with_the_worst_error() -> None:
    run = function("run.report(1, 40.0)\nrun.report(2, float('nan'))\ntime.sleep(600)")
    assert python.train(run) is None
    assert [(epoch.validation_error, epoch.diverged) for epoch in run.epochs] == [
        (40.0, False), (100.0, True)
    ]  # fmt: skip


def test_a_function_s_result_is_what_it_returns() -> None:
    assert python.train(function(f"{EVERY_EPOCH}\nreturn 12.5")) == 12.5
    assert python.train(function(EVERY_EPOCH)) is None


def test_a_program_may_write_anything_around_its_reports() -> None:
    line = '{"epoch": 2, "error": 20, "averaged_error": 10, "loss": 1.5, "lr": 0.1, "else": "x"}'
    run = program(
        f"echo start; {said(1, 40)}; echo '  {line}'; echo '{{x'; {said(3, 30)}; echo end"
    )
    command.train(run)
    assert run.epochs[1] == Epoch(2, 1.5, 20.0, 10.0, 0.1)
    assert numbers(run) == [1, 2, 3]


FLOOD = f"head -c {FLOOD_BYTES} /dev/zero | tr '\\0' x"


@pytest.mark.parametrize("flood", [FLOOD, f"{FLOOD} | fold -w 100", f"yes '{{' | head -c {10**7}"])
def test_a_flood_is_drained_and_only_its_end_is_kept(flood: str) -> None:
    script = f"{said(1, 40)}; {flood}; echo; {flood} >&2; {said(2, 30)}; echo last >&2; exit 1"
    run = program(script)
    error = failure(command.train, run)
    assert numbers(run) == [1, 2]
    assert error.output.endswith("last")
    assert len(error.output) <= KEPT_BYTES + 1


def test_a_function_may_print_as_much_as_it_likes() -> None:
    flood = f"for part in range(100): print('x' * {FLOOD_BYTES // 100})"
    run = function(f'{flood}\nprint(\'{{"epoch": 1, "error": 1}}\')\n{EVERY_EPOCH}')
    python.train(run)
    assert [epoch.validation_error for epoch in run.epochs] == [40.0, 20.0, 40 / 3]


# ---- nothing lives on --------------------------------------------------------------------------

CHILDREN = """
sleep 600 &
echo $! >> pids
setsid sh -c 'sleep 600 & echo $! >> pids'
(trap '' TERM HUP INT; env -i setsid sh -c 'sleep 600 & echo $! >> pids; wait' &)
while [ $(wc -l < pids) -lt 3 ]; do sleep 0.01; done
"""
"""A child, one that forked twice and has a session of its own, and one that heeds nothing."""


def started() -> list[int]:
    return [int(line) for line in Path("pids").read_text().split()]


@pytest.fixture
def no_orphans(own_folder: Path) -> Iterator[None]:
    """When the test is over, three were started, and none of them lives."""
    yield
    assert [alive(pid) for pid in started()] == [False, False, False]


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.parametrize("end", ["exit 0", "exit 1", "kill -9 $$"])
def test_a_program_that_ends_leaves_no_children(end: str) -> None:
    run = program(f"{CHILDREN}\n{ALL_EPOCHS}\n{end}")
    if end == "exit 0":
        command.train(run)
    else:
        failure(command.train, run)
    assert numbers(run) == [1, 2, 3]


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.parametrize("end", [EVERY_EPOCH, "raise ValueError", "os._exit(1)"])
def test_a_function_that_ends_leaves_no_children(end: str) -> None:
    run = function(f"import subprocess\nsubprocess.run({CHILDREN!r}, shell=True)\n{end}")
    if end == EVERY_EPOCH:
        python.train(run)
    else:
        failure(python.train, run)


@pytest.mark.usefixtures("no_orphans")
def test_a_program_that_is_pruned_leaves_no_children() -> None:
    run = program(f"{CHILDREN}\n{said(1, 40)}; sleep 600", ends={1: Pruned})
    with pytest.raises(Pruned):
        command.train(run)


@pytest.mark.usefixtures("no_orphans")
def test_a_function_that_hangs_leaves_no_children() -> None:
    body = f"import subprocess\nsubprocess.run({CHILDREN!r}, shell=True)\ntime.sleep(600)"
    failure(python.train, function(body, task={"epoch_timeout": ENOUGH_SECONDS}))


WORKER = """
import json, sys
sys.path.append(sys.argv[1])
from tests.support.recorded_run import RecordedRun
from kdecay_search.user_code import command, python
task = json.loads(sys.argv[2])
(command if task["kind"] == "command" else python).train(RecordedRun(task=task))
"""


@pytest.mark.usefixtures("no_orphans")
@pytest.mark.parametrize("kind", ["command", "python"])
def test_a_worker_that_is_killed_leaves_no_program_and_no_children(kind: str) -> None:
    own = program(f"echo $$ > program; {CHILDREN}\nsleep 600")
    if kind == "python":
        body = f"import subprocess\nsubprocess.run({CHILDREN!r}, shell=True)"
        own = function(f"{body}\nopen('program', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    arguments = [str(Path(__file__).parents[2]), own.spec.task.model_dump_json(exclude_none=True)]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *arguments])
    wait_for(lambda: Path("program").exists() and Path("program").read_text(), "the program")
    wait_for(lambda: Path("pids").exists() and len(started()) == 3, "the children")
    worker.kill()
    worker.wait()
    family = [int(Path("program").read_text()), *started()]
    wait_for(lambda: not any(map(alive, family)), "the end of all")


def test_a_keeper_that_is_killed_takes_the_program_and_its_children_along() -> None:
    children = "sleep 600 & echo $! >> pids; setsid sh -c 'sleep 600 & echo $! >> pids'"
    run = program(f"echo $PPID > supervisor; {children}; echo $$ >> pids; sleep 600")

    def kill() -> None:
        wait_for(lambda: Path("pids").exists() and len(started()) == 3, "the children")
        os.kill(int(Path("supervisor").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert "was killed by SIGKILL" in str(failure(command.train, run))
    killer.join()
    wait_for(lambda: not any(map(alive, started())), "the end of all")


# ---- what the worker ends ----------------------------------------------------------------------


def test_a_pruned_function_ends_by_an_exception_and_cleans_up() -> None:
    body = "try:\n    run.report(1, 40.0)\nfinally:\n    open('tidied', 'w').close()"
    with pytest.raises(Pruned):
        python.train(function(body, ends={1: Pruned}))
    assert Path("tidied").exists()


def test_a_pruned_program_gets_sigterm_and_cleans_up() -> None:
    script = f"trap 'touch tidied; exit 0' TERM; {said(1, 40)}; while :; do sleep 0.01; done"
    with pytest.raises(Pruned):
        command.train(program(script, ends={1: Pruned}))
    assert Path("tidied").exists()


@pytest.mark.parametrize("end", [Pruned, Released])
def test_a_program_that_heeds_no_signal_is_killed(end: type[Exception]) -> None:
    script = f"trap '' TERM; echo $$ > pids; {said(1, 40)}; while :; do sleep 1; done"
    run = program(script, ends={1: end}, workers={"heartbeat_seconds": 0.1, "grace_seconds": 1.0})
    with pytest.raises(end):
        command.train(run)
    assert not alive(started()[0])


def test_a_function_that_does_not_look_up_is_killed() -> None:
    body = "open('pids', 'w').write(str(os.getpid()))\nrun.report(1, 40.0)\ntime.sleep(600)"
    run = function(body, workers={"heartbeat_seconds": 0.1, "grace_seconds": 1.0})

    def stop() -> None:
        wait_for(lambda: run.epochs, "an epoch")
        run.end = Released()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Released):
        python.train(run)
    stopper.join()
    assert not alive(started()[0])


KEEPS = """
total = run.resume() or 0
for epoch in run.remaining_epochs():
    print(epoch, file=open('trained', 'a'))
    total += epoch
    run.report(epoch, 40.0 / total)
    run.save(total)
"""


@pytest.mark.parametrize("end", [Released, Pruned])
def test_a_function_that_was_ended_goes_on_to_the_same_result(
    end: type[Exception], tmp_path: Path
) -> None:
    whole = function(KEEPS)
    python.train(whole)
    Path("trained").unlink()
    first = function(KEEPS, folder=tmp_path, ends={2: end})
    with pytest.raises(end):
        python.train(first)
    second = function(KEEPS, folder=tmp_path)
    python.train(second)
    kept = 2 if end is Released else 1  # a pruned run is not saved any more
    assert [epoch.number for epoch in second.restored] == list(range(1, kept + 1))
    assert [*second.restored, *second.epochs] == whole.epochs
    assert Path("trained").read_text().split() == ["1", "2", *map(str, range(kept + 1, 4))]


STATE = """
state="$2/state"; done=$(cat "$state" 2>/dev/null || echo 0)
for epoch in 1 2 3; do
  [ $epoch -le $done ] && continue
  echo $epoch >> trained; echo $epoch > "$state"
  echo "{\\"epoch\\": $epoch, \\"error\\": $((40 - epoch))}"
  sleep 0.3
done
"""


def test_a_program_that_keeps_its_state_goes_on_where_it_stood(tmp_path: Path) -> None:
    first = program(STATE, "{checkpoint_dir}", folder=tmp_path, ends={2: Released})
    with pytest.raises(Released):
        command.train(first)
    second = program(STATE, "{checkpoint_dir}", folder=tmp_path)
    command.train(second)
    assert [epoch.validation_error for epoch in second.restored] == [39.0, 38.0]
    assert [epoch.validation_error for epoch in second.epochs] == [37.0]
    assert Path("trained").read_text().split() == ["1", "2", "3"]


def test_a_state_that_is_ahead_of_what_was_recorded_fails_one_attempt_and_not_the_next(
    tmp_path: Path,
) -> None:
    first = program(STATE, "{checkpoint_dir}", folder=tmp_path, ends={1: Released})
    with pytest.raises(Released):
        command.train(first)
    (state,) = tmp_path.glob("*/state")
    state.write_text("2")  # kept, and killed before the line was read
    second = program(STATE, "{checkpoint_dir}", folder=tmp_path)
    words = (
        "epoch = 3 is its first, and epoch 2 is next by what was recorded; its state was removed"
    )
    assert words in str(failure(command.train, second))
    third = program(STATE, "{checkpoint_dir}", folder=tmp_path)
    command.train(third)
    assert (second.epochs, third.restored, numbers(third)) == ([], [], [1, 2, 3])


# ---- what own code gets ------------------------------------------------------------------------


def test_a_program_gets_what_stands_in_braces() -> None:
    names = ("ks", "lr_max", "lr_min", "epochs", "seed", "device", "purpose")
    script = f'cp "$2" rates.csv; shift 2; printf "%s\\n" "$@" > given\n{ALL_EPOCHS}'
    run = program(script, "{schedule_csv}", *(f"{{{name}}}" for name in names), ks=(1.5, 3.0))
    command.train(run)
    assert Path("given").read_text().split("\n")[:-1] == [
        "1.5,3.0", "0.1", "0.001", "3", "0", "cpu", "search"
    ]  # fmt: skip
    rows = Path("rates.csv").read_text().split()
    assert rows[:2] == ["step,learning_rate", "0,0.1"]
    assert len(rows) == 1 + 3 + 1, "a head, three epochs, and the end"


def test_a_program_trains_for_a_confirmation_as_for_a_search_and_is_told_which() -> None:
    script = f'printf "%s\\n" "$@" > given\n{ALL_EPOCHS}'
    command.train(program(script, "{purpose}", comparator="rex", ks=(2.0,)))
    assert Path("given").read_text() == "\nconfirmation\n", "a rival has no k"


def test_own_code_sees_neither_the_database_nor_a_gpu_that_is_not_its(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KDECAY_STORAGE", "postgresql://user:secret@nowhere/none")
    command.train(program(f"env > seen\n{ALL_EPOCHS}"))
    seen = dict(line.split("=", 1) for line in Path("seen").read_text().splitlines() if "=" in line)
    assert "secret" not in Path("seen").read_text()
    assert (seen["KDECAY_DEVICE"], seen["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")


def test_the_folder_where_the_worker_was_started_cannot_replace_our_modules() -> None:
    for name in ("kdecay_search", "pydantic", "json", "socket"):
        Path(f"{name}.py").write_text("raise SystemExit('the wrong one')")
    run = function(EVERY_EPOCH)
    python.train(run)
    assert numbers(run) == [1, 2, 3]
