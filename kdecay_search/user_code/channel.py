"""Messages between a worker and the Python process that runs user code for it: lines of JSON."""

from __future__ import annotations

import json
import select
import socket
import threading
from typing import Any

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Return ``message`` as one line of JSON."""
    return json.dumps(message).encode() + b"\n"


class Channel:
    """One end of a connection: the child process's to its worker, or a launcher's to its ranks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message; safe to call from several threads.

        Raises:
            ConnectionError: The other end is gone.
        """
        with self._sending:
            self._connection.sendall(encode(message))

    def receive(self) -> Message:
        """Wait for the next message and return it.

        Raises:
            ConnectionError: The other end is gone.
        """
        while b"\n" not in self._received:
            chunk = self._connection.recv(1 << 16)
            if not chunk:
                raise ConnectionError("the other end is gone")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        message: Message = json.loads(line)
        return message

    @property
    def is_ready(self) -> bool:
        """Whether a message has arrived; cheap enough to check after every batch."""
        return bool(self._received or select.select([self._connection], [], [], 0)[0])

    def fileno(self) -> int:
        """The connection's file descriptor, as ``select`` asks for it; -1 once it is closed."""
        return self._connection.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self.fileno() < 0

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
