"""The quick start: what a newcomer is shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.kdecay_command import KDECAY, TIMEOUT_SECONDS, Kdecay
from tests.support.processors import OLDEST

ROOT = Path(__file__).parents[2]


def test_it_ends_as_the_readme_says_on_another_processor(kdecay: Kdecay) -> None:
    """Four runs at a time, which is faster and gives the same."""
    done = subprocess.run(
        [*KDECAY, "launch", "studies/digits.toml", "--workers", "1", "--fuse", "4"],
        env=kdecay.environment | OLDEST,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT_SECONDS,
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("```\ndigits  done")[2].partition("```")[0]
    assert shown.strip()
    assert done.stdout.partition("digits  done")[2].split() == shown.split()
