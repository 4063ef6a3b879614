"""The server of Optuna's dashboard, which reads from the cached storage."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kdecay_search.errors import KDecayError
from kdecay_search.storage import Storage

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from optuna.artifacts import FileSystemArtifactStore


LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that are answered on a loopback address."""


class Server:
    """Listens as soon as it is made, and serves for as long as a ``with`` block lasts.

    Args:
        storage: The studies to show.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        artifacts: Where finished schedules are kept for download, if they are.

    Raises:
        KDecayError: It cannot listen there.
    """

    def __init__(
        self,
        storage: Storage,
        host: str,
        port: int,
        artifacts: FileSystemArtifactStore | None = None,
    ) -> None:
        self._http = _listening(host, port)
        import optuna_dashboard  # noqa: PLC0415 - takes a second

        # Without a cache, every page would read every value of every trial again.
        pages = optuna_dashboard.wsgi(storage.optuna, artifact_store=artifacts)
        self._http.set_app(_of_this_machine(pages, host) if self.is_loopback else pages)
        self._host = host
        self._thread = threading.Thread(target=self._http.serve_forever, name="dashboard")

    @property
    def url(self) -> str:
        """Address of the first page."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._http.server_port}/dashboard"

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


def _of_this_machine(pages: WSGIApplication, host: str) -> WSGIApplication:
    """Serve ``pages`` only under this machine's own names.

    A foreign web site can let a name of its own point to this machine. Its scripts could then use
    the pages, which have no authentication, through the browser of a visitor.
    """
    known = {host, *LOOPBACK_NAMES}

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        name = urlsplit(f"//{environ.get('HTTP_HOST', host)}").hostname
        if name in known:
            return pages(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This dashboard answers to the names localhost and 127.0.0.1 only.\n"]

    return answer


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
