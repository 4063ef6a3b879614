"""A process that imports the libraries of a user's code once, and forks a process for each run.

    python -P -c "…" ROOT SOCKET

:mod:`kdecay_search.user_code.forked_runs` starts it, with the environment variables that a run
gets. None of the user's own modules is imported here: each run imports them, so that it sees
them as they are by then, and as a new process would. For each request over the socket, which
carries the file descriptors of a :class:`~kdecay_search.user_code.process.Program`, the server
forks a supervisor, and that one forks the run. Neither can be told from processes that were
started, except that the libraries have been imported. The server ends when its worker closes the
socket, or is gone.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
import warnings
import weakref
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from kdecay_search.user_code import child, supervisor
from kdecay_search.user_code.channel import Channel, encode
from kdecay_search.user_code.libraries import is_library, libraries_of
from kdecay_search.user_code.process import MARK

DESCRIPTORS = 4
"""How many come with a request: a program's control and channel, standard output and error."""
CLOSED_BY_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
SETTLE_SECONDS = 0.5
"""Time that threads which a fork has ended get to disappear."""


def main() -> None:
    """Import what the function ``task.entry`` needs, and serve the worker until it closes the
    socket; each run returns from here once it has ended."""
    root, descriptor, entry = sys.argv[1:4]
    worker = socket.socket(fileno=int(descriptor))
    os.set_inheritable(worker.fileno(), False)
    child.search_working_folder(root)
    before = _open_files()
    _import(libraries_of(entry, sys.path))
    reason = _obstacle(before)
    worker.sendall(encode({"unsuitable": reason} if reason else {"ready": True}))
    if not reason and (program_end := _serve(worker)):
        child.do_job(Channel(program_end), is_forked=True)
        _end()
    os._exit(0)


def _import(names: list[str]) -> None:
    for name in names:
        with suppress(Exception):  # a run that needs it will raise the same
            pkgutil.resolve_name(name)
    if "torch" in sys.modules:
        for name in ("lr_driver", "averaging"):  # what a run's own methods import
            importlib.import_module(f"kdecay_search.training.{name}")
        torch = sys.modules["torch"]
        torch.optim.SGD([torch.zeros(1)], lr=1.0)  # the first optimizer imports a lot


def _obstacle(open_files: set[str]) -> str:
    """Why no run can be forked here; empty if nothing stands in the way.

    Args:
        open_files: The files that were open before the libraries were imported.
    """
    if own := next(filter(_is_own, list(sys.modules.values())), None):
        return f"a library imports {own.__name__} from the working folder"
    if not _fork_once():
        return "importing its libraries uses the GPU"
    threads = _threads()
    if threads > 1:
        return f"importing its libraries starts {threads - 1} threads"
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return "importing its libraries starts a process"
    if opened := _open_files() - open_files:
        return f"importing its libraries opens {min(opened)}"
    return ""


def _is_own(module: ModuleType) -> bool:
    """Whether a module belongs to the user's code in the working folder."""
    spec: ModuleSpec | None = getattr(module, "__spec__", None)
    if spec is None or spec.origin is None or spec.name.startswith("kdecay_search"):
        return False
    return Path(spec.origin).is_relative_to(os.getcwd()) and not is_library(spec)


def _fork_once() -> bool:
    """Fork a process that does nothing; return whether torch could use the GPU in it.

    Libraries such as OpenBLAS end their threads for good when the process forks.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of such threads
        forked = os.fork()
    if not forked:
        torch_cuda = sys.modules.get("torch.cuda")
        is_spoilt = getattr(torch_cuda, "_is_in_bad_fork", lambda: False)
        os._exit(bool(is_spoilt()))
    return os.waitpid(forked, 0)[1] == 0


def _threads() -> int:
    """The number of this process's threads; those that are just ending do not count."""
    until = time.monotonic() + SETTLE_SECONDS
    while (threads := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < until:
        time.sleep(0.01)
    return threads


def _open_files() -> set[str]:
    """What this process has open, as /proc shows it."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def _serve(worker: socket.socket) -> socket.socket | None:
    """Fork a run for each request.

    Returns:
        In the process of a run, its end of the channel; in this one None, once the worker has
        closed the socket.
    """
    address = _address_of_mark()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False  # what the libraries made, such as folders, is not a run's to end
    gc.collect()
    gc.freeze()  # so that a collection in a run does not copy the memory that it shares
    signal.signal(signal.SIGCHLD, lambda number, frame: _reap())
    while True:
        text, descriptors, _, _ = socket.recv_fds(worker, 1 << 16, DESCRIPTORS, CLOSED_BY_EXEC)
        if not text:
            return None
        forked = os.fork()
        if not forked:
            worker.close()
            return _become_run(descriptors, text.decode(), address)
        for descriptor in descriptors:
            os.close(descriptor)
        worker.sendall(encode({"pid": forked}))


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _become_run(descriptors: list[int], mark: str, address: int) -> socket.socket:
    """Become a supervisor, which forks the run; return in the run, its end of the channel."""
    control, program_end, stdout, stderr = descriptors
    os.dup2(stdout, 1, inheritable=True)
    os.dup2(stderr, 2, inheritable=True)
    os.close(stdout)
    os.close(stderr)
    ctypes.memmove(address, mark.encode(), len(mark))
    os.environ[MARK] = mark
    supervisor.fork_program(socket.socket(fileno=control))
    if "numpy.random" in sys.modules:  # Python's own generator is seeded anew at each fork
        sys.modules["numpy.random"].seed()
    importlib.invalidate_caches()
    return socket.socket(fileno=program_end)


def _address_of_mark() -> int:
    """Where the mark lies among the variables with which this process was started.

    That is where /proc shows them; a mark that is only set in ``os.environ`` is not seen there.
    """
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address: int = getenv(MARK.encode())
    return address


def _end() -> None:
    """Do what Python does when it ends, except freeing every object, which takes long."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for the threads
    atexit._run_exitfuncs()
    for each in gc.get_objects():  # without those of before the fork
        if isinstance(each, io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom):
            with suppress(Exception):
                each.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
