"""Runs a program and makes sure that no process which it starts outlives it.

    python -I -S supervisor.py CONTROL -- PROGRAM [ARGUMENT ...]

A script of its own, so that it is small and starts fast; :mod:`kdecay_search.user_code.process`
starts it, or :mod:`kdecay_search.user_code.fork_server` becomes one by :func:`fork_program`.
``CONTROL`` is the number of a socket whose other end the worker holds. A byte that arrives over it
is the number of a signal to send to the program; SIGKILL goes to its whole process tree. When the
worker dies, however it dies, the socket closes, and the process tree is killed. When the program
ends, the processes that it left behind are killed, and one line tells the worker how it ended.

On Linux the supervisor adopts orphans (it is a child subreaper), so that the process tree includes
processes that forked twice or have a session of their own. Elsewhere, the process tree is the
program's process group.
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
RESTORED = (signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that the program does not ignore, even if the worker did when it started: SIGTERM is how
the worker asks it to end, and Python ignores the others."""
POLL_SECONDS, LONGEST_POLL_SECONDS = 0.002, 1.0
"""First and longest pause between two looks at which killed processes are left: a process that
hangs in the kernel takes long to die."""
NOT_STARTED = 127
"""Exit status of a program that could not be started: the one that shells use."""


def main(control: socket.socket, command: list[str]) -> None:
    """Run ``command`` to its end, kill what it left behind, and report its exit status."""
    os.set_inheritable(control.fileno(), False)
    handlers, child_ended = _prepare()
    restored = [n for n in IGNORED if handlers[n] is not signal.SIG_IGN]
    program, reason = _start(command, [*restored, *RESTORED])
    _follow(program, reason, control, child_ended)


def fork_program(control: socket.socket) -> None:
    """Fork. Only the new process, which is the program, returns; this one supervises it, and exits.

    Signals are handled in the program as they were in this process.
    """
    os.setsid()
    handlers, child_ended = _prepare()
    supervisor = os.getpid()
    program = os.fork()
    if program:
        try:
            _follow(program, "", control, child_ended)
        finally:
            os._exit(0)
    _leave_supervisor(supervisor)
    control.close()
    os.close(child_ended)
    os.close(signal.set_wakeup_fd(-1))
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _prepare() -> "tuple[dict[signal.Signals, signal._HANDLER], int]":
    """Make this process a supervisor; return the former signal handlers, and the file descriptor
    that becomes readable when a child has ended."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in IGNORED}
    handlers[signal.SIGCHLD] = signal.SIG_DFL
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    return handlers, _child_exit_notifier()


def _follow(program: int, reason: str, control: socket.socket, child_ended: int) -> None:
    """Follow the program to its end, kill what it left behind, and report its exit status."""
    status = _supervise(program, control, child_ended)
    _kill_tree(program)
    with contextlib.suppress(OSError):
        control.sendall(f"{status} {reason}\n".encode(errors="replace"))


def _prctl(option: int, value: int) -> None:
    if IS_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _child_exit_notifier() -> int:
    """Return a file descriptor that becomes readable when a child has ended."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return reading


def _start(command: list[str], restored: list[signal.Signals]) -> tuple[int, str]:
    """Start the program; return its process id, and why it could not be started (or nothing)."""
    reading, writing = os.pipe()
    supervisor = os.getpid()
    program = os.fork()
    if program == 0:
        try:
            _execute(command, supervisor, restored)
        except OSError as error:
            os.write(writing, (error.strerror or str(error)).encode())
        finally:
            os._exit(NOT_STARTED)
    os.close(writing)
    with os.fdopen(reading, encoding=None, errors="replace") as reason:
        return program, reason.read()


def _execute(command: list[str], supervisor: int, restored: list[signal.Signals]) -> None:
    """Replace this forked process by the program, which gets the default action of ``restored``."""
    _leave_supervisor(supervisor)
    signal.set_wakeup_fd(-1)
    for number in restored:
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.execvp(command[0], command)


def _leave_supervisor(supervisor: int) -> None:
    """Give this forked process a session of its own, but let it die with its supervisor."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(NOT_STARTED)


def _supervise(program: int, control: socket.socket, child_ended: int) -> int:
    """Wait until the program has ended or is to be killed.

    Returns:
        Its exit status; negative if a signal ended it.
    """
    while True:
        ready, _, _ = select.select([control.fileno(), child_ended], [], [])
        if child_ended in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(child_ended, 4096)
            status = _reap(program)
            if status is not None:
                return status
        if control.fileno() in ready:
            signals = _requested_signals(control)
            if not signals or signal.SIGKILL in signals:
                return _kill_tree(program)
            for number in signals:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program, number)


def _requested_signals(control: socket.socket) -> bytes:
    """Return the signal numbers that the worker has sent; empty when the worker is gone."""
    try:
        return control.recv(64)
    except ConnectionError:
        return b""


def _reap(program: int) -> int | None:
    """Reap all children that have ended; return the program's exit status if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == program:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _kill_tree(program: int) -> int:
    """Kill until no process is left, including those that start meanwhile.

    Returns:
        The program's exit status; that of SIGKILL if the program had ended before.
    """
    found, pause = -int(signal.SIGKILL), POLL_SECONDS
    while True:
        for pid in _process_tree(program):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        status = _reap(program)
        found = found if status is None else status
        if not _has_children():
            return found
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_POLL_SECONDS)


def _has_children() -> bool:
    """Whether there is a process that this one has started or adopted, and has not reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _process_tree(program: int) -> list[int]:
    """Return all descendants of this process; elsewhere than on Linux, kill the process group."""
    if not IS_LINUX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
        return []
    if not _has_children():  # as when most programs end
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
