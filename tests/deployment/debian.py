"""The database of a cluster, from Debian's packages: Postgres with TLS, and PgBouncer before it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg2

ACCOUNT = "postgres"
"""The system user that both services run as, since they refuse to run as root."""
PASSWORD = "s3cret/wör{d}%"
LOOPBACK = "127.0.0.1"
DATABASE = "kdecay"
START_SECONDS = 30.0
RULES = f"""
hostssl {DATABASE} certified all cert
hostssl all all all scram-sha-256
"""
"""The rules of pg_hba.conf: every connection needs TLS."""


def why_not(*programs: str) -> str | None:
    """Return why these services cannot run here; None if they can."""
    if os.geteuid() != 0:
        return f"starting services as the user {ACCOUNT} needs root"
    missing = [program for program in ("initdb", *programs) if _found(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; run: make services"
    return None


def _required(program: str) -> str:
    path = _found(program)
    if path is None:
        raise FileNotFoundError(program)
    return path


def _found(program: str) -> str | None:
    """Find a program where Debian keeps it: a server's by version, PgBouncer in sbin."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)
    folders = [*map(str, reversed(versions)), "/usr/sbin", "/usr/bin"]
    return shutil.which(program, path=":".join(folders))


@dataclass(frozen=True)
class Certificates:
    """An authority, the server's certificate for ``address``, and those of clients."""

    folder: Path
    address: str

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    def pair(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def sign(self, name: str, owner: str | None = None) -> tuple[Path, Path]:
        """Make a certificate and its key, which the system user ``owner`` may read."""
        certificate, key = self.pair(name)
        signer = [] if name == "authority" else [
            "-CA", str(self.authority), "-CAkey", str(self.pair("authority")[1]),
            "-addext", f"subjectAltName=IP:{self.address},IP:127.0.0.1",
        ]  # fmt: skip
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "2", "-subj", f"/CN={name}", "-out", certificate, "-keyout", key,
             *signer],
            check=True, capture_output=True,
        )  # fmt: skip
        key.chmod(0o600)
        if owner:
            shutil.chown(key, owner)
        return certificate, key


@dataclass(frozen=True)
class Service:
    """The address of a database, and the certificates that vouch for it."""

    address: str
    port: int
    certificates: Certificates
    folder: Path

    def url(
        self,
        user: str,
        password: str | None = PASSWORD,
        database: str = DATABASE,
        **parameters: str,
    ) -> str:
        """A URL that insists on the right certificate, unless ``parameters`` say otherwise."""
        secret = "" if password is None else f":{quote(password, safe='')}"
        verified = {"sslmode": "verify-full", "sslrootcert": str(self.certificates.authority)}
        query = "&".join(f"{k}={quote(v)}" for k, v in (verified | parameters).items())
        return f"postgresql://{user}{secret}@{self.address}:{self.port}/{database}?{query}"

    def execute(self, statement: str, database: str = DATABASE) -> list[tuple[object, ...]]:
        """Run a statement as the superuser."""
        connection = psycopg2.connect(self.url("postgres", database=database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def add_user(self, name: str, options: str = "") -> str:
        """Make a user of the database; return its URL."""
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {options}")
        return self.url(name)


@contextmanager
def postgres(address: str = LOOPBACK) -> Iterator[Service]:
    """Debian's Postgres at ``address``, with an empty database."""
    with _folder() as folder:
        certificates = Certificates(folder, address)
        certificates.sign("authority")
        certificate, key = certificates.sign("server", ACCOUNT)
        service = Service(address, _free_port(address), certificates, folder)
        (folder / "rules").write_text(RULES)
        (folder / "password").write_text(PASSWORD)
        data = _folder_of_account(folder / "data")
        subprocess.run(
            [_required("initdb"), "-D", data, "-A", "scram-sha-256", "-U", "postgres", "-E", "UTF8",
             "--no-locale", "--no-sync", "--pwfile", folder / "password"],
            user=ACCOUNT, check=True, capture_output=True,
        )  # fmt: skip
        settings = {
            "port": service.port, "listen_addresses": address, "unix_socket_directories": "",
            "hba_file": folder / "rules", "fsync": "off", "ssl": "on", "ssl_cert_file": certificate,
            "ssl_key_file": key, "ssl_ca_file": certificates.authority,
        }  # fmt: skip
        command = [_required("postgres"), "-D", data, *(f"--{k}={v}" for k, v in settings.items())]
        with _serving(command, service, signal.SIGQUIT):
            service.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
            yield service


@contextmanager
def pgbouncer(server: Service, users: Sequence[str], pool_size: int) -> Iterator[Service]:
    """PgBouncer in transaction mode before ``server``, with TLS on both sides; ``pool_size``:
    connections to the server per user."""
    with _folder() as folder:
        certificates = server.certificates
        certificate, key = certificates.sign("pooler", ACCOUNT)
        service = Service(server.address, _free_port(server.address), certificates, folder)
        quoted = PASSWORD.replace('"', '""')
        (folder / "users").write_text("".join(f'"{user}" "{quoted}"\n' for user in users))
        (folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            {DATABASE} = host={server.address} port={server.port}
            [pgbouncer]
            listen_addr = {service.address}
            listen_port = {service.port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {folder / "users"}
            pool_mode = transaction
            default_pool_size = {pool_size}
            max_client_conn = 1000
            client_tls_sslmode = require
            client_tls_cert_file = {certificate}
            client_tls_key_file = {key}
            server_tls_sslmode = verify-full
            server_tls_ca_file = {certificates.authority}
        """.replace("\n            ", "\n")
        )
        command = [_required("pgbouncer"), folder / "pgbouncer.ini"]
        with _serving(command, service, signal.SIGTERM):
            yield service


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder that the services' user may pass through."""
    with tempfile.TemporaryDirectory(prefix="kdecay-debian-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def _folder_of_account(path: Path) -> Path:
    path.mkdir(mode=0o700)
    shutil.chown(path, ACCOUNT)
    return path


@contextmanager
def _serving(
    command: Sequence[str | Path], service: Service, end: signal.Signals
) -> Iterator[None]:
    """Run a service while the block lasts."""
    log = service.folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, user=ACCOUNT, group=ACCOUNT, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(service):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(end)
        process.wait()


def _answers(service: Service) -> bool:
    """Whether the server answers, be it by a refusal."""
    try:
        psycopg2.connect(service.url("postgres", database="postgres")).close()
    except psycopg2.OperationalError as error:
        return "refused" not in str(error) and "starting up" not in str(error)
    return True


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
