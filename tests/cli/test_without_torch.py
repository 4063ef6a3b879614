"""All commands that do not train, in a real environment without torch."""

from __future__ import annotations

import json
import os
import re
import site
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import DRIVER
from tests.support.kdecay_command import simulated_study

ROOT = Path(__file__).parents[2]
WORKER_ONLY = ("torch", "functorch", "torchgen", "torchvision", "sklearn", "scikit_learn", "timm",
               "nvidia", "triton")  # fmt: skip

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, home: Path, storage_url: str) -> Run:
    """Run Python in an environment with all installed packages except those for training."""
    folder = tmp_path_factory.mktemp("without-torch")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for installed in {sysconfig.get_path("purelib"), *site.getsitepackages()}:
        for entry in Path(installed).iterdir():
            if not entry.name.startswith(WORKER_ONLY) and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)

    def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "KDECAY_HOME": str(home), "PYTHONPATH": str(ROOT)}
        return subprocess.run([folder / "bin" / "python", *arguments], env=env, text=True,
                              capture_output=True, timeout=120, check=False)  # fmt: skip

    assert run_python("-c", "import torch").returncode == 1
    assert run_python("-c", "import optuna, rich").returncode == 0
    return run_python


def kdecay(run: Run, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "kdecay_search", *arguments)


def test_commands_that_do_not_train_work(run: Run) -> None:
    digits = str(ROOT / "studies" / "digits.toml")
    commands = [
        ["--help"],
        ["check", digits],
        ["schedule", "--ks", "1,3"],
        ["models", "--json"],
        ["launch", digits, "--detach", "--set", "name=torchless"],
        ["status", "torchless"],
        ["delete", "torchless", "--yes"],
    ]
    done = run("-c", DRIVER, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    ends = re.findall(r"^== (\S+) (\S+)$", done.stdout, re.MULTILINE)
    assert ends == [(name, "0") for name, *_ in commands], done.stderr


def test_dashboard_works(run: Run) -> None:
    taken = kdecay(run, "dashboard", "--host", "192.0.2.1")
    assert taken.stderr.startswith("kdecay: cannot listen on 192.0.2.1"), taken.stderr
    done = run("-c", "import optuna_dashboard; print(optuna_dashboard.wsgi.__name__)")
    assert (done.returncode, done.stdout) == (0, "wsgi\n"), done.stderr


def test_launch_reports_that_it_starts_no_workers(run: Run) -> None:
    digits = str(ROOT / "studies" / "digits.toml")
    done = kdecay(run, "launch", digits, "--detach", "--set", "name=torchless2")
    assert "torch is not installed here: no local workers" in done.stderr


def test_workers_name_the_package_to_install(run: Run) -> None:
    digits = str(ROOT / "studies" / "digits.toml")
    name = "name=torchless3"
    asked = kdecay(run, "launch", digits, "--workers", "1", "--set", name)
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "pip install 'kdecay-search[worker]'" in asked.stderr
    kdecay(run, "launch", digits, "--detach", "--set", name)
    worker = kdecay(run, "worker", "--study", "torchless3", "--drain")
    assert worker.returncode == 2
    assert "pip install 'kdecay-search[worker]'" in worker.stderr.splitlines()[-1]


def test_simulated_study_runs_to_its_end(run: Run, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="torchless4")
    done = kdecay(run, "launch", file, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "Use it:  kdecay best torchless4" in done.stdout


def test_doctor_names_the_package_to_install(run: Run, tmp_path: Path) -> None:
    done = kdecay(run, "doctor")
    assert done.returncode == 2
    assert (
        "torch is not installed: only launch, status and simulated tasks work here" in done.stdout
    )
    assert "pip install 'kdecay-search[worker]'" in done.stdout
    simulated = kdecay(run, "doctor", simulated_study(tmp_path, name="torchless5"))
    assert simulated.returncode == 0, simulated.stdout
