"""Starts the processes that train one run together, and ends all of them as one.

    python -P -c "…" ROOT SOCKET

:mod:`kdecay_search.user_code.python` starts it in place of a single process, with the same job over
the same socket. It starts one process (a *rank*) for each device, with the variables from which
torch's ``env://`` makes a process group, and stands between them and the worker: what rank 0
reports goes to the worker, and an interruption goes to all ranks (:mod:`.board`). A rank that dies
or raises ends the run.
"""

from __future__ import annotations

import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from kdecay_search.user_code.board import Board
from kdecay_search.user_code.channel import Channel, Message

POLL_SECONDS = 0.1
"""Longest time between two looks at which ranks have ended."""
SETTLE_SECONDS = 2.0
"""After the first failure, how long to wait for that of the rank which caused it."""
END_SECONDS = 10.0
"""Time that the other ranks get to end after rank 0."""
ABORT_SECONDS = 1.0
"""Time that each rank gets, after SIGABRT, to write down where it hangs."""
PEER_WORDS = re.compile(
    r"gloo|nccl|closed by peer|reset by peer|broken pipe|Dist(Network|Backend|Store)?Error", re.I
)
"""What is in the message of a rank that lost another one."""
OUTCOMES = {"returned", "interrupted", "failed", "invalid_entry"}
"""Keys of the messages with which a rank ends."""


@dataclass
class Rank:
    """One of the processes."""

    number: int
    """Its rank, from 0."""
    process: subprocess.Popen[bytes]
    """The process."""
    channel: Channel
    """The launcher's end of its socket."""
    outcome: Message | None = None
    """The message with which it ended; None until then."""
    has_died: bool = False
    """Whether the process is gone without an outcome."""

    @property
    def failure(self) -> Message | None:
        """What went wrong with this rank, as a message to the worker; None if nothing has."""
        outcome = self.outcome or {}
        if "failed" in outcome:
            return outcome | {"failed": f"rank {self.number}: {outcome['failed']}"}
        if "invalid_entry" in outcome:
            return outcome
        if not self.has_died:
            return None
        code = self.process.returncode
        how = f"was killed by {_name(-code)}" if code < 0 else f"ended with exit status {code}"
        text = f"rank {self.number} {how} and returned nothing"
        return {"failed": text, "traceback": "", "is_wrong": False}

    @property
    def is_consequence(self) -> bool:
        """Whether it seems to have failed because another rank had: it lost the connection."""
        if self.outcome is None:
            return self.process.returncode == -signal.SIGABRT  # as NCCL's watchdog ends a process
        return bool(PEER_WORDS.search(str(self.outcome.get("failed"))))


