"""The files in workers/: each is checked by its own tool, and run where that is possible."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kdecay_search.storage import Storage
from kdecay_search.storage.records import read_trials
from kdecay_search.study.spec import WorkersSpec
from kdecay_search.study.trials import State
from kdecay_search.user_code import command as user_command
from tests.deployment import slurm
from tests.deployment.studies import launched
from tests.support.kdecay_command import KDECAY, TIMEOUT_SECONDS, Kdecay, simulated_study
from tests.support.recorded_run import RecordedRun
from tests.support.wait import wait_for

ROOT = Path(__file__).parents[2]
WORKERS = ROOT / "workers"
SCRIPTS = [ROOT / ".ci/run", *sorted(WORKERS.glob("*.sh"))]
UNITS = ("kdecay-worker.service", "kdecay-worker@.service")
MANIFESTS = list(yaml.safe_load_all((WORKERS / "kubernetes.yaml").read_text()))
POD = MANIFESTS[1]["spec"]["template"]["spec"]
LABELS = MANIFESTS[1]["spec"]["template"]["metadata"]["labels"]
GRACE = WorkersSpec().grace_seconds


def tool(name: str) -> str:
    """A command that pip has installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def test_shellcheck() -> None:
    subprocess.run([tool("shellcheck"), *SCRIPTS], check=True)


