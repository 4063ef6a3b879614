"""A stand-in for Slurm that executes: ``sbatch`` runs an array's tasks at once, to their end.

As Slurm does, it copies the script away, gives every task its numbers and its log, warns the batch
shell alone (``--signal=B:…``) and runs a task again that was requeued. The time limit comes when a
file named ``limit`` appears beside the copy, once for every task.
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
                [self.spool / "script"], env=os.environ | numbers, stdout=log, stderr=log
            )

    def is_over(self) -> bool:
        """Whether it has ended for good; warns it, and runs it again, when it is time."""
        is_late = (self.spool / "limit").exists() and self.restarts == 0
        if self.process.poll() is None:
            if is_late and self.warning and not (self.spool / f"warned-{self.id}").exists():
                (self.spool / f"warned-{self.id}").touch()
                self.process.send_signal(signal.Signals[f"SIG{self.warning[1]}"])
            return False
        requeued = self.spool / f"requeued-{self.id}"
        if not requeued.exists():
            return True
        requeued.rename(self.spool / f"again-{self.id}")
        self.restarts += 1
        self.start()
        return False


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


def install(folder: Path) -> None:
    """Write the two commands into ``folder``."""
    for name in ("sbatch", "scontrol"):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        command.chmod(0o755)


if __name__ == "__main__":
    sys.exit({"sbatch": sbatch, "scontrol": scontrol}[sys.argv[1]](*sys.argv[2:]))
