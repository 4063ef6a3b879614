"""Optuna's tables: which version of them this package works on."""

from __future__ import annotations

import sqlalchemy

from kdecay_search.storage.sql import server

VERSIONS = (
    "v0.9.0.a",
    "v1.2.0.a",
    "v1.3.0.a",
    "v2.4.0.a",
    "v2.6.0.a",
    "v3.0.0.a",
    "v3.0.0.b",
    "v3.0.0.c",
    "v3.0.0.d",
    "v3.2.0.a",
)
"""Every version of the tables up to the one that the pinned Optuna makes, oldest first: what
``RDBStorage.get_all_versions()`` returns, without the quarter of a second that its imports take."""
VERSION = VERSIONS[-1]
"""The only version that the statements in :mod:`kdecay_search.storage.sql` are written for."""
TABLES = (
    "studies",
    "study_directions",
    "study_user_attributes",
    "study_system_attributes",
    "trials",
    "trial_user_attributes",
    "trial_system_attributes",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_heartbeats",
    "version_info",
)
"""Names of the tables that Optuna's models describe."""
UPGRADE = "optuna storage upgrade --storage postgresql+psycopg2://..."
"""With the driver's name: without it SQLAlchemy 2.1 looks for psycopg 3."""


def read_version(connection: sqlalchemy.Connection) -> str | None:
    """Return the version of the tables; None if there are none, or they are not complete yet."""
    if not connection.scalar(server.HAS_TABLES):
        return None
    version: str | None = connection.scalar(server.TABLES_VERSION)
    return version


def mismatch(version: str) -> tuple[str, str] | None:
    """Say what is wrong with tables of this version.

    Returns:
        A text that names both versions, and what to do about it; None if nothing is wrong.
    """
    if version == VERSION:
        return None
    problem = f"Optuna's tables have version {version}, but version {VERSION} is needed"
    if version in VERSIONS:
        return problem, f"have their owner run {UPGRADE}"
    return problem, "they belong to a newer Optuna: run pip install -U kdecay-search here"
