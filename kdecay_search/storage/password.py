"""The password of a connected storage, kept in memory and not in the environment."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from sqlalchemy import event

from kdecay_search import credentials
from kdecay_search.storage.connect import Storage, mapped_errors


def keep_password(storage: Storage) -> None:
    """Remove the storage URL and ``PGPASSWORD`` from this process's environment.

    Processes that are started from now on do not inherit them; ``storage`` keeps the password for
    its next connections. Variables that only lead to a password, such as ``PGPASSFILE``, stay,
    because libpq needs them again. Call it before any thread is started.

    Args:
        storage: The database, to which a connection can be made now.

    Raises:
        StorageError: It cannot.
    """
    with mapped_errors(storage.url), storage.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        used = driver.info.password  # wherever it came from
    credentials.keep_secret(storage.secret_url, used)
    inherited = os.environ.pop("PGPASSWORD", None)
    if used and used == inherited and storage.url.password is None:
        storage.url = storage.url.set(password=used)
        event.listen(storage.engine, "do_connect", partial(_provide, used))
    os.environ.pop(credentials.STORAGE, None)


def _provide(password: str, dialect: Any, record: Any, arguments: Any, options: Any) -> None:
    """Give a new connection its password; a listener for SQLAlchemy's ``do_connect``."""
    options["password"] = password
