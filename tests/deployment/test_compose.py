"""docker-compose.yml is valid, and its services together find a schedule."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from kdecay_search.study.spec import WorkersSpec
from tests.deployment.compose import Up, read, seconds
from tests.support.kdecay_command import TIMEOUT_SECONDS, simulated_study
from tests.support.postgres_servers import password_server

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
SECRETS = ROOT / "workers/make-secrets.sh"
VARIABLES = {"STUDY": "study.toml"}
WITH_US = ("owner", "launch", "worker", "worker-cpu", "dashboard")
"""The services that run ``kdecay``."""


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = read(FILE, VARIABLES)["services"]
    return found


def test_file_fits_the_compose_specification() -> None:
    tool = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*tool, str(FILE)], check=True, capture_output=True)


def test_passwords_are_in_files_only() -> None:
    """Compose refuses to start a service whose secret's file is missing."""
    project = read(FILE, {})
    files = {name: secret["file"] for name, secret in project["secrets"].items()}
    assert files == {name: f"./secrets/{name}" for name in files}
    for name, service in project["services"].items():
        environment = service["environment"]
        values = {value for value in environment.values() if "/run/secrets" in value}
        assert {f"/run/secrets/{secret}" for secret in service["secrets"]} >= values
        assert all(key.endswith("_FILE") for key, value in environment.items() if value in values)
        assert not [key for key in environment if "PASSWORD" in key and not key.endswith("_FILE")]
        assert "KDECAY_STORAGE" not in environment, name
    assert "superuser_password" not in [
        secret for name in WITH_US for secret in project["services"][name]["secrets"]
    ]
    example = (ROOT / ".env.example").read_text()
    assert not re.search(r"PASSWORD=", example)


def test_only_the_owner_service_is_the_tables_owner(services: dict[str, Any]) -> None:
    secrets = {name: services[name]["secrets"] for name in WITH_US}
    assert secrets.pop("owner") == ["owner_url"]
    assert set(map(tuple, secrets.values())) == {("worker_url",)}


def test_secrets_are_random_and_in_a_closed_folder(tmp_path: Path) -> None:
    found = [made_secrets(tmp_path / name) for name in ("one", "two")]
    for folder in found:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = {file.name: file.read_text() for file in folder.iterdir()}
        assert files.keys() == read(FILE, {})["secrets"].keys()
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
        for role in ("owner", "worker"):
            url = rf"postgresql://kdecay_{role}:[0-9a-f]{{48}}@db/kdecay\n"
            assert re.fullmatch(url, files[f"{role}_url"])
        assert re.fullmatch("[0-9a-f]{48}", files["superuser_password"])
    first, second = ({file.read_text() for file in folder.iterdir()} for folder in found)
    assert not first & second
    again = subprocess.run([SECRETS, found[0]], capture_output=True, text=True, check=False)
    assert (again.returncode, "remove" in again.stderr) == (1, True)
    assert {file.read_text() for file in found[0].iterdir()} == first


def made_secrets(folder: Path) -> Path:
    subprocess.run([SECRETS, folder], check=True, capture_output=True)
    return folder


def test_git_and_the_image_leave_secrets_out() -> None:
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_every_setting_is_in_the_example() -> None:
    example = (ROOT / ".env.example").read_text()
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    assert used | {"COMPOSE_PROFILES"} == set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.M))


