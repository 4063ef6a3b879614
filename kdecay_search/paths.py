"""The user's data folder, for the embedded database, logs and caches."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The data folder: ``KDECAY_HOME``, or else the platform's folder for user data.

    It is created if it is missing.
    """
    configured = os.environ.get("KDECAY_HOME")
    if configured:
        folder = Path(configured).expanduser().resolve()
    else:
        import platformdirs  # noqa: PLC0415 - only where no folder is configured

        folder = platformdirs.user_data_path("kdecay-search")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