class Launcher:
    """Serves the ranks of one run, until all of them have ended.

    Args:
        worker: The launcher's end of the socket to the worker.
        job: What to train; its ``devices`` are those of the ranks.
        command: The command of a rank, without the number of its socket.
        environment: The environment variables of a rank, without those of its rank.
    """

    def __init__(
        self, worker: Channel, job: Message, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._worker = worker
        self._board = Board.made(len(job["devices"]))
        self._ending: str | None = None
        """The interruption that the worker has sent."""
        self._owes_answer = False
        """Whether rank 0 waits for an answer of the worker."""
        self._failed: list[Rank] = []
        """The ranks that failed before rank 0 had ended, the first one first."""
        self._ranks = [
            self._started(number, job, command, environment)
            for number in range(len(job["devices"]))
        ]

    def _started(
        self, number: int, job: Message, command: Sequence[str], environment: Mapping[str, str]
    ) -> Rank:
        own, theirs = socket.socketpair()
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            env={**environment, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if number else None,  # rank 0 alone prints
            pass_fds=[theirs.fileno(), self._board.descriptor],
        )
        theirs.close()
        channel, devices = Channel(own), job["devices"]
        place = {"device": devices[number], "rank": number, "world_size": len(devices)}
        with suppress(ConnectionError):  # serve() finds a process that has died
            channel.send(job | place | {"board": self._board.descriptor})
        return Rank(number, process, channel)

    def serve(self) -> Message:
        """Pass messages on until the run has ended; return the outcome to send to the worker.

        That is what rank 0 has ended with, once the others have ended as well or had the time to;
        or, if one failed before that, the failure which caused those of the others.

        Raises:
            ConnectionError: The worker is gone.
        """
        first, until = self._ranks[0], math.inf
        while True:
            self._pass_messages()
            for rank in self._ranks:
                self._look_at(rank)
            failed = self._failed
            if failed:
                until = min(until, time.monotonic() + SETTLE_SECONDS)
                cause = min(failed, key=lambda rank: (rank.is_consequence, not rank.has_died))
                is_over = len(failed) == len(self._ranks) or time.monotonic() >= until
                if is_over or not cause.is_consequence:
                    assert cause.failure is not None
                    return cause.failure
            elif first.outcome is not None:
                until = min(until, time.monotonic() + END_SECONDS)
                have_ended = all(rank.process.poll() is not None for rank in self._ranks[1:])
                if have_ended or time.monotonic() >= until:
                    return first.outcome

    def _look_at(self, rank: Rank) -> None:
        """Note whether a rank has died or failed, unless rank 0 had ended well before."""
        if rank.outcome is None and rank.process.poll() is not None:
            self._receive(rank)  # what it sent before it ended
            rank.has_died = rank.outcome is None
        first = self._ranks[0]
        is_over = first.outcome is not None and first.failure is None and not self._failed
        if rank.failure is not None and rank not in self._failed and not is_over:
            self._failed.append(rank)

    def _pass_messages(self) -> None:
        """Wait a short time for messages, and pass on those that have come."""
        channels = [rank.channel for rank in self._ranks if not rank.channel.is_closed]
        select.select([self._worker, *channels], [], [], POLL_SECONDS)
        for rank in self._ranks:
            self._receive(rank)
        while self._worker.is_ready:
            self._answer(self._worker.receive())

    def _receive(self, rank: Rank) -> None:
        """Handle the messages of a rank that have come."""
        while not rank.channel.is_closed and rank.channel.is_ready:
            try:
                self._handle(rank, rank.channel.receive())
            except ConnectionError:
                rank.channel.close()

    def _handle(self, rank: Rank, message: Message) -> None:
        if not OUTCOMES.isdisjoint(message):
            rank.outcome = message
        elif "log" in message:
            self._worker.send(message)
        elif self._ending is not None:  # the worker no longer answers
            rank.channel.send({"continue": True, "ending": self._ending})
        else:
            self._owes_answer = True
            self._worker.send(message)

    def _answer(self, message: Message) -> None:
        """Pass the worker's answer on to rank 0, and an interruption to all ranks."""
        if "interruption" in message:
            self._ending = message["interruption"]
            self._board.end(message["interruption"])
        if self._owes_answer:
            self._owes_answer = False
            with suppress(ConnectionError):  # rank 0 has died
                self._ranks[0].channel.send({"continue": True, "ending": self._ending})

    def kill(self) -> None:
        """Kill the ranks that are left."""
        for rank in self._ranks:
            if rank.process.poll() is None:
                rank.process.kill()
        for rank in self._ranks:
            rank.process.wait()

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Pass on a signal of the worker; before each dump of a hanging rank, say which it is."""
        for rank in self._ranks:
            if rank.process.poll() is not None:
                continue
            if number == signal.SIGABRT:
                os.write(2, f"rank {rank.number}:\n".encode())
            rank.process.send_signal(number)
            if number == signal.SIGABRT:
                with suppress(subprocess.TimeoutExpired):
                    rank.process.wait(ABORT_SECONDS)
        if number == signal.SIGABRT:
            os._exit(1)


def main(child: str) -> None:
    """Receive a job over the socket, let the ranks do it, and send back the outcome.

    Args:
        child: What the process of a rank executes.
    """
    descriptor = int(sys.argv[2])
    os.set_inheritable(descriptor, False)
    worker = Channel(socket.socket(fileno=descriptor))
    job = worker.receive()
    command = [sys.executable, "-P", "-c", child, sys.argv[1]]
    environment = os.environ | rendezvous(len(job["devices"]))
    launcher = Launcher(worker, job, command, environment)
    for number in (signal.SIGTERM, signal.SIGABRT):
        signal.signal(number, launcher.forward)
    with suppress(ConnectionError):  # the worker is gone
        outcome = launcher.serve()
        launcher.kill()
        worker.send(outcome)


def rendezvous(ranks: int) -> dict[str, str]:
    """Return the variables of torch's ``env://`` that all ranks share, with a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
