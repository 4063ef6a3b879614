"""A stand-in for Slurm that executes: ``sbatch`` runs an array's tasks at once, to their end.

As Slurm does, it copies the script away, gives every task its numbers and its log, warns the batch
shell alone (``--signal=B:…``) and runs a task again that was requeued. The time limit comes when a
file named ``limit`` appears beside the copy, once for every task. ``scancel`` sends SIGTERM to all
processes of all tasks. ``srun`` starts a command once for each node, all of them on this machine,
and passes signals on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SPOOL = "SLURM_STAND_IN"
"""Names the folder of the copies, in the environment."""
JOB = "4711"


class Task:
    """One task of the array."""

    def __init__(self, spool: Path, options: dict[str, str], index: int) -> None:
        self.id = f"{JOB}_{index}"
        self.spool = spool
        self.index = index
        self.warning = re.fullmatch(r"B:(\w+)@\d+", options["signal"])
        self.log = options["output"].replace("%A", JOB).replace("%a", str(index))
        self.restarts = 0
        self.start()

    def start(self) -> None:
        numbers = {
            "SLURM_JOB_ID": str(int(JOB) + self.index),
            "SLURM_ARRAY_JOB_ID": JOB,
            "SLURM_ARRAY_TASK_ID": str(self.index),
            "SLURM_RESTART_COUNT": str(self.restarts),
        }
        with Path(self.log).open("a") as log:
            self.process = subprocess.Popen(
                [self.spool / "script"],
                env=os.environ | numbers,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def is_over(self) -> bool:
        """Whether it has ended for good; signals it, and runs it again, when it is time."""
        if self.process.poll() is None:
            if self.warning and self.restarts == 0 and self._is_asked("limit"):
                self.process.send_signal(signal.Signals[f"SIG{self.warning[1]}"])
            if self._is_asked("cancel"):
                os.killpg(self.process.pid, signal.SIGTERM)
            return False
        requeued = self.spool / f"requeued-{self.id}"
        if not requeued.exists():
            return True
        requeued.rename(self.spool / f"again-{self.id}")
        self.restarts += 1
        self.start()
        return False

    def _is_asked(self, what: str) -> bool:
        """Whether the file ``what`` is there, the first time that this task sees it."""
        seen = self.spool / f"{what}-{self.id}"
        if not (self.spool / what).exists() or seen.exists():
            return False
        seen.touch()
        return True


def sbatch(override: str, script: str) -> int:
    """``sbatch --array=FIRST-LAST SCRIPT``; return the worst exit code."""
    spool = Path(os.environ[SPOOL])
    shutil.copy(script, spool / "script")
    text = Path(script).read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", text, re.MULTILINE))
    if "#SBATCH --requeue" not in text:
        raise SystemExit("no --requeue: scontrol would refuse to")
    first, last = override.removeprefix("--array=").split("-")
    tasks = [Task(spool, options, index) for index in range(int(first), int(last) + 1)]
    while not all([task.is_over() for task in tasks]):  # noqa: C419 - look at all of them
        time.sleep(0.05)
    return max(task.process.returncode for task in tasks)


def scontrol(verb: str, job: str) -> int:
    """``scontrol requeue JOB_TASK``"""
    if verb != "requeue":
        raise SystemExit(f"scontrol {verb}: unknown here")
    (Path(os.environ[SPOOL]) / f"requeued-{job}").touch()
    return 0


def scancel(job: str) -> int:
    """``scancel JOB``"""
    if job != JOB:
        raise SystemExit(f"scancel: no job {job}")
    (Path(os.environ[SPOOL]) / "cancel").touch()
    return 0


def srun(*words: str) -> int:
    """``srun --OPTION=VALUE... COMMAND``; return the first exit code that is not 0."""
    options = [word for word in words if word.startswith("--")]
    first = next(index for index, word in enumerate(words) if not word.startswith("--"))
    nodes = next(int(option.removeprefix("--nodes=")) for option in options if "nodes=" in option)
    numbers = [os.environ | {"SLURM_NODEID": str(node)} for node in range(nodes)]
    steps = [subprocess.Popen(words[first:], env=environment) for environment in numbers]

    def forward(number: int, _frame: object) -> None:
        for step in steps:
            step.send_signal(number)

    signal.signal(signal.SIGTERM, forward)
    return next((code for step in steps if (code := step.wait())), 0)


def install(folder: Path) -> None:
    """Write the commands into ``folder``."""
    for name in COMMANDS:
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        command.chmod(0o755)


COMMANDS = {"sbatch": sbatch, "scontrol": scontrol, "scancel": scancel, "srun": srun}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](*sys.argv[2:]))
