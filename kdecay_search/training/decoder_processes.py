"""How decoder processes treat signals, and how they end with the process that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker

DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask a worker to put its run back into the queue. A terminal's Ctrl-C, Slurm and
systemd send them to all processes of a worker."""

PARENT_CHECK_SECONDS = 1.0
"""How often (seconds) a decoder process checks whether its parent is alive."""


@contextmanager
def drain_signals_blocked() -> Iterator[None]:
    """Block ``DRAIN_SIGNALS`` in the processes that are started inside the ``with`` block.

    The worker needs its decoders until it has finished its batch and saved its state.
    """
    resource_tracker.ensure_running()  # if started later, it would unblock some of them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DRAIN_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_with_parent(_number: int = 0) -> None:
    """End this process when the process that asked for it ends, or terminates this one.

    torch watches the process that forked this one, which is the fork server. And with
    ``DRAIN_SIGNALS`` blocked, ``Process.terminate`` would have no effect: Python would wait for
    this process for ever at its exit.

    Args:
        _number: The decoder's number, which ``DataLoader`` passes to its ``worker_init_fn``.
    """
    threading.Thread(target=_wait_for_parent, name="exit with parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    while parent is not None and parent.is_alive():
        received = signal.sigtimedwait(DRAIN_SIGNALS, PARENT_CHECK_SECONDS)
        if received is not None and received.si_pid == parent.pid:
            break
    os._exit(1)
