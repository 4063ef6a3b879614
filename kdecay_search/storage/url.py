"""Storage URLs: all that libpq accepts, and never a part of a password in what is shown."""

from __future__ import annotations

import re
from urllib.parse import quote

from sqlalchemy.engine import URL

from kdecay_search.errors import StorageError

DRIVER = "postgresql+psycopg2"
OTHERS = frozenset({"sqlite", "mysql", "mariadb", "oracle", "mssql", "redis", "mongodb"})
"""Databases that are refused by their name."""
FORM = (
    "it has the form postgresql://user:password@host/database, with %40 for an @, %2F for a /, %3F "
    "for a ? and %25 for a % in a user's name or password"
)
_SCHEME = re.compile(r"(\w+)(?:\+\w+)?://(.*)", re.DOTALL)
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
"""A name or an address of one host."""
_SECRET = re.compile(r"password|secret|^scram_\w+_key$")
"""Parameters of libpq whose value is a secret."""


def parse_url(text: str) -> URL:
    """Parse a storage URL, or a connection string of keywords and values, as libpq does.

    A driver that the scheme names, as SQLAlchemy's URLs do, is ignored.

    Args:
        text: What the user gave, such as ``postgresql://user:password@host/database``.

    Returns:
        A URL for psycopg2. Several hosts, a socket and the like stand in its query.

    Raises:
        StorageError: The URL is malformed, or is of another kind of database, or can be read in two
            ways because of an ``@`` in a password. The text shows nothing of the URL.
    """
    from psycopg2 import Error  # noqa: PLC0415 - loads slowly
    from psycopg2.extensions import parse_dsn  # noqa: PLC0415

    text = text.strip()
    matched = _SCHEME.fullmatch(text)
    if matched is not None:
        scheme, rest = matched[1].lower(), matched[2]
        if scheme in OTHERS:
            raise StorageError(
                f"storage URL: {scheme} is not supported; it must start with postgresql://"
            )
        text = f"{scheme}://{rest}"
    if not text or (matched is not None and _is_ambiguous(rest)):
        raise StorageError(f"the storage URL is malformed: {FORM}")
    try:
        return _url_of(parse_dsn(text))
    except (Error, ValueError):  # libpq's message would show what it could not read
        raise StorageError(f"the storage URL is malformed: {FORM}") from None


def _is_ambiguous(rest: str) -> bool:
    """Whether an ``@`` may belong to a password, although libpq reads it otherwise.

    libpq takes what stands before the first ``@`` for the user's name and password, unless there is
    a ``/`` before it. The rest of a password would become the name of a host or database, which
    messages show.

    Args:
        rest: What follows ``://``.
    """
    user_info, at, after = rest.partition("@")
    if "/" in user_info:
        return "@" in rest.partition("?")[0]
    return bool(at) and "@" in (after if ":" in user_info else after.partition("?")[0])


def _url_of(parameters: dict[str, str]) -> URL:
    """Return the URL of libpq's parameters; raise :class:`ValueError` if a port is no number."""
    query = dict(parameters)
    user, password = query.pop("user", None), query.pop("password", None)
    database = query.pop("dbname", None)
    ports = query.get("port", "").split(",")
    if not all(re.fullmatch(r"[0-9]*", port) for port in ports):
        raise ValueError("a port must be a number")
    host = port = None
    if "host" in query and _HOST.fullmatch(query["host"]) and len(ports) == 1:
        host = query.pop("host")
        port = int(query.pop("port")) if ports[0] else None
    return URL.create(DRIVER, user, password, host, port, database, query)


def parameters_of(url: URL) -> dict[str, str]:
    """Return the parameters by which libpq connects to a URL."""
    known = {
        "user": url.username,
        "password": url.password,
        "host": url.host,
        "port": None if url.port is None else str(url.port),
        "dbname": url.database,
    }
    query = {
        key: value if isinstance(value, str) else value[-1] for key, value in url.query.items()
    }
    return {key: value for key, value in known.items() if value is not None} | query


def shown(url: URL) -> str:
    """Return the URL for people to read, without secrets."""
    secrets = {key: "***" for key in url.query if _SECRET.search(key)}
    url = url.update_query_dict(secrets)
    return _render(url.set(password=None if url.password is None else "***"), safe="*/,:@")


def with_secrets(url: URL) -> str:
    """Return the URL as :func:`parse_url` and libpq read it, for another process."""
    return _render(url, safe="")


def _render(url: URL, safe: str) -> str:
    user = "" if url.username is None else quote(url.username, safe="")
    if url.password is not None:
        user += f":{quote(url.password, safe='*' if safe else '')}"
    host = url.host or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if url.port is None else f":{url.port}"
    pairs = (f"{key}={quote(str(value), safe=safe)}" for key, value in url.query.items())
    query = "&".join(pairs)
    return (
        "postgresql://"
        + (f"{user}@" if url.username is not None or url.password is not None else "")
        + host
        + port
        + (f"/{quote(url.database or '', safe='')}" if url.database is not None or query else "")
        + (f"?{query}" if query else "")
    )
