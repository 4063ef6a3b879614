"""Functions that several processes train together: they agree, and they end as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.errors import TaskError
from kdecay_search.tasks.device_names import devices_of, joined
from kdecay_search.tasks.protocol import Epoch, Interruption, Lost, Paused, Released
from kdecay_search.user_code import python
from kdecay_search.user_code.board import Board
from kdecay_search.user_code.environment import device_and_environment, own_devices
from tests.support.recorded_run import RecordedRun
from tests.user_code.programs import LONG, PYTHON, failure, let_time_fly, numbers

TOGETHER = '''
import faulthandler, json, os, random, signal, socket, sys, time
from pathlib import Path

RANK, PORT = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])


def connected():
    """The two ranks' sockets: rank 0 listens where torch's process group would."""
    if RANK == 0:
        server = socket.create_server((os.environ["MASTER_ADDR"], PORT))
        return server.accept()[0]
    for _ in range(500):
        try:
            return socket.create_connection((os.environ["MASTER_ADDR"], PORT))
        except ConnectionRefusedError:
            time.sleep(0.02)


def together(peer):
    """A collective operation: returns when both ranks have come here."""
    peer.sendall(b"x")
    if not peer.recv(1):
        raise ConnectionError("Connection closed by peer")


def note(name, value):
    with open(f"{name}{RANK}", "a") as file:
        print(json.dumps(value), file=file)


'''
TRAIN = """
peer = connected()
updates = 0
try:
    for epoch in run.remaining_epochs():
        for step in range(20):
            together(peer)
            run.poll()
            updates += 1
            time.sleep(0.002)
        run.report(epoch, 40 / epoch)
finally:
    note("updates", updates)
"""

pytestmark = pytest.mark.usefixtures("own_folder")


def ranks(body: str, **run: Any) -> RecordedRun:
    """Return a run of a function ``train(run)`` with this body, on two processes."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    Path("mine.py").write_text(f"{TOGETHER}\ndef train(run):\n{lines}")
    task = PYTHON | run.pop("task", {})
    kind = run.pop("kind", RecordedRun)
    found: RecordedRun = kind(task=task, **run)
    found.device = "cpu,cpu"
    return found


def noted(name: str) -> list[list[Any]]:
    """Return what each of the two ranks has noted."""
    return [
        [json.loads(line) for line in Path(f"{name}{rank}").read_text().splitlines()]
        for rank in range(2)
    ]


def test_all_ranks_have_the_same_run() -> None:
    names = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")
    run = ranks(
        f"""
run.steps_per_epoch = 5
print("from", run.rank)
note("same", [run.seed, run.epochs, [run.schedule(step) for step in range(15)], run.purpose])
note("shared", [os.environ[name] for name in {names}])
note("own", [run.rank, run.world_size, os.environ["RANK"], os.environ["LOCAL_RANK"], run.device])
for epoch in run.remaining_epochs():
    run.report(epoch, 40.0 / epoch if run.rank == 0 else None)
return 12.5 if run.rank == 0 else None
"""
    )
    assert python.train(run) == 12.5
    assert [epoch.validation_error for epoch in run.epochs] == [40.0, 20.0, 40.0 / 3]
    assert noted("same")[0] == noted("same")[1]
    assert noted("shared")[0] == noted("shared")[1]
    assert noted("shared")[0][0][:3] == ["2", "2", "127.0.0.1"]
    assert noted("own") == [[[rank, 2, str(rank), str(rank), "cpu"]] for rank in range(2)]


class EndsAt(RecordedRun):
    """A run that is interrupted when its code has made a file, in the middle of an epoch."""

    kind: type[Interruption] = Released

    def poll(self) -> None:
        if Path("end").exists():
            raise self.kind


@pytest.mark.parametrize(
    ("kind", "place"), [(Released, "update"), (Lost, "update"), (Paused, "report")]
)
def test_all_ranks_end_at_the_same_update(kind: type[Interruption], place: str) -> None:
    body = TRAIN
    if place == "update":
        body = TRAIN.replace(
            "updates += 1", "updates += 1; (epoch, step, RANK) == (2, 3, 1) and open('end', 'w')"
        )
    run = ranks(body, kind=EndsAt, ends={2: kind} if place == "report" else {})
    assert isinstance(run, EndsAt)
    run.kind = kind
    with pytest.raises(kind):
        python.train(run)
    (first,), (second,) = noted("updates")
    assert first == second
    assert first == 40 if place == "report" else 20 < first < 60


def test_a_run_that_diverges_ends_on_all_ranks() -> None:
    run = ranks(TRAIN.replace("40 / epoch", "float('nan') if run.rank == 0 else 1.0"))
    assert python.train(run) is None
    assert [(epoch.number, epoch.diverged) for epoch in run.epochs] == [(1, True)]
    assert noted("updates") == [[20], [20]]


