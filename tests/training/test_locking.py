"""Locks between processes on files that others may have made."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdecay_search.training.data.locking import exclusive_lock


def test_lock_follows_no_link_and_empties_no_file(tmp_path: Path) -> None:
    private, lock = tmp_path / "private", tmp_path / "lock"
    private.write_text("a private file")
    lock.symlink_to(private)
    with pytest.raises(OSError, match="symbolic link"), exclusive_lock(lock):
        pass
    with exclusive_lock(private):
        pass
    assert private.read_text() == "a private file"
