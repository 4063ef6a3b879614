"""A disk that is full while a checkpoint is written."""

from __future__ import annotations

import resource
import signal
import subprocess
import threading
from pathlib import Path

from kdecay_search.storage import Storage, records
from kdecay_search.study.trials import State
from tests.support.kdecay_command import Kdecay, errors_by_run
from tests.support.wait import wait_for

DIGITS = str(Path(__file__).parents[2] / "studies" / "digits.toml")
ONE_RUN = ["search.k_max=1.0", "search.k_cap=1.0", "search.seeds=1", "search.max_terms=1",
           "pruning.enabled=false", "confirm.seeds=0", "task.epochs=12",
           "workers.heartbeat_seconds=0.2", "workers.grace_seconds=1.0"]  # fmt: skip
WARNING = "no checkpoint can be written"
BYTES = 1000
"""Size that no file may exceed: only the first part of a checkpoint fits."""


class Log:
    """The lines that a process writes to stderr while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self.lines.append(line)

    def close(self) -> None:
        """Wait for the process to end."""
        self._thread.join()
        self._process.communicate()

    def count(self, word: str) -> int:
        return sum(word in line for line in self.lines)


def launch(kdecay: Kdecay, name: str, folder: Path, workers: int) -> None:
    values = [part for value in (f"name={name}", *ONE_RUN) for part in ("--set", value)]
    detach = [] if workers else ["--detach"]
    options = ["--workers", str(workers), "--checkpoints", str(folder), *detach]
    kdecay.run("launch", DIGITS, *options, *values)


def test_a_full_disk_costs_one_warning_and_the_old_checkpoint_survives(
    kdecay: Kdecay, storage: Storage, tmp_path: Path
) -> None:
    launch(kdecay, "roomy", tmp_path / "roomy", workers=1)
    launch(kdecay, "full", tmp_path / "full", workers=0)
    arguments = ["worker", "--study", "full", "--drain", "--checkpoints", str(tmp_path / "full")]

    worker = kdecay.fork(*arguments)
    log = Log(worker)
    wait_for(lambda: list((tmp_path / "full").rglob("*.ckpt")), "the first checkpoint")
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (BYTES, BYTES))
    old = wait_for_the_warning(log, tmp_path)
    epochs = reported(storage)
    wait_for(lambda: reported(storage) >= epochs + 2, "further epochs")
    worker.send_signal(signal.SIGKILL)
    log.close()

    assert log.count(WARNING) == 1
    assert checkpoints(tmp_path) == old, "the old checkpoint, intact"
    kdecay.run(*arguments)
    assert not [path for path in (tmp_path / "full").rglob("*") if path.is_file()]
    roomy, full = (errors_by_run(kdecay.json("status", name)) for name in ("roomy", "full"))
    assert full == roomy
    first, second = records.read_trials(storage, "full")
    assert (first.state, second.state) == (State.FAILED, State.COMPLETE)
    assert 0 < second.resumed_epochs < first.epochs


def checkpoints(folder: Path) -> dict[Path, bytes]:
    """The content of all checkpoints on the full disk, by path.

    A worker that is killed while it writes leaves a temporary file, whose name begins with a dot.
    """
    files = [path for path in (folder / "full").rglob("*") if path.is_file()]
    assert len([path for path in files if path.name.startswith(".")]) <= 1
    return {path: path.read_bytes() for path in files if not path.name.startswith(".")}


def wait_for_the_warning(log: Log, folder: Path) -> dict[Path, bytes]:
    wait_for(lambda: log.count(WARNING), "the warning")
    return checkpoints(folder)


def reported(storage: Storage) -> int:
    """Epochs that the study has reported."""
    return sum(trial.epochs for trial in records.read_trials(storage, "full"))