def test_kubernetes_schemas() -> None:
    command = [tool("kubernetes-validate"), "--strict", str(WORKERS / "kubernetes.yaml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(" passed ")) == (0, 4), done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_units_are_valid(tmp_path: Path) -> None:
    shutil.copytree("/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    for unit in UNITS:
        shutil.copy(WORKERS / unit, tmp_path / "usr/lib/systemd/system")
    program = tmp_path / "opt/kdecay-search/.venv/bin/kdecay"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    command = [
        "systemd-analyze",
        "verify",
        f"--root={tmp_path}",
        UNITS[0],
        "kdecay-worker@0.service",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_units_are_not_exposed() -> None:
    for unit in UNITS:
        command = ["systemd-analyze", "security", "--offline=true", str(WORKERS / unit)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)
        assert float(exposure) < 2.5


def settings(unit: str) -> dict[str, list[str]]:
    """Return the values of each key of a unit's file."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (WORKERS / unit).read_text(), re.M):
        found.setdefault(key, []).append(value)
    return found


def test_systemd_units_are_confined_and_see_gpus() -> None:
    yes = ("NoNewPrivileges", "PrivateTmp", "RestrictNamespaces", "RestrictRealtime",
           "RestrictSUIDSGID", "LockPersonality", "ProtectClock", "ProtectControlGroups",
           "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules",
           "ProtectKernelTunables")  # fmt: skip
    for unit in UNITS:
        found = settings(unit)
        assert {key: found[key] for key in yes} == {key: ["yes"] for key in yes}
        assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == [""]
        assert found["ProtectSystem"] == ["strict"]
        assert found["UMask"] == ["0077"]
        assert found["SystemCallFilter"] == ["@system-service", "~@privileged"]
        assert found["DevicePolicy"] == ["closed"]
        assert found["DeviceAllow"] == ["char-nvidia* rw", "char-drm rw", "char-kfd rw"]
        assert not {"PrivateDevices", "MemoryDenyWriteExecute", "ProcSubset"} & found.keys()
        assert {"MemoryMax", "TasksMax"} <= found.keys()
        assert found["User"] == ["kdecay"]


def test_pods_are_confined() -> None:
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    image = (WORKERS / "Dockerfile").read_text()
    assert f"--uid {POD['securityContext']['runAsUser']} " in image
    (container,) = POD["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory", "ephemeral-storage"} == container["resources"]["requests"].keys()
    assert container["resources"]["limits"].keys() == {
        *container["resources"]["requests"],
        "nvidia.com/gpu",
    }


def test_pods_can_write_where_workers_do_and_nowhere_else() -> None:
    (container,) = POD["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    secret = mounts.pop("/run/secrets/kdecay")
    assert secret["readOnly"] is True
    assert environment["KDECAY_STORAGE_FILE"] == f"{secret['mountPath']}/storage"
    assert mounts.keys() == {
        "/tmp", "/dev/shm", "/srv/kdecay/home", "/srv/kdecay/checkpoints",
    }  # fmt: skip
    for name in ("KDECAY_HOME", "KDECAY_CHECKPOINTS"):
        assert str(Path(environment[name]).parent) in mounts
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert volumes.keys() == {mount["name"] for mount in container["volumeMounts"]}
    assert volumes[secret["name"]]["secret"]["defaultMode"] == 0o440
    for volume in volumes.values():
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]


def test_kubernetes_drains_few_nodes_at_once_and_closes_the_network() -> None:
    budget, policy = (MANIFESTS[number]["spec"] for number in (2, 3))
    assert [each["kind"] for each in MANIFESTS[2:]] == ["PodDisruptionBudget", "NetworkPolicy"]
    assert budget == {"maxUnavailable": "25%", "selector": {"matchLabels": LABELS}}
    assert policy["podSelector"] == {"matchLabels": LABELS}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    allowed = {
        (each["protocol"], each["port"]) for rule in policy["egress"] for each in rule["ports"]
    }
    assert allowed == {("UDP", 53), ("TCP", 53), ("TCP", 5432)}


def test_image_installs_by_hashes_where_there_are_some(tmp_path: Path) -> None:
    """The commands of the Dockerfile, with stand-ins for Python and pip."""
    text = (WORKERS / "Dockerfile").read_text().replace("\\\n", "")
    (install,) = re.findall(r"^RUN (python3 -m venv .*)$", text, re.M)
    stand_in = '#!/bin/sh\ncase "$*" in *"import torch"*) exit "$NO_TORCH";; esac\n'
    for number, (hashes, torch) in enumerate([(False, False), (True, False), (True, True)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for program in ("python3", "pip"):
            (folder / program).write_text(f'{stand_in}echo {program} "$@" >> log\n')
            (folder / program).chmod(0o755)
        lines = ["numpy==2.4.6", "torch==2.15.0"]
        (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in lines))
        if hashes:
            hashed = "".join(f"{line} --hash=sha256:{'0' * 64}\n" for line in lines)
            (folder / "hashes.txt").write_text(hashed)
        given = {"PATH": f"{folder}:{os.environ['PATH']}", "EXTRAS": "worker"}
        given["NO_TORCH"] = str(int(not torch))
        subprocess.run(["sh", "-ec", install], cwd=folder, env=given, check=True)
        used = [line for line in (folder / "log").read_text().splitlines() if "hashes" in line]
        assert used == hashes * [
            "pip install --only-binary :all: --no-deps --require-hashes --requirement hashes.txt"
        ]
        for name in ("constraints.txt", *hashes * ["hashes.txt"]):
            assert ("torch" in (folder / name).read_text()) is not torch
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"!workers/make_hashes.py", "!workers/hashes.txt"} <= set(sent)
    assert "COPY pyproject.toml constraints.txt workers/*hashes* ./" in text


def test_hashes_are_those_of_the_report_of_pip(tmp_path: Path) -> None:
    """The command that operators run, with a stand-in for pip."""
    (tmp_path / "workers").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    packages = {"torch": "2.15.0", "numpy": "2.4.6"}
    report = {"install": [
        {"metadata": {"name": name, "version": version},
         "download_info": {"archive_info": {"hashes": {"sha256": name * 3}}}}
        for name, version in packages.items()
    ]}  # fmt: skip
    stand_in = tmp_path / "pip"
    stand_in.mkdir()
    (stand_in / "__init__.py").touch()
    (stand_in / "__main__.py").write_text(
        f"import sys, json\nopen('arguments', 'w').write(' '.join(sys.argv))\n"
        f"print(json.dumps({report!r}))\n"
    )
    script = [sys.executable, str(WORKERS / "make_hashes.py")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run(script, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "workers/hashes.txt").read_text().splitlines() == [
        "numpy==2.4.6 --hash=sha256:numpynumpynumpy",
        "torch==2.15.0 --hash=sha256:torchtorchtorch",
    ]
    arguments = (tmp_path / "arguments").read_text()
    assert "--dry-run" in arguments
    assert "--only-binary :all:" in arguments
    assert "--constraint constraints.txt" in arguments
    assert {"setuptools", "torch>=2.11", "optuna==5.0.*"} <= set(arguments.split())
    assert "/workers/hashes.txt" in (ROOT / ".gitignore").read_text().splitlines()


def commands() -> dict[str, str]:
    """Return the command ``worker …`` of each file, by the name of the file."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    found = {
        "compose": shlex.join(compose["services"]["worker"]["command"]),
        "kubernetes.yaml": shlex.join(POD["containers"][0]["args"]),
    }
    for name in ("slurm.sh", "ssh.sh", *UNITS):
        text = (WORKERS / name).read_text()
        (found[name],) = re.findall(r"kdecay['\"]? (worker --[^&>\n]*)", text)
    return {name: command.strip() for name, command in found.items()}


def test_all_files_start_the_same_command() -> None:
    import typer

    from kdecay_search.cli.main import app

    worker = typer.main.get_command(app).commands["worker"]  # type: ignore[attr-defined]
    for command in commands().values():
        name, *arguments = shlex.split(command.replace("%i", "0"))
        assert name == "worker"
        worker.make_context(name, arguments)
        assert {word for word in arguments if word.startswith("-")} <= {"--device", "--drain"}


def test_all_files_allow_enough_time_to_drain() -> None:
    (warning,) = re.findall(r"--signal=B:USR1@(\d+)", (WORKERS / "slurm.sh").read_text())
    stops = [re.findall(r"^TimeoutStopSec=(\d+)", (WORKERS / unit).read_text(), re.M)[0]
             for unit in UNITS]  # fmt: skip
    for seconds in (warning, *stops, POD["terminationGracePeriodSeconds"]):
        assert float(seconds) > GRACE


def test_each_file_marks_three_lines_to_change() -> None:
    for name in ("slurm.sh", "ssh.sh", "kubernetes.yaml", *UNITS):
        lines = (WORKERS / name).read_text().splitlines()
        marked = [line for line in lines if "<--" in line and "marked" not in line]
        assert len(marked) == 3, name


def test_guide_links_to_every_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (WORKERS / "README.md").read_text())
    assert all((WORKERS / link).exists() for link in links)
    assert {path.name for path in WORKERS.iterdir()} <= {*links, "README.md", "Dockerfile"}


# ---- run --------------------------------------------------------------------------------------


@pytest.fixture
def user(tmp_path: Path, alone: Kdecay) -> dict[str, str]:
    """The environment of a user with a checkout at home, and stand-ins first in PATH."""
    installed = tmp_path / "kdecay-search/.venv/bin/kdecay"
    installed.parent.mkdir(parents=True)
    installed.write_text(f'#!/bin/sh\nexec {shlex.join(KDECAY)} "$@"\n')
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for file in (installed, *_stand_ins(stand_ins)):
        file.chmod(0o755)
    path = f"{stand_ins}:{os.environ['PATH']}"
    own = {"HOME": str(tmp_path), "PATH": path, slurm.SPOOL: str(stand_ins)}
    kept = {k: v for k, v in alone.environment.items() if k != "KDECAY_STORAGE"}
    return kept | own


def _stand_ins(folder: Path) -> list[Path]:
    slurm.install(folder)
    ssh = folder / "ssh"
    ssh.write_text('#!/bin/sh\nshift 3\ncd && exec sh -c "$@"\n')  # -o OPTION HOST COMMAND
    return [ssh]


def changed(name: str, folder: Path, *changes: tuple[str, str]) -> str:
    """Copy a script with changes to lines that are marked for it; return its path."""
    lines = (WORKERS / name).read_text().splitlines()
    for old, new in changes:
        (number,) = [i for i, line in enumerate(lines) if old in line and "<--" in line]
        lines[number] = lines[number].replace(old, new)
    copy = folder / name
    copy.write_text("\n".join(lines) + "\n")
    copy.chmod(0o755)
    return str(copy)


@pytest.fixture
def database(alone: Kdecay, tmp_path: Path) -> Iterator[Storage]:
    """Of a database with a study of five runs, one second each."""
    file = simulated_study(
        tmp_path, name="elsewhere", task__epoch_seconds=0.25, search__seeds=1, search__k_cap=3.0
    )
    opened = launched(str(alone.url), file)
    yield opened
    opened.close()


def states(storage: Storage) -> list[State]:
    return [trial.state for trial in read_trials(storage, "elsewhere")]


@pytest.fixture
def script(alone: Kdecay, tmp_path: Path) -> str:
    """``slurm.sh``, with what it needs in the user's home."""
    (tmp_path / ".kdecay-storage").write_text(f"{alone.url}\n")
    checkpoints = str(tmp_path / "checkpoints")
    return changed("slurm.sh", tmp_path, ("/shared/kdecay/checkpoints", checkpoints))


def test_slurm_array_resumes_after_its_time_limit(
    database: Storage, user: dict[str, str], script: str, tmp_path: Path
) -> None:
    job = subprocess.Popen(["sbatch", "--array=0-1", script], env=user, cwd=tmp_path)
    wait_for(lambda: states(database).count(State.RUNNING) == 2, "two claims", TIMEOUT_SECONDS)
    (tmp_path / "bin/limit").touch()
    assert job.wait(TIMEOUT_SECONDS) == 0
    for task in (f"{slurm.JOB}_0", f"{slurm.JOB}_1"):
        assert (tmp_path / f"bin/again-{task}").exists()
        assert "released" in (tmp_path / f"kdecay-{task}.log").read_text()
    assert states(database) == [State.COMPLETE] * 5


def test_cancelled_slurm_job_releases_its_trial(
    database: Storage, user: dict[str, str], script: str, tmp_path: Path
) -> None:
    """The shell and the worker get the signal at once, and the worker must not get it twice."""
    job = subprocess.Popen(["sbatch", "--array=0-0", script], env=user, cwd=tmp_path)
    wait_for(lambda: State.RUNNING in states(database), "a claim", TIMEOUT_SECONDS)
    subprocess.run(["scancel", slurm.JOB], env=user, check=True)
    assert job.wait(TIMEOUT_SECONDS) == 0
    assert "released" in (tmp_path / f"kdecay-{slurm.JOB}_0.log").read_text()
    assert set(states(database)) <= {State.WAITING, State.COMPLETE}


def test_ssh_starts_workers_and_hides_the_url(
    alone: Kdecay, database: Storage, user: dict[str, str], tmp_path: Path
) -> None:
    script = changed("ssh.sh", tmp_path, ("/shared/kdecay/checkpoints", str(tmp_path / "kept")))
    started = subprocess.run(
        [script, "one", "two"], env=user | {"KDECAY_STORAGE": str(alone.url)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    pids = re.findall(r"^(?:one|two): process (\d+), log", started.stdout, re.MULTILINE)
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    assert len(lines) == 2
    assert str(alone.url) not in "".join(lines)
    log = tmp_path / "kdecay-worker.log"
    wait_for(lambda: log.read_text().count("ends after") == 2, "two ends", TIMEOUT_SECONDS)
    assert states(database) == [State.COMPLETE] * 5


@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace of one's own needs root")
def test_kubernetes_hook_drains_process_1(alone: Kdecay, database: Storage, tmp_path: Path) -> None:
    (arguments,) = [container["args"] for container in POD["containers"]]
    hook = POD["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    pod = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", *KDECAY, *arguments],
        env=alone.environment | {"KDECAY_CHECKPOINTS": str(tmp_path)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: State.RUNNING in states(database), "a claim", TIMEOUT_SECONDS)
    first = Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text().split()[0]
    enter = ["nsenter", "--target", first, "--pid", "--mount"]
    ended = subprocess.run([*enter, *hook], check=False)
    assert ended.returncode == -signal.SIGKILL  # it was there until process 1 took all with it
    _, log = pod.communicate(timeout=TIMEOUT_SECONDS)
    assert (pod.returncode, "ends after" in log) == (0, True), log
    assert set(states(database)) <= {State.WAITING, State.COMPLETE}


ON_TWO_NODES = """
import json, os
import torch

torch.distributed.init_process_group("gloo")
for epoch in (1, 2, 3):
    nodes = torch.tensor(float(os.environ["SLURM_NODEID"]))
    torch.distributed.all_reduce(nodes)
    if os.environ["RANK"] == "0":
        ranks = torch.distributed.get_world_size()
        print(json.dumps({"epoch": epoch, "error": 10.0 * ranks + float(nodes)}))
torch.distributed.destroy_process_group()
"""


def test_a_run_on_two_nodes(
    user: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun itself, twice on this machine; only ``srun`` is a stand-in."""
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(ON_TWO_NODES)
    for name, value in {
        "PATH": user["PATH"], "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": slurm.JOB,
        "SLURM_CPUS_PER_TASK": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    words = [str(WORKERS / "torchrun-nodes.sh"), "{nproc}", "train.py", "{k}"]
    run = RecordedRun(task={"kind": "command", "epochs": 3, "command": words})
    user_command.train(run)
    assert [epoch.validation_error for epoch in run.epochs] == [21.0] * 3
