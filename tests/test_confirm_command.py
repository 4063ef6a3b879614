"""Confirming a study with the real command, workers and database."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from commands import Kdecay, simulated_study

FILE = {"search__seeds": 2, "search__k_max": 3.0, "search__k_step": 1.0}


@pytest.fixture(scope="module")
def confirmed(
    tmp_path_factory: pytest.TempPathFactory, shared_kdecay: Kdecay
) -> tuple[Kdecay, str]:
    folder = tmp_path_factory.mktemp("confirmed")
    file = simulated_study(
        folder, **FILE, name="confirmed", confirm__seeds=3, confirm__rivals=["cosine"]
    )
    shared_kdecay.run("launch", file, "--workers", "2")
    return shared_kdecay, file
