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
    """It has made its pages before it wants to listen."""
    taken = kdecay(run, "dashboard", "--host", "192.0.2.1")
    assert taken.stderr.startswith("kdecay: cannot listen on 192.0.2.1"), taken.stderr


def test_launch_says_that_it_starts_no_workers_and_they_name_the_package_to_install(
    run: Run,
) -> None:
    digits = str(ROOT / "studies" / "digits.toml")
    name = "name=torchless3"
    asked = kdecay(run, "launch", digits, "--workers", "1", "--set", name)
    assert (asked.returncode, asked.stderr.count("\n")) == (2, 1)
    assert "pip install 'kdecay-search[worker]'" in asked.stderr
    done = kdecay(run, "launch", digits, "--detach", "--set", name)
    assert "torch is not installed here: no local workers" in done.stderr
    worker = kdecay(run, "worker", "--study", "torchless3", "--drain")
    assert worker.returncode == 2
    assert "pip install 'kdecay-search[worker]'" in worker.stderr.splitlines()[-1]


def test_simulated_study_runs_to_its_end(run: Run, tmp_path: Path) -> None:
    file = simulated_study(tmp_path, name="torchless4", search__k_max=1.0, search__k_cap=1.0)
    done = kdecay(run, "launch", file, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "Use it:  kdecay best torchless4" in done.stdout


def test_doctor_names_the_package_to_install(run: Run, tmp_path: Path) -> None:
    simulated = simulated_study(tmp_path, name="torchless5")
    done = run("-c", DRIVER, json.dumps([["doctor"], ["doctor", simulated]]))
    assert (
        "torch is not installed: only launch, status and simulated tasks work here" in done.stdout
    )
    assert "pip install 'kdecay-search[worker]'" in done.stdout
    assert re.findall(r"^== doctor (\d)$", done.stdout, re.MULTILINE) == ["2", "0"], done.stdout
