"""Files in the working folder that are named as modules are imported by user code alone.

The folder holds a file for every module of the standard library and for every installed package.
A process that imports one of them leaves its name in the file ``imported``.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.decoded_study import ONE_RUN, decoded_study
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
    file = simulated_study(tmp_path, name="shadowed", search__k_max=1.0)
    run(alone, folder, *CONSOLE_SCRIPT, "launch", file, "--workers", "1")


def test_workers_of_one_device(alone: Kdecay, folder: Path, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="shadowed", search__k_max=1.0)
    alone.run("launch", file, "--workers", "0", "--detach")
    run(alone, folder, *CONSOLE_SCRIPT, "worker", "--drain", "--per-device", "2")


def test_doctor_and_the_process_that_imports_torch(
    alone: Kdecay, folder: Path, tmp_path: Path
) -> None:
    """The only test here of a doctor that finds nothing wrong; tests/doctor has the others."""
    alone.run("launch", simulated_study(tmp_path, name="known"), "--detach", "--workers", "0")
    lines = run(alone, folder, *CONSOLE_SCRIPT, "doctor", "--study", "known").splitlines()
    assert lines[-2].split(maxsplit=2) == ["ok", "data", "known: a simulated task needs none"]
    assert lines[-1] == "a worker can work here"
    assert {"server", "tables", "connections", "torch", "cpu", "checkpoints"} <= {
        line.split()[1] for line in lines
    }


def test_python_m(alone: Kdecay, folder: Path, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="shadowed", search__k_max=1.0)
    alone.run("launch", file, "--workers", "0", "--detach")
    keep_only(folder, *BY_MODULE)
    run(alone, folder, *KDECAY, "worker", "--drain")


def test_a_worker_and_its_decoders_also_under_a_long_path(
    alone: Kdecay, folder: Path, tmp_path: Path
) -> None:
    """They are forked by a process that multiprocessing starts by ``python -c``, and whose socket
    has no room below such a ``TMPDIR``."""
    temporary = tmp_path / ("x" * 100)
    temporary.mkdir()
    alone.run("launch", decoded_study(tmp_path), "--workers", "0", "--detach")
    run(alone, folder, *CONSOLE_SCRIPT, "worker", "--drain", TMPDIR=str(temporary))
    summary = alone.json("status", "decoded")
    assert (summary["state"], summary["trials"]["failed"]) == ("done", 0)
    assert list(temporary.glob("pymp-*")) == []


def test_user_code_has_its_folder(alone: Kdecay, folder: Path, tmp_path: Path) -> None:
    keep_only(folder, "platform")
    (folder / "helper.py").write_text("import sys\nERROR = 12.5\nSAFE = sys.flags.safe_path\n")
    (folder / "function.py").write_text(FUNCTION)
    (folder / "program.py").write_text(PROGRAM)
    tasks = {
        "python": 'entry = "function:train"',
        "command": 'command = ["python", "program.py", "{k}"]',
    }
    for kind, task in tasks.items():
        file = tmp_path / f"{kind}.toml"
        file.write_text(USER_STUDY.format(kind=kind, task=task) + ONE_RUN)
        alone.run("launch", str(file), "--workers", "0", "--detach", cwd=folder)
    allowed = ["--allow", "function:train", "--allow-command"]
    run(alone, folder, *CONSOLE_SCRIPT, "worker", "--drain", *allowed)
    for kind in tasks:
        stage = alone.json("status", kind)["stages"][0]
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
USER_STUDY = """
name = "{kind}"
[task]
kind = "{kind}"
epochs = 1
{task}
"""
