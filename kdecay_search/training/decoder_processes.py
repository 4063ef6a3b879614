"""Decoder processes: where their sockets are, how they treat signals, and how they end."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import parent_process, resource_tracker, util
from pathlib import Path
from tempfile import TemporaryDirectory

from kdecay_search.errors import KDecayError
from kdecay_search.paths import SOCKET_BYTES, socket_parents, takes_sockets

DRAIN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask a worker to put its run back into the queue. A terminal's Ctrl-C, Slurm and
systemd send them to all processes of a worker."""

LISTENER = "/pymp-12345678/listener-12345678"
"""How multiprocessing names a socket, below the folder for temporary files."""

PARENT_CHECK_SECONDS = 1.0
"""How often (seconds) a decoder process checks whether its parent is alive."""


@cache
def keep_sockets_short() -> None:
    """Let multiprocessing make its Unix sockets elsewhere if the path of ``TMPDIR`` is too long.

    The fork server and the exchange of tensors between processes need sockets. Processes that
    multiprocessing starts from now on use the same folder, which is removed when this one exits.

    Raises:
        KDecayError: There is no folder that suits.
    """
    default = Path(tempfile.gettempdir())
    for parent in (default, *socket_parents()):
        if len(os.fsencode(parent)) + len(LISTENER) > SOCKET_BYTES or not _can_hold_sockets(parent):
            continue
        if parent != default:
            tempfile.tempdir = str(parent)
            try:
                util.get_temp_dir()  # makes the folder, and remembers it
            finally:
                tempfile.tempdir = str(default)
        return
    raise KDecayError(
        f"TMPDIR={default} does not suit Unix sockets, nor do /tmp and XDG_RUNTIME_DIR; "
        f"set TMPDIR to a folder with a path of at most {SOCKET_BYTES - len(LISTENER)} bytes"
    )


def _can_hold_sockets(parent: Path) -> bool:
    try:
        with TemporaryDirectory(prefix="kdecay-", dir=parent) as folder:
            return takes_sockets(Path(folder))
    except OSError:
        return False


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
