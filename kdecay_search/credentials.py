"""What of this process gives access to the database, so that user code gets none of it.

User code runs as the same operating-system user as the worker, so this is no sandbox: it can read
that user's files, such as ``~/.pgpass``, and as root it can read the memory of every process.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

STORAGE = "KDECAY_STORAGE"
STORAGE_FILE = "KDECAY_STORAGE_FILE"
VARIABLES = frozenset({
    STORAGE, STORAGE_FILE, "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE",
    "PGSYSCONFDIR", "PGSSLCERT", "PGSSLKEY", "PGSSLPASSWORD",
})  # fmt: skip
"""Environment variables that are, or lead to, the credentials of the database."""
NEEDED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "LANG"})
"""Environment variables that every program needs. They are public, and never withheld."""
LONG = 10
"""Characters of a secret that is found anywhere; a shorter one must stand by itself."""
SHORTEST = 4
"""Characters of a secret that may stand by itself; a shorter one must stand in a URL."""
_USER_INFO = (re.compile(r"://[^/?#@]*?:(.*)@"), re.compile(r"://[^/?#@]*?:([^@/?#]*)@"))
"""The password in a URL: up to its last @, and up to its first."""
_PASSWORD = re.compile(r"(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&;]+)", re.IGNORECASE)
"""A password among the parameters of a URL or of a connection string."""
_SET_DUMPABLE = 4
"""PR_SET_DUMPABLE of prctl(2)."""
_BOUNDS = (45, 47)
"""Places of ``arg_start`` and ``env_start`` in /proc/PID/stat, counted after the command's name;
the end follows."""

_kept_secret: set[str] = set()


def keep_secret(*secrets: str | None) -> None:
    """Withhold these texts, such as a password that was read from a file, from user code, too."""
    _kept_secret.update(filter(None, secrets))


def passwords_of(url: str) -> set[str]:
    """Return what may be a password in a storage URL or a connection string, in all spellings."""
    found = {match[1] for pattern in _USER_INFO for match in pattern.finditer(url)}
    for match in _PASSWORD.finditer(url):
        found.add(re.sub(r"\\(.)", r"\1", match[1].strip("'")))
    found |= {unquote(password) for password in found}
    return {form for each in found for form in (each, quote(each, safe="")) if form}


def withheld(environment: Mapping[str, str]) -> set[str]:
    """Return the names of the variables that user code must not get.

    These are the variables that :data:`VARIABLES` names, and all others whose value contains the
    storage URL or its password.
    """
    named = {name for name in environment if name in VARIABLES}
    secrets = _secrets(environment)
    others = environment.keys() - named - NEEDED
    return named | {name for name in others if any(_is_in(environment[name], s) for s in secrets)}


def hide(arguments: Sequence[str] = ()) -> None:
    """Hide the credentials from other processes that look at this one; on Linux.

    What ``/proc/PID/environ`` and ``/proc/PID/cmdline`` show of them is overwritten; this process
    and its children keep them. Other processes of the same user can no longer read this one's
    memory, unless they have the rights of root. Call it before any thread is started.

    Args:
        arguments: The command line; the value of ``--storage`` is a secret.
    """
    urls = set()
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, _, attached = argument.partition("=")
        if option == "--storage" and (url := attached or following):
            urls.add(url)
            keep_secret(url, *passwords_of(url))
    names = withheld(os.environ)
    if (not names and not urls) or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, ValueError):
        _overwrite(names, urls)
    for name in names:
        os.environ[name] = os.environ[name]  # a copy elsewhere, for getenv
    import ctypes  # noqa: PLC0415 - most commands have nothing to hide

    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _overwrite(names: Collection[str], urls: Collection[str]) -> None:
    """Overwrite the values of variables, and arguments, in the memory that /proc shows.

    Raises:
        OSError: The memory cannot be written to.
        ValueError: The kernel does not say where it is.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    arguments, environment = (slice(*map(int, fields[n : n + 2])) for n in _BOUNDS)
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        for part, shown in ((arguments, "cmdline"), (environment, "environ")):
            memory.seek(part.start)
            content = memory.read(part.stop - part.start)
            if content != Path(f"/proc/self/{shown}").read_bytes():
                raise ValueError(f"/proc/self/{shown} is somewhere else")
            hidden = content
            if part is environment:
                for name in names:
                    entry = rb"(?<![^\0])(" + re.escape(os.fsencode(name)) + rb"=)([^\0]*)"
                    hidden = re.sub(entry, lambda m: m[1] + b"*" * len(m[2]), hidden)
            else:
                for url in urls:
                    hidden = hidden.replace(os.fsencode(url), b"*" * len(os.fsencode(url)))
            memory.seek(part.start)
            memory.write(hidden)


def _secrets(environment: Mapping[str, str]) -> set[str]:
    url = environment.get(STORAGE, "")
    return {url, environment.get("PGPASSWORD", ""), *passwords_of(url), *_kept_secret} - {""}


def _is_in(value: str, secret: str) -> bool:
    """Whether ``value`` gives ``secret`` away, and does not merely have the same letters."""
    if len(secret) >= LONG:
        return secret in value
    if secret in passwords_of(value):
        return True
    alone = rf"(?<![\w/.-]){re.escape(secret)}(?![\w/.-])"
    return len(secret) >= SHORTEST and re.search(alone, value) is not None
