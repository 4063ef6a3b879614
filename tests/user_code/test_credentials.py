"""Nothing of the database's credentials reaches user code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search import credentials
from kdecay_search.credentials import NEEDED, VARIABLES, passwords_of, withheld
from kdecay_search.storage import Storage
from kdecay_search.storage.password import keep_password
from kdecay_search.user_code import command, python
from kdecay_search.user_code.environment import device_and_environment
from tests.support import postgres_servers
from tests.support.kdecay_command import TIMEOUT_SECONDS, Kdecay
from tests.support.postgres_servers import password_server
from tests.user_code.programs import function, program, report_line

PASSWORD = "correct/horse@battery"
URL = f"postgresql://me:{quote(PASSWORD, safe='')}@db.example:5432/kdecay"
LEAKS = {
    "KDECAY_STORAGE": URL,
    "PGPASSWORD": "another-password",
    "PGPASSFILE": "/run/secrets/pgpass",
    "PGSERVICE": "search",
    "PGSERVICEFILE": "/run/secrets/service",
    "PGSSLKEY": "/run/secrets/key",
    "DATABASE_URL": URL.replace("postgresql", "postgres"),
    "POSTGRES_PASSWORD": PASSWORD,
    "QUOTED": quote(PASSWORD, safe=""),
    "SETTINGS": json.dumps({"password": PASSWORD, "user": "me"}),
    "DSN": "host=db user=me password=another-password",
    "WHOLE": f"--storage={URL} --drain",
}


def test_variables_that_give_them_away_are_withheld() -> None:
    _, environment = device_and_environment("cpu", LEAKS | {"HOME": "/home/me", "EDITOR": "vi"})
    assert environment.keys() & LEAKS.keys() == set()
    assert (environment["HOME"], environment["EDITOR"]) == ("/home/me", "vi")


@pytest.mark.parametrize("url", [
    "postgresql://me:s3cr@db/x", "postgresql+psycopg2://me:s3cr@/x?host=/tmp",
    "postgresql://me@db/x?password=s3cr&sslmode=require", "postgres://:s3cr@db",
    "host=db user=me password=s3cr", "host=db password='s3cr' user=me", "postgresql://a:s3cr@h1,h2/x",
])  # fmt: skip
def test_a_password_is_found_in_every_form_of_a_url(url: str) -> None:
    environment = {"KDECAY_STORAGE": url, "MINE": "s3cr", "TEXT": "it is s3cr, is it not"}
    assert withheld(environment) == {*environment}


secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=20)


@given(secrets)
def test_any_password_is_withheld_and_others_stay(password: str) -> None:
    for url in (
        f"postgresql://me:{quote(password, safe='')}@db/x",
        f"postgresql://me:{password}@db/x",
    ):
        assert password in passwords_of(url)
        environment = {"KDECAY_STORAGE": url, "POSTGRES_PASSWORD": password, "EMPTY": ""}
        assert withheld(environment) == environment.keys() - {"EMPTY"}
    others = {"PATH": f"/opt/{password}/bin:{password}", "HOME": password, "USER": password}
    assert withheld(others | {"PGPASSWORD": password}) == {"PGPASSWORD"}
    assert others.keys() < NEEDED


@pytest.mark.parametrize("password", ["kdecay", "1", "gpu"])
def test_a_password_that_is_a_common_word_withholds_no_path_and_no_number(password: str) -> None:
    others = {"OMP_NUM_THREADS": "1", "KDECAY_HOME": "/srv/kdecay/home", "LIBRARIES": "/opt/gpu",
              "PYTHONPATH": "/srv/kdecay-search:/usr/lib/gpu"}  # fmt: skip
    url = f"postgresql://kdecay:{password}@db/kdecay"
    assert withheld(others | {"KDECAY_STORAGE": url}) == {"KDECAY_STORAGE"}
    assert withheld({"KDECAY_STORAGE": url, "MINE": url.replace("@db", "@other")}) == {
        "KDECAY_STORAGE", "MINE"
    }  # fmt: skip


# ---- what a program sees ----------------------------------------------------------------------

SEEN = "{ env; tr '\\0' '\\n' < /proc/self/environ; ls -l /proc/self/fd; } > seen"
FUNCTION = """
import subprocess
open("seen", "w").write(open("/proc/self/environ").read() + repr(dict(os.environ)))
subprocess.run(["sh", "-c", "{ env; ls -l /proc/self/fd; } >> seen"], check=True)
return 12.5
"""


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("kind", ["python", "command"])
def test_user_code_gets_neither_variables_nor_connections(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name, value in LEAKS.items():
        monkeypatch.setenv(name, value)
    if kind == "python":
        python.train(function(FUNCTION, task={"epochs": 1}))
    else:
        script = f"{SEEN}; {report_line(1, 12.5)}"
        command.train(program(script, task={"epochs": 1}))
    seen = Path("seen").read_text()
    assert_clean(seen)
    sockets = [line for line in seen.splitlines() if "socket:" in line]
    assert sockets == []


def assert_clean(seen: str) -> None:
    assert "KDECAY_DEVICE" in seen
    found = [text for text in (*VARIABLES, PASSWORD, "another-password", quote(PASSWORD, safe=""))
             if text in seen]  # fmt: skip
    assert found == []


def test_the_channel_is_the_only_socket_of_a_function(own_folder: Path) -> None:
    body = """
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}"):
        print(os.readlink(f"/proc/self/fd/{name}"), file=open("seen", "a"))
