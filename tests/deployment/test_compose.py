"""docker-compose.yml is valid, and its services together find a schedule."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.study.spec import WorkersSpec
from tests.deployment.compose import Up, read, seconds
from tests.support.kdecay_command import TIMEOUT_SECONDS, simulated_study
from tests.support.postgres_servers import password_server

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
VARIABLES = {"POSTGRES_PASSWORD": "p@ss/w:rd 'x'", "STUDY": "study.toml"}
WITH_US = ("launch", "worker", "worker-cpu", "dashboard")
"""The services that run ``kdecay``."""


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = read(FILE, VARIABLES)["services"]
    return found


def test_file_fits_the_compose_specification() -> None:
    tool = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*tool, str(FILE)], check=True, capture_output=True)


def test_password_is_required() -> None:
    for variables in ({}, {"POSTGRES_PASSWORD": ""}):
        with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
            read(FILE, variables)
    example = (ROOT / ".env.example").read_text()
    assert "POSTGRES_PASSWORD=\n" in example
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    assert used | {"COMPOSE_PROFILES"} == set(re.findall(r"^(?:# )?([A-Z_]+)=", example, re.M))


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
        yield up
        up.kill()


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
