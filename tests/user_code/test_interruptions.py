"""Functions and programs that the worker ends, and how their runs resume."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kdecay_search.tasks.protocol import Lost, Paused, Released
from kdecay_search.user_code import command, python
from tests.support.wait import wait_for
from tests.user_code.programs import (
    alive,
    failure,
    function,
    numbers,
    program,
    report_line,
    started,
)

pytestmark = pytest.mark.usefixtures("own_folder")


def test_a_lost_function_cleans_up() -> None:
    body = "try:\n    run.report(1, 40.0)\nfinally:\n    open('tidied', 'w').close()"
    with pytest.raises(Lost):
        python.train(function(body, ends={1: Lost}))
    assert Path("tidied").exists()


def test_a_lost_program_cleans_up() -> None:
    script = f"trap 'touch tidied; exit 0' TERM; {report_line(1, 40)}; while :; do sleep 0.01; done"
    with pytest.raises(Lost):
        command.train(program(script, ends={1: Lost}))
    assert Path("tidied").exists()


@pytest.mark.parametrize("end", [Lost, Released])
def test_a_program_that_ignores_sigterm_is_killed(end: type[Exception]) -> None:
    script = f"trap '' TERM; echo $$ > pids; {report_line(1, 40)}; while :; do sleep 1; done"
    run = program(script, ends={1: end}, workers={"heartbeat_seconds": 0.1, "grace_seconds": 1.0})
    with pytest.raises(end):
        command.train(run)
    assert not alive(started()[0])


def test_a_function_that_never_polls_is_killed() -> None:
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


@pytest.mark.parametrize("end", [Released, Paused, Lost])
def test_a_function_resumes_to_the_same_result(end: type[Exception], tmp_path: Path) -> None:
    whole = function(KEEPS)
    python.train(whole)
    Path("trained").unlink()
    first = function(KEEPS, folder=tmp_path, ends={2: end})
    with pytest.raises(end):
        python.train(first)
    second = function(KEEPS, folder=tmp_path)
    python.train(second)
    kept = 1 if end is Lost else 2  # what is lost is no longer saved
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


def test_a_program_resumes_from_its_state(tmp_path: Path) -> None:
    first = program(STATE, "{checkpoint_dir}", folder=tmp_path, ends={2: Released})
    with pytest.raises(Released):
        command.train(first)
    second = program(STATE, "{checkpoint_dir}", folder=tmp_path)
    command.train(second)
    assert [epoch.validation_error for epoch in second.restored] == [39.0, 38.0]
    assert [epoch.validation_error for epoch in second.epochs] == [37.0]
    assert Path("trained").read_text().split() == ["1", "2", "3"]


def test_a_state_ahead_of_the_record_fails_one_attempt(
    tmp_path: Path,
) -> None:
    first = program(STATE, "{checkpoint_dir}", folder=tmp_path, ends={1: Released})
    with pytest.raises(Released):
        command.train(first)
    (state,) = tmp_path.glob("*/state")
    state.write_text("2")  # saved, but killed before the line was read
    second = program(STATE, "{checkpoint_dir}", folder=tmp_path)
    words = (
        "epoch = 3: epoch 2 is next; report every epoch once, in order, from 1; "
        "the saved state was removed, and the next attempt starts over"
    )
    assert words in str(failure(command.train, second))
    third = program(STATE, "{checkpoint_dir}", folder=tmp_path)
    command.train(third)
    assert (second.epochs, third.restored, numbers(third)) == ([], [], [1, 2, 3])
