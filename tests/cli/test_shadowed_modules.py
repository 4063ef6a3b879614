"""Files in the working folder that are named as modules are imported by user code alone.

The folder holds a file for every module of the standard library and for every installed package.
A process that imports one of them leaves its name in the file ``imported``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.decoded_study import decoded_study
from tests.support.kdecay_command import KDECAY, TIMEOUT_SECONDS, Kdecay, simulated_study

CONSOLE_SCRIPT = [str(Path(sys.executable).with_name("kdecay"))]
BY_MODULE = ("random", "platform", "optuna", "torch", "numpy", "typer", "selectors", "socket",
             "sqlalchemy", "json", "subprocess", "tempfile", "logging")  # fmt: skip
"""Modules that Python does not need to find the package that ``-m`` names."""
IMPORTED = """
import os
with open(os.path.join(os.path.dirname(__file__), "imported"), "a") as file:
    file.write(__name__ + " ")
raise ImportError(f"{__name__} of the working folder was imported")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    names = {*sys.stdlib_module_names, *packages_distributions()} - {"os", "kdecay_search"}
    for name in filter(str.isidentifier, names):
        (path / f"{name}.py").write_text(IMPORTED)
    return path


def run(kdecay: Kdecay, folder: Path, *command: str, **variables: str) -> str:
    """Run a command in the folder, and return what it printed."""
    done = subprocess.run(
        command,
        cwd=folder, env=kdecay.environment | variables, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (folder / "imported").exists(), (folder / "imported").read_text()
    return done.stdout


def keep_only(folder: Path, *names: str) -> None:
    for path in folder.glob("*.py"):
        if path.stem not in names:
            path.unlink()


def test_launch_and_its_workers(alone: Kdecay, folder: Path, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="shadowed")
    run(alone, folder, *CONSOLE_SCRIPT, "launch", file, "--workers", "2")


@pytest.mark.parametrize("more", [[], ["--per-device", "2"]])
def test_worker(alone: Kdecay, folder: Path, tmp_path: Path, more: list[str]) -> None:
    alone.run("launch", simulated_study(tmp_path, name="shadowed"), "--workers", "0", "--detach")
    run(alone, folder, *CONSOLE_SCRIPT, "worker", "--drain", *more)


def test_doctor_and_the_process_that_imports_torch(alone: Kdecay, folder: Path) -> None:
    checks = json.loads(run(alone, folder, *CONSOLE_SCRIPT, "doctor", "--json"))["checks"]
    assert "torch" in {check["subject"] for check in checks}


def test_python_m(alone: Kdecay, folder: Path, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="shadowed")
    alone.run("launch", file, "--workers", "0", "--detach")
    keep_only(folder, *BY_MODULE)
    for command in (["worker", "--drain"], ["list"]):
        run(alone, folder, *KDECAY, *command)


def test_decoders(alone: Kdecay, folder: Path, tmp_path: Path) -> None:
    """They are forked by a process that multiprocessing starts by ``python -c``."""
    alone.run("launch", decoded_study(tmp_path), "--workers", "0", "--detach")
    run(alone, folder, *CONSOLE_SCRIPT, "worker", "--drain")


@pytest.mark.parametrize("kind", ["python", "command"])
def test_user_code_has_its_folder(alone: Kdecay, folder: Path, tmp_path: Path, kind: str) -> None:
    keep_only(folder, "platform")
    (folder / "helper.py").write_text("import sys\nERROR = 12.5\nSAFE = sys.flags.safe_path\n")
    if kind == "python":
        (folder / "mine.py").write_text(FUNCTION)
        task = {"kind": "python", "entry": "mine:train", "epochs": 1}
        allowed = ["--allow", "mine:train"]
    else:
        (folder / "mine.py").write_text(PROGRAM)
        task = {"kind": "command", "command": ["python", "mine.py", "{k}"], "epochs": 1}
        allowed = ["--allow-command"]
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\n[task]\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in task.items())
        + "[search]\nk_max = 1.0\nk_cap = 1.0\nk_step = 1.0\nseeds = 1\nmax_terms = 1\n"
        "[pruning]\nenabled = false\n"
    )
    run(alone, folder, *CONSOLE_SCRIPT, "launch", str(file), "--workers", "0", "--detach")
    run(alone, folder, *CONSOLE_SCRIPT, "worker", "--drain", *allowed)
    stage = alone.json("status", "mine")["stages"][0]
    assert stage["candidates"][0]["errors"] == [12.5]


FUNCTION = """
import os, subprocess, sys
import helper
assert "PYTHONSAFEPATH" not in os.environ
subprocess.run([sys.executable, "-c", "import helper; assert not helper.SAFE"], check=True)

def train(run):
    return helper.ERROR
"""
PROGRAM = """
import os, json
import helper
assert "PYTHONSAFEPATH" not in os.environ and not helper.SAFE
print(json.dumps({"epoch": 1, "error": helper.ERROR}))
"""
