"""docker-compose.yml without Docker: its services as processes of this machine.

What a service has of its own (command, environment, health check, what it depends on) is used as it
stands in the file. What containers bring is mapped: a service's name to a port of loopback (by
libpq's PGHOSTADDR and PGPORT), a mounted folder or file to one below ``folder``, a published port
to a free one, the image to this checkout.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import yaml
from psycopg2.sql import SQL, Identifier

from tests.support.kdecay_command import KDECAY
from tests.support.postgres_servers import LOOPBACK, PASSWORD, Server, free_port

HEALTH_SECONDS = 240.0
"""The time limit; only a service that never becomes healthy takes this long."""
ROOT = Path(__file__).parents[2]
MOUNTED_SECRETS = "/run/secrets"
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` as Compose does."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        if given := variables.get(name):
            return given
        if operator == ":?":
            raise KeyError(f"{name}: {word}")
        return word or ""

    return _VARIABLE.sub(value, text)


def read(file: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables filled in."""

    def filled(node: Any) -> Any:
        if isinstance(node, str):
            return interpolate(node, variables)
        if isinstance(node, dict):
            return {key: filled(value) for key, value in node.items()}
        return [filled(value) for value in node] if isinstance(node, list) else node

    project: dict[str, Any] = filled(yaml.safe_load(file.read_text()))
    return project


def seconds(duration: str) -> float:
    """A duration as Compose writes it."""
    units = {"s": 1, "m": 60, "h": 3600}
    return float(sum(int(n) * units[u] for n, u in re.findall(r"(\d+)([hms])", duration)))


@dataclass
class Up:
    """A project whose services are running."""

    services: dict[str, dict[str, Any]]
    database: Server
    folder: Path
    dashboard_port: int = field(default_factory=free_port)
    started: dict[str, list[subprocess.Popen[str]]] = field(default_factory=dict)

    def start(self, name: str, scale: int = 1) -> None:
        """Start a service once those that it depends on are healthy, or have ended well."""
        for other, condition in self.services[name].get("depends_on", {}).items():
            if other not in self.started:
                self.start(other)
            if condition == {"condition": "service_completed_successfully"}:
                self.wait_until_ended(other)
            else:
                assert condition == {"condition": "service_healthy"}
                self.wait_until_healthy(other)
        if name == "db":
            self._initialise_database()
            self.started[name] = []
            return
        self.started[name] = [self._run(name) for _ in range(scale)]

    def run_once(self, name: str, *command: str) -> str:
        """Run a command in the place of the service's, as ``docker compose run`` does."""
        process = self._run(name, command)
        out, err = process.communicate(timeout=HEALTH_SECONDS)
        assert process.returncode == 0, err
        return out

    def _run(self, name: str, command: Sequence[str] = ()) -> subprocess.Popen[str]:
        command = [self._mapped(word) for word in command or self.services[name]["command"]]
        return subprocess.Popen(
            [*KDECAY, *command], env=self.environment(name), cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _mapped(self, word: str) -> str:
        """Replace an address or a port by that of this machine."""
        return {"0.0.0.0": LOOPBACK, "8080": str(self.dashboard_port)}.get(word, word)

    def environment(self, name: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("KDECAY_", "PG"))}
        image = {"KDECAY_HOME": "home", "KDECAY_CHECKPOINTS": "checkpoints"}
        return (
            own
            | {key: str(self.folder / value) for key, value in image.items()}
            | {"PGHOSTADDR": LOOPBACK, "PGPORT": str(self.database.port)}
            | {
                key: value.replace(MOUNTED_SECRETS, str(self.secrets))
                for key, value in self.services[name]["environment"].items()
            }
        )

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def is_healthy(self, name: str) -> bool:
        """Run the health check of the service."""
        kind, program, *arguments = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        arguments = [word.replace("8080", str(self.dashboard_port)) for word in arguments]
        command = {"kdecay": KDECAY, "python3": [sys.executable]}.get(program, [program])
        asked = subprocess.run(
            [*command, *arguments], env=self.environment(name), capture_output=True, check=False
        )
        return asked.returncode == 0

    def wait_until_healthy(self, name: str) -> None:
        deadline = time.monotonic() + HEALTH_SECONDS
        while not self.is_healthy(name):
            assert time.monotonic() < deadline, f"{name} does not become healthy"
            time.sleep(0.2)

    def wait_until_ended(self, name: str) -> None:
        for process in self.started[name]:
            _, log = process.communicate(timeout=HEALTH_SECONDS)
            assert process.returncode == 0, log

    def _initialise_database(self) -> None:
        """Do what the image of Postgres does: make the database, and run the scripts for it.

        The superuser is that of the test's server, with its password.
        """
        wanted = self.environment("db")
        assert "POSTGRES_USER" not in wanted
        assert len(Path(wanted["POSTGRES_PASSWORD_FILE"]).read_text()) > 40
        connection = psycopg2.connect(self.database.url(PASSWORD))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(SQL("CREATE DATABASE {}").format(Identifier(wanted["POSTGRES_DB"])))
        finally:
            connection.close()
        scripts = "/docker-entrypoint-initdb.d/"
        for volume in self.services["db"]["volumes"]:
            source, target, *_ = volume.split(":")
            if target.startswith(scripts):
                given = {"PGHOST": LOOPBACK, "PGPASSWORD": PASSWORD, "SECRETS": str(self.secrets)}
                subprocess.run([ROOT / source], env=wanted | given, check=True)

    def stop(self, name: str, limit_seconds: float) -> list[str]:
        """SIGTERM, as ``docker compose stop`` sends; what each process of the service logged."""
        for process in self.started[name]:
            process.send_signal(signal.SIGTERM)
        logs = []
        for process in self.started[name]:
            _, log = process.communicate(timeout=limit_seconds)
            assert process.returncode == 0, log
            logs.append(log)
        return logs

    def kill(self) -> None:
        for process in [each for processes in self.started.values() for each in processes]:
            process.kill()
            process.communicate()