def test_rank_0_alone_may_call_report() -> None:
    run = ranks(TRAIN.replace("run.report", "run.rank or run.report"), ends={1: Paused})
    with pytest.raises(Paused):
        python.train(run)
    assert noted("updates") == [[20], [20]]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("raise ValueError('my own mistake')", "rank 1: ValueError: my own mistake (mine.py, line"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was killed by SIGKILL and returned no"),
        ("faulthandler._sigsegv()", "rank 1 was killed by SIGSEGV and returned nothing"),
        ("peer.close(); time.sleep(0.5); int('x')", "rank 1: ValueError: invalid literal for int"),
    ],
)
def test_a_rank_that_dies_ends_the_run(what: str, text: str) -> None:
    run = ranks(TRAIN.replace("updates += 1", f"if RANK and epoch == 2: {what}"))
    error = failure(python.train, run)
    assert str(error).startswith(text)
    assert numbers(run) == [1]
    if "SIGKILL" not in text:
        assert "in train" in error.output


def test_a_function_that_is_missing() -> None:
    run = ranks("pass", task={"entry": "mine:other"})
    with pytest.raises(TaskError, match="mine has no other"):
        python.train(run)


def test_ranks_that_hang_write_down_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank hangs by itself, the other as it waits for that one."""
    run = ranks(TRAIN.replace("updates += 1", "RANK and hang(peer)"), task=LONG)
    with Path("mine.py").open("a") as file:
        file.write("\ndef hang(peer):\n    peer.recv(1), open('hangs', 'w'), time.sleep(6000)\n")
    let_time_fly(monkeypatch, Path("hangs").exists)
    error = failure(python.train, run)
    assert "epoch 1 was not reported within task.epoch_timeout = 600 s" in str(error)
    assert "in together" in error.output
    assert "in hang" in error.output
    assert error.output.index("rank 0:") < error.output.index("rank 1:")


KEEPS = """
peer = connected()
class Total:
    value = 0.0
    def state_dict(self): return {"value": self.value}
    def load_state_dict(self, state): self.value = state["value"]
total = Total()
random.seed(run.rank)
run.keep(total)
for epoch in run.remaining_epochs():
    for step in range(5):
        together(peer)
        run.poll()
        drawn = random.random() + sum(random.random() for _ in range(RANK))
        note("drawn", [epoch, step, drawn])
        total.value += drawn
    run.report(epoch, 40 - total.value)
"""


def curve(epochs: Sequence[Epoch]) -> list[float]:
    return [epoch.validation_error for epoch in epochs]


def test_an_interrupted_run_ends_with_the_same_numbers() -> None:
    undisturbed = ranks(KEEPS)
    python.train(undisturbed)
    drawn = noted("drawn")
    assert drawn[0] != drawn[1], "each rank draws its own numbers"
    for rank in range(2):
        Path(f"drawn{rank}").unlink()
    folder = Path("checkpoints").resolve()
    with pytest.raises(Released):
        python.train(ranks(KEEPS, folder=folder, ends={2: Released}))
    resumed = ranks(KEEPS, folder=folder)
    python.train(resumed)
    assert (curve(resumed.restored), numbers(resumed)) == (curve(undisturbed.epochs[:2]), [3])
    assert curve(resumed.epochs) == curve(undisturbed.epochs[2:])
    assert noted("drawn") == drawn
    assert resumed.checkpoint is not None
    resumed.checkpoint.remove()
    assert not list(folder.iterdir())


def test_a_run_that_is_lost_saves_nothing_more() -> None:
    folder = Path("checkpoints").resolve()
    with pytest.raises(Lost):
        python.train(ranks(KEEPS, folder=folder, ends={2: Lost}))
    resumed = ranks(KEEPS, folder=folder)
    python.train(resumed)
    assert len(resumed.restored) == 1


def test_the_board() -> None:
    board = Board.made(3)
    other = Board(board.descriptor, 3)
    assert [board.announce(rank, poll) for rank, poll in ((0, 1), (1, 1), (0, 2))] == [None] * 3
    other.end("Released")
    other.end("Lost")
    assert (board.announce(1, 2), board.announce(2, 1), board.announce(2, 2)) == (None, None, None)
    assert [board.announce(rank, 3) for rank in (2, 0, 1)] == ["Released"] * 3


def test_names_of_devices() -> None:
    for device, names in {
        "cpu": ["cpu"], "cuda": ["cuda"], "cuda:3": ["cuda:3"], "cpu,cpu": ["cpu", "cpu"],
        "cuda:0,2": ["cuda:0", "cuda:2"],
    }.items():  # fmt: skip
        assert devices_of(device) == names
        assert joined(names) == device
    assert own_devices("cuda:3") == ["cuda"]
    assert own_devices("cuda:2,3") == ["cuda:0", "cuda:1"]
    kind, environment = device_and_environment("cuda:1,2", {"CUDA_VISIBLE_DEVICES": "GPU-a,5,7"})
    assert (kind, environment["CUDA_VISIBLE_DEVICES"]) == ("cuda", "5,7")
    assert "OMP_NUM_THREADS" in environment
    assert device_and_environment("cpu,cpu", {"OMP_NUM_THREADS": "3"})[1]["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in device_and_environment("cpu", {})[1]
    assert device_and_environment("cpu,cpu", {})[1]["CUDA_VISIBLE_DEVICES"] == ""
