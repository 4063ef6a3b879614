"""The quick start: what a newcomer is shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.kdecay_command import KDECAY, TIMEOUT_SECONDS, Kdecay
from tests.support.processors import WITHOUT_AVX512

ROOT = Path(__file__).parents[2]


def test_it_ends_as_the_readme_says_on_another_processor(kdecay: Kdecay) -> None:
    """The README's output is from one with AVX-512. Four runs at a time are faster, and give the
    same."""
    done = subprocess.run(
        [*KDECAY, "launch", "studies/digits.toml", "--workers", "1", "--fuse", "4"],
        env=kdecay.environment | WITHOUT_AVX512,
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
