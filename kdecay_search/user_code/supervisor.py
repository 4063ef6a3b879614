"""Keeps a program and everything that it starts, and lets nothing of it live on.

    python -I -S supervisor.py LEASH -- PROGRAM [ARGUMENT ...]

A script of its own, so that it is small and starts fast; :mod:`kdecay_search.user_code.process` starts
it. ``LEASH`` is the number of a socket whose other end the worker holds. A byte that comes over it
is the number of a signal to send to the program; SIGKILL goes to all of its family. When the
worker dies, however it dies, the socket is at its end: the family is killed then, too. And when
the program ends, what it left behind is killed, and one line tells the worker how it ended.

On Linux the supervisor adopts orphans (a child subreaper), so that a process that forked twice, or has
a session of its own, belongs to the family all the same; elsewhere the family is the program's
process group.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
IS_LINUX = sys.platform.startswith("linux")
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
RESTORED = (*IGNORED, signal.SIGPIPE, signal.SIGXFSZ)
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.002, 1.0
"""Between two looks at who is left; what hangs in the kernel takes long to die."""
NOT_STARTED = 127


def main(leash: socket.socket, command: list[str]) -> None:
    os.set_inheritable(leash.fileno(), False)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken = _wake_up_on_children()
    program, reason = _start(command)
    status = _keep(program, leash, woken)
    _kill_family(program)
    with contextlib.suppress(OSError):
        leash.sendall(f"{status} {reason}\n".encode(errors="replace"))


def _prctl(option: int, value: int) -> None:
    if IS_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _wake_up_on_children() -> int:
    """A file descriptor that can be read when a child has ended."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return reading


def _start(command: list[str]) -> tuple[int, str]:
    """The program's process id, and why it could not be started, if so."""
    reading, writing = os.pipe()
    supervisor = os.getpid()
    program = os.fork()
    if program == 0:
        try:
            _become(command, supervisor)
        except OSError as error:
            os.write(writing, (error.strerror or str(error)).encode())
        finally:
            os._exit(NOT_STARTED)
    os.close(writing)
    with os.fdopen(reading, encoding=None, errors="replace") as said:
        return program, said.read()


def _become(command: list[str], supervisor: int) -> None:
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(NOT_STARTED)
    signal.set_wakeup_fd(-1)
    for number in RESTORED:
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.execvp(command[0], command)


def _keep(program: int, leash: socket.socket, woken: int) -> int:
    """Until the program has ended, or is to be killed; its exit status, negative for a signal."""
    while True:
        sources = [leash.fileno(), woken]
        ready, _, _ = select.select(sources, [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            status = _reap(program)
            if status is not None:
                return status
        if leash.fileno() in ready:
            wishes = _wishes(leash)
            if not wishes or signal.SIGKILL in wishes:
                return _kill_family(program)
            for number in wishes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program, number)


def _wishes(leash: socket.socket) -> bytes:
    try:
        return leash.recv(64)
    except ConnectionError:
        return b""


def _reap(program: int) -> int | None:
    """Bury who has ended; the program's status if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == program:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _kill_family(program: int) -> int:
    """Kill until nobody is left, also those who are born meanwhile; the program's status."""
    found, pause = -int(signal.SIGKILL), LOOK_SECONDS
    while True:
        for pid in _family(program):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        status = _reap(program)
        found = found if status is None else status
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_LOOK_SECONDS)
        except ChildProcessError:
            return found


def _family(program: int) -> list[int]:
    if not IS_LINUX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        return []
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = children.get(os.getpid(), [])
    for pid in found:
        found.extend(children.get(pid, []))
    return found


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[3:])