return 12.5
"""
    python.train(function(body, task={"epochs": 1}))
    assert [line.partition(":")[0] for line in Path("seen").read_text().splitlines()] == ["socket"]


# ---- what other processes see -----------------------------------------------------------------

ANCESTORS = """
pid=$$
while [ "$pid" != "{root}" ] && [ "$pid" -gt 1 ]; do
    tr '\\0' '\\n' < /proc/$pid/environ >> {seen}
    tr '\\0' ' ' < /proc/$pid/cmdline >> {seen}
    pid=$(awk '/^PPid:/ {{print $2}}' /proc/$pid/status)
done
"""


def study_of_program(folder: Path, script: str) -> str:
    (folder / "program.sh").write_text(f"{script}\n{report_line(1, 12.5)}\n")
    file = folder / "mine.toml"
    file.write_text(
        'name = "mine"\n[task]\nkind = "command"\nepochs = 1\n'
        f'command = ["sh", "{folder}/program.sh", "{{k}}"]\n'
        "[search]\nk_max = 1.0\nk_cap = 1.0\nk_step = 1.0\nseeds = 1\nmax_terms = 1\n"
        "[pruning]\nenabled = false\n"
    )
    return str(file)


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ("environment", "launch"),
        ("option", "launch"),
        ("option", "worker"),
        ("environment", "two workers"),
        ("PGPASSWORD", "two workers"),
    ],
)
def test_processes_above_user_code_show_no_password(
    alone: Kdecay, tmp_path: Path, given: str, first: str
) -> None:
    """The embedded server needs no password, and does not mind one."""
    assert alone.url is not None
    url = alone.url.replace("kdecay@", "kdecay:hunter2hunter2@")
    seen = tmp_path / "seen"
    script = ANCESTORS.format(root=os.getpid(), seen=seen)
    file = study_of_program(tmp_path, script)
    environment = alone.environment
    options = []
    if given == "environment":
        environment["KDECAY_STORAGE"] = url
    elif given == "option":
        del environment["KDECAY_STORAGE"]
        options = ["--storage", url]
    else:
        environment["PGPASSWORD"] = "hunter2hunter2"
    if first == "launch":
        command = ["launch", file, "--workers", "1"]
    else:
        alone.run("launch", file, "--workers", "0", "--detach")
        command = ["worker", "--drain", "--allow-command"]
        command += ["--per-device", "2"] if first == "two workers" else []
    done = subprocess.run(
        [sys.executable, "-m", "kdecay_search", *command, *options],
        env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = seen.read_text()
    assert f"kdecay_search {command[0]}" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("environment", [{"PGPASSWORD": "hunter2"}, {"KDECAY_STORAGE": URL}])
def test_the_memory_of_a_process_with_a_password_is_its_own(environment: Mapping[str, str]) -> None:
    program = (
        "import ctypes, os, sys; from kdecay_search import credentials; before = dict(os.environ);"
        "credentials.hide(sys.argv); assert before == dict(os.environ);"
        "os.system('env'); print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    command = [sys.executable, "-c", program]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KDECAY")}
    for variables, dumpable in ((environment, 0), ({}, 1)):
        done = subprocess.run(
            command, env=clean | variables, capture_output=True, text=True, check=True
        )
        lines = done.stdout.splitlines()
        assert {f"{name}={value}" for name, value in variables.items()} <= {*lines}
        assert f"dumpable {dumpable}" in lines


@pytest.mark.parametrize("given", ["PGPASSWORD", "PGPASSFILE"])
def test_a_worker_connects_again_without_the_password_in_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.setattr(credentials, "_kept_secret", set())
    with password_server() as server:
        url = server.url("").replace(":@", "@")
        file = tmp_path / "pgpass"
        file.write_text(f"*:*:*:*:{postgres_servers.PASSWORD}\n")
        file.chmod(0o600)
        secret = postgres_servers.PASSWORD if given == "PGPASSWORD" else str(file)
        monkeypatch.setenv(given, secret)
        monkeypatch.setenv("KDECAY_STORAGE", url)
        storage = Storage(url)
        try:
            keep_password(storage)
            assert not os.environ.keys() & {"KDECAY_STORAGE", "PGPASSWORD"}
            assert withheld({"MINE": postgres_servers.PASSWORD, "OTHER": "x"}) == {"MINE"}
            storage.engine.dispose()
            with storage.engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                assert driver.info.password == postgres_servers.PASSWORD
            assert storage.optuna.get_all_studies() == []
        finally:
            storage.close()


def test_kdecay_try_removes_them_from_its_own_process(kdecay: Kdecay, own_folder: Path) -> None:
    """It runs user code in its own process, and needs no database."""
    (own_folder / "mine.py").write_text(
        "import os\n\ndef train(run):\n"
        "    open('seen', 'w').write(open('/proc/self/environ').read() + repr(dict(os.environ)))\n"
        "    return 12.5\n"
    )
    (own_folder / "study.toml").write_text(
        'name = "mine"\n[task]\nkind = "python"\nentry = "mine:train"\nepochs = 1\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "kdecay_search", "try", "study.toml"],
        env=kdecay.environment | LEAKS, capture_output=True, text=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert "1 of 1 epoch" in done.stdout
    seen = Path("seen").read_text().rpartition("environ(")[2]
    found = [text for text in (PASSWORD, "another-password") if text in Path("seen").read_text()]
    assert found == [name for name in VARIABLES if repr(name) in seen] == []
