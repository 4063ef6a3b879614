"""The server of Optuna's dashboard, which reads from the cached storage."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kdecay_search.errors import KDecayError
from kdecay_search.report.dashboard.guard import guarded, known_names
from kdecay_search.storage import Storage

if TYPE_CHECKING:
    from optuna.artifacts import FileSystemArtifactStore


class Server:
    """Listens as soon as it is made, and serves for as long as a ``with`` block lasts.

    Args:
        storage: The studies to show.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        artifacts: Where finished schedules are kept for download, if they are.
        allowed: Names under which it answers, besides ``host`` and the loopback ones.

    Raises:
        KDecayError: It cannot listen there, or one of ``allowed`` is not a host name.
    """

    def __init__(
        self,
        storage: Storage,
        host: str,
        port: int,
        artifacts: FileSystemArtifactStore | None = None,
        allowed: Iterable[str] = (),
    ) -> None:
        self.names = known_names(host, allowed)
        """Names under which it answers."""
        self._http = _listening(host, port)
        import optuna_dashboard  # noqa: PLC0415 - takes a second

        # Without a cache, every page would read every value of every trial again.
        pages = optuna_dashboard.wsgi(storage.optuna, artifact_store=artifacts)
        self._http.set_app(guarded(pages, self.names))
        self._host = host
        self._thread = threading.Thread(target=self._http.serve_forever, name="dashboard")

    @property
    def url(self) -> str:
        """Address of the first page."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/dashboard"

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return self._http.server_port

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(str(self._http.server_address[0])).is_loopback

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class _HTTPServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


class _HTTPServer6(_HTTPServer):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the browser sends a request every few seconds."""


def _listening(host: str, port: int) -> _HTTPServer:
    try:
        return (_HTTPServer6 if ":" in host else _HTTPServer)((host, port), _Quiet)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise KDecayError(
                f"port {port} of {host} is taken; give another with --port, or 0 for any"
            ) from error
        if error.errno == errno.EACCES:
            raise KDecayError(
                f"port {port} may not be opened by this user; give one from 1024 on with --port"
            ) from error
        raise KDecayError(
            f"cannot listen on {host}: {error.strerror}; --host needs an address of this machine"
        ) from error