def test_containers_are_confined(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert not {"cap_add", "privileged", "network_mode", "pid", "ipc"} & service.keys(), name
        assert service["pids_limit"] > 0, name
        assert re.fullmatch(r"\d+g", service["mem_limit"]), name
        assert any(mount.split(":")[0] == "/tmp" for mount in service["tmpfs"]), name
    assert services["db"]["user"] == "postgres"
    assert "/var/run/postgresql" in services["db"]["tmpfs"]
    for name in WITH_US:  # the image's user is not root; what torch compiles in /tmp is loaded
        assert "user" not in services[name]
        (mount,) = services[name]["tmpfs"]
        assert {"exec", "nosuid", "nodev", "size=2g"} <= set(mount.split(":")[1].split(","))
    assert re.search(r"^USER kdecay$", (ROOT / "workers/Dockerfile").read_text(), re.M)


def test_images_are_pinned_by_their_full_version() -> None:
    services = read(FILE, {})["services"]
    assert re.fullmatch(r"postgres:\d+\.\d+-[a-z]+", services["db"]["image"])
    base = services["worker"]["build"]["args"]["BASE"]
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", base)
    assert f"\nARG BASE={base}\n" in (ROOT / "workers/Dockerfile").read_text()
    example = (ROOT / ".env.example").read_text()
    assert f"# BASE={base}\n# POSTGRES_IMAGE={services['db']['image']}\n" in example


def test_services_have_health_checks_and_restart_policies(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] in ("unless-stopped", "on-failure:5")


def test_only_the_dashboard_is_published_to_loopback(
    services: dict[str, Any],
) -> None:
    published = {name: each["ports"] for name, each in services.items() if "ports" in each}
    assert published == {"dashboard": ["127.0.0.1:8080:8080"]}


def test_stop_grace_period_exceeds_that_of_a_study(services: dict[str, Any]) -> None:
    for name in ("worker", "worker-cpu"):
        assert seconds(services[name]["stop_grace_period"]) > WorkersSpec().grace_seconds


def test_gpu_and_cpu_workers_differ_in_gpus_only(services: dict[str, Any]) -> None:
    gpu, cpu = services["worker"], services["worker-cpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert (gpu["profiles"], cpu["profiles"]) == (["gpu"], ["cpu"])
    own = ("deploy", "profiles")
    assert {k: v for k, v in gpu.items() if k not in own} == {
        k: v for k, v in cpu.items() if k not in own
    }


def test_mounted_folders_are_created_by_the_image(
    services: dict[str, Any],
) -> None:
    image = (ROOT / "workers/Dockerfile").read_text()
    for name in WITH_US:
        for volume in services[name]["volumes"]:
            target = volume.split(":")[1]
            assert target in image or target == "/srv/kdecay/studies"


@pytest.fixture
def project(tmp_path: Path, services: dict[str, Any]) -> Iterator[Up]:
    with password_server() as database:
        up = Up(services, database, tmp_path)
        made_secrets(up.secrets)
        yield up
        up.kill()


def test_roles_are_those_of_the_guide() -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    (statements, _) = re.findall(r"```sql\n(.*?)```", guide, re.DOTALL)
    script = (ROOT / "workers/database-roles.sh").read_text().replace(':"database"', "kdecay")
    for statement in statements.strip().splitlines():
        before, _, after = statement.partition(" PASSWORD ")
        assert before in script
        assert re.sub(r"^'[a-z ]+'", "", after) in script


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_roles_own_no_more_than_they_need(project: Up) -> None:
    """A password with characters that a URL must encode is the one that the role has."""
    url = project.secrets / "worker_url"
    url.chmod(0o644)
    url.write_text("postgresql://kdecay_worker:p%40ss%2Fw%3Ard%27%20%25%5C@db/kdecay\n")
    project.start("db")
    project.start("owner")
    project.wait_until_ended("owner")
    given = {"host": "127.0.0.1", "port": project.database.port, "dbname": "kdecay"}
    connection = psycopg2.connect(user="kdecay_worker", password="p@ss/w:rd' %\\", **given)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolname, rolsuper, rolcreatedb, rolcreaterole FROM pg_roles"
                       " WHERE rolname LIKE 'kdecay%' ORDER BY 1")  # fmt: skip
        none = (False, False, False)
        assert cursor.fetchall() == [("kdecay_owner", *none), ("kdecay_worker", *none)]
        cursor.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'kdecay'")
        assert cursor.fetchall() == [("kdecay_owner",)]
    for statement in (
        "DROP TABLE trials",
        "DELETE FROM trials",
        "CREATE TABLE mine (i int)",
        "CREATE TABLE public.mine (i int)",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), connection.cursor() as cursor:
            cursor.execute(statement)
        connection.rollback()
    connection.close()


@pytest.mark.skipif(shutil.which("pg_isready") is None, reason="pg_isready is not installed")
def test_services_finish_a_study_that_the_dashboard_shows(project: Up, tmp_path: Path) -> None:
    simulated_study(tmp_path, name="composed", task__epoch_seconds=0.05)
    project.start("worker-cpu", scale=2)
    project.start("launch")
    (launch,) = project.started["launch"]
    project.start("dashboard")
    project.wait_until_healthy("dashboard")
    out, err = launch.communicate(timeout=TIMEOUT_SECONDS)
    assert launch.returncode == 0, err
    assert "composed  done" in out
    assert project.is_healthy("worker-cpu")
    grace = seconds(project.services["worker-cpu"]["stop_grace_period"])
    done = [re.search(r"ends after (\d+) trials", log) for log in project.stop("worker-cpu", grace)]
    assert sum(int(found[1]) for found in done if found) == 10
    with urllib.request.urlopen(f"http://127.0.0.1:{project.dashboard_port}/api/studies") as page:
        assert b"composed/k1" in page.read()
    project.stop("dashboard", grace)
    project.run_once("owner", "delete", "composed", "--yes")
    assert json.loads(project.run_once("launch", "list", "--json")) == []
