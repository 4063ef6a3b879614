"""``kdecay doctor`` on machines that lack something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdecay_search.doctor import machine
from kdecay_search.doctor.check import Severity
from kdecay_search.errors import KDecayError
from kdecay_search.study.spec import StudySpec
from tests.support.memory_studies import images_table, study


def test_limits_of_a_container_count(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{2**29}\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.memory(cgroup=tmp_path).severity == Severity.WARNING
    assert "of 0.5 GiB" in machine.memory(cgroup=tmp_path).value
    assert "CPU time for only 0.5" in machine.cores(tmp_path).value
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores(tmp_path).severity == Severity.OK


def images(**data: Any) -> StudySpec:
    return StudySpec.model_validate_json(json.dumps(images_table(**data)))


def inventory(**missing: str) -> dict[str, Any]:
    """As :mod:`kdecay_search.training.device_inventory` prints it, of a machine with one GPU."""
    names = [name for name in ("torch", "torchvision", "sklearn") if name not in missing]
    device = {"name": "X", "memory_bytes": 2**34, "free_bytes": 2**33, "bf16": True,
              "failure": None}  # fmt: skip
    cpu = {"device": "cpu", "memory_bytes": None, "free_bytes": None}
    devices = [device | {"device": "cuda:0"}, device | cpu]
    return {"versions": dict.fromkeys(names, "1.0"), "reasons": missing, "built_for": "CUDA 1",
            "devices": devices}  # fmt: skip


def severities(
    found: dict[str, Any], spec: StudySpec | None = None, gpus: int = 1
) -> list[Severity]:
    return [check.severity for check in machine.torch_checks(found, spec, gpus)]


def test_complete_machine_is_ok() -> None:
    assert set(severities(inventory())) == {Severity.OK}


def test_missing_torch_is_an_error_except_for_simulated_studies() -> None:
    missing = inventory(torch="is not installed")
    assert severities(missing) == [Severity.ERROR]
    assert severities(missing, images()) == [Severity.ERROR]
    assert severities(missing, study()) == [Severity.WARNING]


def test_missing_package_is_an_error_only_if_the_study_needs_it() -> None:
    missing = inventory(torchvision="is not installed")
    assert Severity.ERROR not in severities(missing, images())
    assert Severity.ERROR in severities(missing, images(name="image-folder", root="/x"))


def test_gpu_that_torch_cannot_use_is_an_error() -> None:
    assert severities(inventory(), gpus=2).count(Severity.WARNING) == 1
    driverless = inventory()
    del driverless["devices"][0]
    assert Severity.ERROR in severities(driverless)
    failing = inventory()
    failing["devices"][0]["failure"] = "CUDA error: out of memory"
    assert Severity.ERROR in severities(failing)


def test_full_gpu_is_a_warning() -> None:
    full = inventory()
    full["devices"][0]["free_bytes"] = 2**20
    assert severities(full).count(Severity.WARNING) == 1


def test_torch_may_hang() -> None:
    pytest.importorskip("torch")
    with pytest.raises(KDecayError, match="did not answer"):
        machine.probe(0.01)
