"""What processes that help a training do about signals and about its end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker

DRAINING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""What asks a worker to put its run back, often sent to all of its processes: by a terminal's
Ctrl-C, by Slurm, by systemd."""

LOOK_SECONDS = 1.0


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started in here never get the signals ``DRAINING``: the worker must be
    able to finish its batch."""
    resource_tracker.ensure_running()  # it would unblock some of them when it starts later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DRAINING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent(_number: int = 0) -> None:
    """End this process when the one that asked for it ends, be it killed, or says so.

    torch watches the process that forked this one, which is another. And with ``DRAINING`` blocked,
    nothing else would heed ``Process.terminate``: Python would wait for this process for ever.
    """
    threading.Thread(target=_end_with_parent, name="follow parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    while parent is not None and parent.is_alive():
        received = signal.sigtimedwait(DRAINING, LOOK_SECONDS)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(1)
