"""Messages between a worker and the Python process that runs own code for it: lines of JSON."""

from __future__ import annotations

import json
import select
import socket
import threading
from typing import Any

Message = dict[str, Any]


def encoded(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Channel:
    """The process's end. Raises :class:`ConnectionError` when the worker is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        with self._sending:
            self._connection.sendall(encoded(message))

    def receive(self) -> Message:
        """The next message, waited for."""
        while b"\n" not in self._received:
            chunk = self._connection.recv(1 << 16)
            if not chunk:
                raise ConnectionError("the worker is gone")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        message: Message = json.loads(line)
        return message

    @property
    def is_ready(self) -> bool:
        """Whether something has come; cheap enough for every batch."""
        return bool(self._received or select.select([self._connection], [], [], 0)[0])
