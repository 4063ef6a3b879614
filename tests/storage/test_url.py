"""Storage URLs: whatever libpq accepts works, and no part of a password is ever shown."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from kdecay_search.doctor.database import database_checks
from kdecay_search.errors import StorageError
from kdecay_search.storage import Storage
from kdecay_search.storage.connect import make_engine
from kdecay_search.storage.url import parameters_of, parse_url, shown, with_secrets
from tests.support.postgres_servers import PASSWORD, Server, free_port

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
HOST = st.one_of(
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
    st.ip_addresses().map(str),
    TEXT.map(lambda text: f"/{text}"),
    st.just("@abstract"),
)
OTHERS = st.sampled_from(["sslmode", "options", "application_name", "sslpassword", "service"])
PIECE = st.one_of(st.from_regex(r"[A-Z][a-z0-9]{5}", fullmatch=True), st.integers(10**5, 10**6 - 1))
"""A part of a password that occurs nowhere else by chance."""
SPECIAL = st.text("@/:?#%&=+ '\\[]{}~é*;,.\"", min_size=1, max_size=3)
PASSWORDS = st.lists(st.tuples(PIECE.map(str), SPECIAL), min_size=1, max_size=4)
FORMS = [
    "postgresql://me:{}@127.0.0.1:{port}/db",
    "postgres://me:{}@127.0.0.1:{port}/db?sslmode=disable&application_name=x",
    "postgresql+psycopg2://me:{}@127.0.0.1:{port}",
    "postgresql://me:{}@127.0.0.1:{port},127.0.0.1:{port}/db",
    "postgresql://me:{}@/db?host=127.0.0.1&port={port}",
    "postgresql://127.0.0.1:{port}/db?user=me&password={}",
    "postgresql://me:x@127.0.0.1:{port}/db?sslpassword={}",
    "host=127.0.0.1 port={port} user=me password={}",
    "host=127.0.0.1 port={port} user=me password='{}' dbname=db",
    "me:{}@127.0.0.1:{port}/db",
    "postgresql:/me:{}@127.0.0.1:{port}/db",
    "mysql://me:{}@127.0.0.1/db",
    "other+driver://me:{}@127.0.0.1/db",
    "postgresql://me:{}@127.0.0.1:99999/db",
    "postgresql://me:{}@127.0.0.1:{port}/db?nonsense=1",
    "{}",
]


@given(
    st.lists(st.tuples(HOST, st.none() | st.integers(1, 65535)), min_size=1, max_size=3),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("user", "password", "dbname"), TEXT)),
    st.dictionaries(OTHERS, TEXT, max_size=2),
)
def test_parameters_are_those_of_libpq(
    hosts: list[tuple[str, int | None]], named: dict[str, str], others: dict[str, str]
) -> None:
    assume(not any("," in host for host, _ in hosts))
    ports = ",".join("" if port is None else str(port) for _, port in hosts)
    values = named | others | {"host": ",".join(host for host, _ in hosts)}
    values |= {"port": ports} if ports else {}
    escaped = (
        (key, value.replace("\\", "\\\\").replace("'", "\\'")) for key, value in values.items()
    )
    keywords = " ".join(f"{key}='{value}'" for key, value in escaped)
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in values.items())
    for text in (keywords, f"postgresql://?{query}", f"postgres:///?{query}"):
        url = parse_url(text)
        assert parameters_of(url) == parse_dsn(text) == values
        assert parse_url(with_secrets(url)) == url


@settings(max_examples=200)
@given(PASSWORDS, st.sampled_from(FORMS), st.booleans(), st.booleans())
@example([("Abc123", "@"), ("Def456", "/"), ("Ghi789", "?")], FORMS[0], False, False)
@example([("123456", "/"), ("Def456", "@")], FORMS[0], False, False)
def test_no_part_of_a_password_is_shown(
    parts: list[tuple[str, str]], form: str, is_quoted: bool, starts_special: bool
) -> None:
    password = "".join(piece + special for piece, special in parts)
    password = parts[0][1] + password if starts_special else password
    port = closed_port()
    assume(not any(piece in (f"{port}", "127001", "99999") for piece, _ in parts))
    written = quote(password, safe="") if is_quoted else password
    text = form.replace("{port}", str(port)).replace("{}", written)
    found = []
    try:
        url = parse_url(text)
        found.append(shown(url))
    except StorageError as refused:
        found.append(str(refused))
        assert not (is_quoted and form in FORMS[:7])
    else:
        if is_quoted and form in FORMS[:6]:
            assert parameters_of(url)["password"] == password
        assert set(parameters_of(url).get("host", "127.0.0.1").split(",")) == {"127.0.0.1"}
        with pytest.raises(StorageError) as unreachable:
            Storage(text)
        found += [str(unreachable.value), *map(repr, database_checks(text, 1))]
    for line in found:
        assert len(line.splitlines()) == 1
        assert not any(piece in line for piece, _ in parts), line


def closed_port() -> int:
    """A loopback port that nothing listens on; its number is no part of a password."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://postgres:{quoted}@127.0.0.1:{port}/postgres",
        "postgres://postgres:{quoted}@127.0.0.1:{port}/postgres",
        "postgresql+psycopg://postgres:{quoted}@127.0.0.1:{port}/postgres",
        "POSTGRESQL://postgres:{quoted}@127.0.0.1:{port}/postgres",
        "  postgresql://postgres:{quoted}@127.0.0.1:{port}\n",
        "postgresql://p%6Fstgres:{quoted}@127.0.0.%31:{port}/p%6fstgres",
        "postgresql://postgres:{quoted}@127.0.0.1:{closed},127.0.0.1:{port}/postgres",
        "postgresql://postgres:{quoted}@127.0.0.1:{closed},127.0.0.1:{port}/?target_session_attrs=any",
        "postgresql:///postgres?host=127.0.0.1,127.0.0.1&port={closed},{port}&user=postgres&password={quoted}",
        "postgresql://postgres@localhost:{port}/postgres?password={quoted}",
        "postgresql://postgres@nowhere.invalid:{port}/postgres?hostaddr=127.0.0.1&password={quoted}",
        "postgresql://postgres:{quoted}@127.0.0.1:{port}/postgres?options=-csearch_path%3Dpublic&connect_timeout=5",
        "postgresql://postgres@127.0.0.1:{port}/postgres?passfile={folder}/pass",
        "postgresql:///?service=ours",
        "service=ours",
        "service=ours dbname=postgres",
        "host=127.0.0.1 port={port} user=postgres password='{plain}' dbname=postgres",
        "host=127.0.0.1 port = {port} user=postgres password={plain}",
        "postgresql://",
        "postgresql:///postgres?application_name=a@b",
    ],
)
def test_forms_that_libpq_accepts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    (tmp_path / "pass").write_text(f"*:*:*:*:{PASSWORD}\n")
    (tmp_path / "pass").chmod(0o600)
    settings = f"host=127.0.0.1\nport={server.port}\nuser=postgres\npassword={PASSWORD}\n"
    (tmp_path / "services").write_text(f"[ours]\n{settings}")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    if "@" not in form.partition("?")[0] and "user" not in form and "service" not in form:
        for line in settings.splitlines():
            name, _, value = line.partition("=")
            monkeypatch.setenv(f"PG{name.upper()}", value)
    text = form.format(
        quoted=quote(PASSWORD, safe=""), plain=PASSWORD, port=server.port, closed=free_port(),
        folder=tmp_path,
    )  # fmt: skip
    with closing(Storage(text)) as storage:
        with storage.engine.connect() as connection:
            user = connection.exec_driver_sql("SELECT current_user, current_database()").one()
        with storage.borrow_optuna() as optuna:
            assert optuna.get_all_studies() is not None
        assert tuple(user) == ("postgres", "postgres")
        assert PASSWORD not in storage.shown_url
        with closing(Storage(storage.secret_url)) as again:
            assert again.url == storage.url


def test_sockets(storage: Storage) -> None:
    values = parameters_of(storage.url)
    values["folder"] = quote(values["host"], safe="")
    for form in (
        "postgresql://{user}@{folder}:{port}/{dbname}",
        "host={host} port={port} user={user} dbname={dbname}",
        "postgresql://{user}@/{dbname}?host=/nowhere,{folder}&port=1,{port}",
    ):
        engine = make_engine(parse_url(form.format_map(values)))
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://u:p@h:1/d?sslmode=disable", "postgresql://u:***@h:1/d?sslmode=disable"),
        ("postgresql://u@[::1]:5/d", "postgresql://u@[::1]:5/d"),
        ("postgresql://a:1,b:2/d", "postgresql:///d?host=a,b&port=1,2"),
        ("host=/tmp/x user=u password=p", "postgresql://u:***@/?host=/tmp/x"),
        ("postgresql:///d?host=/tmp/x&sslpassword=p", "postgresql:///d?host=/tmp/x&sslpassword=***"),
        ("service=s", "postgresql:///?service=s"),
    ],
)  # fmt: skip
def test_shown(text: str, expected: str) -> None:
    assert shown(parse_url(text)) == expected
