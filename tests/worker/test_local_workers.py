"""Local workers that are killed again and again are restarted after growing pauses."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.errors import KDecayError, StorageUnavailable
from kdecay_search.worker import local_workers
from kdecay_search.worker.local_workers import (
    MAX_RESTART_SECONDS,
    MAX_RESTARTS,
    SHORT_LIFE_SECONDS,
    LocalWorkers,
    restart_pause,
)


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Worker processes that only wait to be killed, in the order of their start."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(*arguments: Any) -> tuple[subprocess.Popen[bytes], str]:
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[-1], f"host:{len(started)}:"

    monkeypatch.setattr(local_workers, "_spawn", spawn)
    return started


def killed(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_worker_that_dies_at_once_is_restarted_ever_more_slowly(
    spawned: list[subprocess.Popen[bytes]],
) -> None:
    now = [0.0]
    workers = LocalWorkers(clock=lambda: now[0])
    workers.start([], {}, Path("unused"))
    pauses: list[float] = []
    reaped: list[str] = []
    for life in range(1, 9):
        killed(spawned[-1])
        workers.restart_killed(reaped.append)
        died = now[0]
        while len(spawned) == life:
            assert workers.running == 1, "a worker that will be restarted counts"
            now[0] += 0.5
            workers.restart_killed(reaped.append)
        assert reaped == [f"host:{each}:" for each in range(1, life + 1)], "each death once"
        pauses.append(now[0] - died)
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60]
    now[0] += SHORT_LIFE_SECONDS
    killed(spawned[-1])
    workers.restart_killed(reaped.append)
    assert reaped[-1] == "host:9:"
    assert len(spawned) == 10, "after a long life, at once"
    workers.signal(signal.SIGKILL)
    assert workers.wait(10)


def test_a_worker_is_restarted_at_most_twenty_times(
    spawned: list[subprocess.Popen[bytes]],
) -> None:
    now = [0.0]
    workers = LocalWorkers(clock=lambda: now[0])
    workers.start([], {}, Path("unused"))
    for _ in range(MAX_RESTARTS + 5):
        killed(spawned[-1])
        workers.restart_killed(lambda _: None)
        now[0] += MAX_RESTART_SECONDS
        workers.restart_killed(lambda _: None)
    assert len(spawned) == MAX_RESTARTS + 1
    assert workers.running == 0


def test_a_death_that_the_database_does_not_take_is_told_again(
    spawned: list[subprocess.Popen[bytes]],
) -> None:
    workers, reaped = LocalWorkers(), []
    workers.start([], {}, Path("unused"))

    def unreachable(_: str) -> None:
        raise StorageUnavailable("no database")

    killed(spawned[-1])
    with pytest.raises(StorageUnavailable):
        workers.restart_killed(unreachable)
    workers.restart_killed(reaped.append)
    workers.restart_killed(reaped.append)
    assert reaped == ["host:1:"]
    workers.signal(signal.SIGKILL)
    assert workers.wait(10)


@pytest.mark.parametrize(("lives", "pause"), [(0, 0), (1, 0), (2, 1), (5, 8), (8, 60), (5000, 60)])
def test_the_pause_grows_and_is_bounded(lives: int, pause: float) -> None:
    assert restart_pause(lives) == pause


def test_no_worker_logs_through_a_link(tmp_path: Path) -> None:
    private, log = tmp_path / "private", tmp_path / "logs" / "worker-0.log"
    private.write_text("a private file")
    log.parent.mkdir()
    log.symlink_to(private)
    with pytest.raises(KDecayError, match=r"log .*worker-0\.log: "):
        LocalWorkers().start(["--help"], {}, log)
    assert private.read_text() == "a private file"
    log.unlink()
    workers = LocalWorkers()
    workers.start(["--help"], {}, log)
    assert workers.wait(60)
    assert (log.stat().st_mode & 0o777, "Usage" in log.read_text()) == (0o600, True)
