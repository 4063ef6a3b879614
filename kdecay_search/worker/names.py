"""The names of workers: ``HOST:PROCESS-ID:DEVICE``, such as ``gpu7:4211-k3j9x2ab:cuda:0``.

Host, process id and device tell people where to look. They are not unique: two containers may have
one host name and number their processes alike. The ID, drawn at random, makes a name that no other
worker has or has ever had, so that a trial which is held under it belongs to nobody else.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import socket

ID_VARIABLE = "KDECAY_WORKER_ID"
"""Environment variable by which a process states the id of a worker process that it starts."""
_ID = re.compile("[a-z2-7]{8}")


def new_id() -> str:
    """Draw an id: 40 random bits as eight letters and digits."""
    return base64.b32encode(secrets.token_bytes(5)).decode().lower()


def name_prefix(pid: int, worker_id: str) -> str:
    """Return what the name of a worker on this host begins with: everything but its device."""
    return f"{socket.gethostname().replace(':', '-')}:{pid}-{worker_id}:"


def own_prefix() -> str:
    """Return the prefix of a new worker in this process.

    The id is the one that the starting process has stated, for the first worker; the variable is
    removed, so that neither a second worker nor a program that the worker starts takes it as well.
    """
    stated = os.environ.pop(ID_VARIABLE, "")
    return name_prefix(os.getpid(), stated if _ID.fullmatch(stated) else new_id())
