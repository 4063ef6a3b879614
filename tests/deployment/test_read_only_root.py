"""A read-only root without a writable ``/tmp``: studies are launched and trained all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kdecay_command import KDECAY, TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]
CONFINED = r"""
set -eu
writable=$1
shift
mount --make-rprivate /
mount --bind "$writable" "$writable"
for folder in /tmp /var/tmp /usr/tmp; do
    if [ -d "$folder" ]; then mount -t tmpfs -o ro none "$folder"; fi
done
findmnt --list --noheadings --output TARGET | while read -r target; do
    case $target in
        "$writable" | /proc* | /dev* | /sys*) ;;
        *) mount -o remount,bind,ro "$target" 2> /dev/null || true ;;
    esac
done
for folder in / /tmp /var/tmp "$PWD"; do
    if touch "$folder/kdecay-probe" 2> /dev/null; then echo "$folder is writable" >&2; exit 99; fi
done
exec "$@"
"""
"""Runs a command where only ``/proc``, ``/dev`` and one folder can be written to."""


def why_not() -> str | None:
    """Return why there can be no mounts of our own here; None if there can."""
    if os.geteuid() != 0:
        return "mounts of one's own need root"
    if ROOT.is_relative_to("/tmp") or ROOT.is_relative_to("/var/tmp"):
        return "this checkout lies in the folder that is hidden"
    if missing := [name for name in ("unshare", "findmnt") if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)}"
    allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return None if allowed.returncode == 0 else "mount namespaces are not allowed here"


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture
def writable() -> Iterator[Path]:
    """The only folder that can be written to; it must not be below a hidden ``/tmp``."""
    folder = Path("/srv") / f"kdecay-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def run(writable: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``kdecay`` confined, in the repository's folder, without ``TMPDIR``."""
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    environment = kept | {"KDECAY_HOME": str(writable / "home"), "HOME": "/root"}
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", CONFINED, "sh", str(writable), *KDECAY, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
        check=False,
    )  # fmt: skip


def test_launch_and_worker_need_only_their_home(writable: Path) -> None:
    short = ["task.epochs=1", "search.seeds=1", "search.k_max=2", "search.k_cap=2",
             "search.k_step=1", "confirm.seeds=0"]  # fmt: skip
    sets = [word for setting in short for word in ("--set", setting)]
    study = str(ROOT / "studies/digits.toml")
    launched = run(writable, "launch", study, *sets, "--workers", "1")
    assert (launched.returncode, "digits" in launched.stdout) == (0, True), launched.stderr
    log = (writable / "home/logs/digits/worker-0.log").read_text()
    assert "ends after 2 trials" in log, log
    assert "failed" not in log, log
    assert (writable / "home/tmp").stat().st_mode & 0o077 == 0


def test_a_home_that_is_read_only_as_well_is_one_line(writable: Path) -> None:
    python = [sys.executable, "-m", "kdecay_search", "list"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", CONFINED, "sh", str(writable), *python],
        env={"KDECAY_HOME": "/opt/kdecay-test-home", "PATH": os.environ["PATH"]},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "/opt/kdecay-test-home: Read-only file system; set KDECAY_HOME to a folder" in line
