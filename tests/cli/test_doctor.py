"""``kdecay doctor``: what it finds on real databases and folders, well and broken."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from kdecay_search.cli.doctor import _storage_checks, _stored
from kdecay_search.doctor import machine
from kdecay_search.doctor.check import Check, Mark, ok, within
from kdecay_search.doctor.database import database_checks, mend_of
from kdecay_search.doctor.folders import checkpoint_checks, data_checks, file_system, home_checks
from kdecay_search.errors import KDecayError
from kdecay_search.storage import Storage
from kdecay_search.storage.connect import parse_url
from kdecay_search.study.spec import StudySpec
from tests.support.kdecay_command import Kdecay, simulated_study
from tests.support.memory_studies import images_table, study
from tests.support.postgres_servers import PASSWORD, Server, free_port, password_server


def by_subject(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.subject: check for check in checks}


def execute(url: str, *statements: str) -> None:
    engine = sqlalchemy.create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


@pytest.fixture(scope="module")
def server(storage_url: str) -> Iterator[Server]:
    with password_server() as started:
        yield started


@pytest.fixture
def empty(server: Server) -> str:
    """The URL of a new database."""
    name = f"empty_{uuid.uuid4().hex}"
    execute(server.url(PASSWORD), f"CREATE DATABASE {name}")
    return server.url(PASSWORD).removesuffix("postgres") + name


@pytest.fixture
def used(empty: str) -> str:
    """The URL of a database with Optuna's tables."""
    Storage(empty).close()
    return empty


def as_user(url: str, options: str = "") -> tuple[str, str]:
    """The same database's URL for a new user, and that user's name."""
    name = f"user_{uuid.uuid4().hex}"
    execute(url, f"CREATE ROLE {name} LOGIN PASSWORD 'x' {options}")
    return parse_url(url).set(username=name, password="x").render_as_string(False), name


def contents(url: str) -> list[Any]:
    """Names of all relations with their rows, and where the sequences stand."""
    engine = sqlalchemy.create_engine(parse_url(url))
    with engine.connect() as connection:
        run = connection.exec_driver_sql
        tables = run("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").all()
        rows = [(table, run(f"SELECT * FROM {table} ORDER BY 1").all()) for (table,) in tables]
        last = run("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1").all()
    engine.dispose()
    return [rows, last]


# ---- the database ---------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["empty", "used"])
def test_a_good_database_has_nothing_bad_and_is_left_as_it_was(
    database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(database)
    before = contents(url)
    checks = list(database_checks(url, workers=2))
    assert [check.subject for check in checks] == [
        "server", "tables", "rights", "round trip", "connections", "clock"
    ]  # fmt: skip
    assert Mark.BAD not in {check.mark for check in checks}
    assert PASSWORD not in repr(checks)
    assert contents(url) == before


def test_a_superuser_is_warned_of_and_the_embedded_server_s_is_not(
    used: str, storage_url: str
) -> None:
    elsewhere, own = (by_subject(database_checks(url, 1)) for url in (used, storage_url))
    assert elsewhere["rights"].mark == Mark.WARNING
    assert "superuser" in elsewhere["rights"].value
    assert own["rights"].mark == Mark.OK
    assert "Unix socket" in own["server"].value


def test_an_unreachable_server_is_one_bad_finding() -> None:
    (check,) = database_checks(f"postgresql://me:hunter2@127.0.0.1:{free_port()}/x", 1)
    assert check.mark == Mark.BAD
    assert "Connection refused" in check.value
    assert "start Postgres" in (check.mend or "")
    assert "hunter2" not in repr(check)


def test_a_wrong_password_is_one_bad_finding(server: Server) -> None:
    (check,) = database_checks(server.url("hunter2"), 1)
    assert (check.mark, check.mend) == (
        Mark.BAD, "look at user and password in KDECAY_STORAGE"
    )  # fmt: skip
    assert "hunter2" not in repr(check)


def test_a_server_that_accepts_and_falls_silent_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/x"
        (check,) = within(0.5, "server", lambda: database_checks(url, 1), "look")
    assert check == Check("server", Mark.BAD, "no answer within 0.5 s", "look")


@pytest.mark.parametrize(
    ("revision", "mend"),
    [("v2.6.0.a", "upgrade --storage postgresql+psycopg2"), ("v99", "pip install -U optuna")],
)
def test_tables_of_another_version_are_bad_and_the_mend_is_named(
    used: str, revision: str, mend: str
) -> None:
    execute(used, f"UPDATE alembic_version SET version_num = '{revision}'")
    found = by_subject(database_checks(used, 1))
    assert found["tables"].mark == Mark.BAD
    assert revision in found["tables"].value
    assert mend in (found["tables"].mend or "")


def test_a_user_who_may_not_make_tables_is_told_what_to_grant(empty: str) -> None:
    url, user = as_user(empty)
    found = by_subject(database_checks(url, 1))
    assert found["rights"].mark == Mark.BAD
    assert "permission denied for schema public" in found["rights"].value
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {user}" in (found["rights"].mend or "")
    execute(empty, f"GRANT USAGE, CREATE ON SCHEMA public TO {user}")
    assert by_subject(database_checks(url, 1))["rights"].mark == Mark.OK


def test_every_right_that_is_lacking_is_named(used: str) -> None:
    url, user = as_user(used)
    execute(
        used,
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {user}",
        f"REVOKE INSERT ON trial_heartbeats FROM {user}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {user}",
        f"REVOKE USAGE ON SEQUENCE trials_trial_id_seq FROM {user}",
    )
    found = by_subject(database_checks(url, 1))["rights"]
    assert found.mark == Mark.BAD
    assert found.value == (
        f"user {user}: may not INSERT trial_heartbeats, USAGE trials_trial_id_seq"
    )


def test_tables_that_may_not_be_read_are_one_bad_finding(used: str) -> None:
    url, _ = as_user(used)
    *_, last = database_checks(url, 1)
    assert last.mark == Mark.BAD
    assert "permission denied for table alembic_version" in last.value
    assert "docs/operations.md" in (last.mend or "")


def test_a_database_set_read_only_is_bad(used: str) -> None:
    url, user = as_user(used, "SUPERUSER")
    execute(used, f"ALTER ROLE {user} SET default_transaction_read_only = on")
    found = by_subject(database_checks(url, 1))["rights"]
    assert (found.mark, "read-only" in found.value) == (Mark.BAD, True)
    assert "primary" in (found.mend or "")


@pytest.mark.parametrize(
    ("limit", "workers", "mark", "value"),
    [
        (9, 4, Mark.OK, "room for 4 more workers"),
        (4, 4, Mark.WARNING, "room for 2 more workers; launch would start 4"),
        (1, 1, Mark.BAD, "room for 0 more workers"),
    ],
)
def test_connections_left_are_counted_against_two_per_worker(
    used: str, limit: int, workers: int, mark: Mark, value: str
) -> None:
    url, _ = as_user(used, f"CONNECTION LIMIT {limit}")
    execute(used, "GRANT SELECT ON alembic_version TO PUBLIC")
    found = by_subject(database_checks(url, workers))["connections"]
    assert found.mark == mark
    assert value in found.value


def test_connections_of_others_count(used: str) -> None:
    name = parse_url(used).database
    execute(used, f"ALTER DATABASE {name} CONNECTION LIMIT 5")
    url, _ = as_user(used)
    execute(used, "GRANT SELECT ON alembic_version TO PUBLIC")
    others = Storage(used)
    with others.engine.connect(), others.engine.connect():
        found = by_subject(database_checks(url, 1))["connections"]
    others.close()
    assert "3 left to this user: room for 1 more workers" in found.value


def test_what_libpq_says_has_a_mend_and_the_unknown_points_to_the_log() -> None:
    assert "max_connections" in mend_of("FATAL: sorry, too many clients already")
    assert mend_of("gibberish") == "look at the server's log"


# ---- this machine ---------------------------------------------------------------------------


def test_a_container_s_limits_are_heeded(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{2**29}\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.memory(cgroup=tmp_path).mark == Mark.WARNING
    assert "of 0.5 GiB" in machine.memory(cgroup=tmp_path).value
    assert "CPU time for only 0.5" in machine.cores(tmp_path).value
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cores(tmp_path).mark == Mark.OK


def images(**data: Any) -> StudySpec:
    return StudySpec.model_validate_json(json.dumps(images_table(**data)))


def inventory(**missing: str) -> dict[str, Any]:
    """As :mod:`kdecay_search.training.inventory` prints it, of a machine with one GPU."""
    names = [name for name in ("torch", "torchvision", "sklearn") if name not in missing]
    device = {"name": "X", "memory_bytes": 2**34, "free_bytes": 2**33, "bf16": True,
              "failure": None}  # fmt: skip
    cpu = {"device": "cpu", "memory_bytes": None, "free_bytes": None}
    devices = [device | {"device": "cuda:0"}, device | cpu]
    return {"versions": dict.fromkeys(names, "1.0"), "reasons": missing, "built_for": "CUDA 1",
            "devices": devices}  # fmt: skip


def marks(found: dict[str, Any], spec: StudySpec | None = None, gpus: int = 1) -> list[Mark]:
    return [check.mark for check in machine.torch_checks(found, spec, gpus)]


def test_a_machine_with_everything_is_well() -> None:
    assert set(marks(inventory())) == {Mark.OK}


def test_missing_torch_is_bad_except_for_simulated_studies() -> None:
    missing = inventory(torch="is not installed")
    assert marks(missing) == [Mark.BAD]
    assert marks(missing, images()) == [Mark.BAD]
    assert marks(missing, study()) == [Mark.WARNING]


def test_a_package_is_bad_only_where_the_study_reads_its_data_with_it() -> None:
    missing = inventory(torchvision="is not installed")
    assert Mark.BAD not in marks(missing, images())
    assert Mark.BAD in marks(missing, images(name="image-folder", root="/x"))


def test_a_gpu_that_torch_cannot_use_is_bad() -> None:
    assert marks(inventory(), gpus=2).count(Mark.WARNING) == 1
    driverless = inventory()
    del driverless["devices"][0]
    assert Mark.BAD in marks(driverless)
    failing = inventory()
    failing["devices"][0]["failure"] = "CUDA error: out of memory"
    assert Mark.BAD in marks(failing)


def test_a_gpu_that_others_have_filled_is_warned_of() -> None:
    full = inventory()
    full["devices"][0]["free_bytes"] = 2**20
    assert marks(full).count(Mark.WARNING) == 1


def test_torch_is_looked_at_in_a_process_that_may_hang() -> None:
    pytest.importorskip("torch")
    with pytest.raises(KDecayError, match="did not answer"):
        machine.probe(0.01)


# ---- folders --------------------------------------------------------------------------------


def test_a_folder_is_tried_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path))
    (check,) = checkpoint_checks(None)
    assert check.mark in (Mark.OK, Mark.WARNING)  # a warning where tests run in a container
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_a_folder_s_place_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("KDECAY_HOME", str(file))
    for checks in (home_checks(embeds=True), checkpoint_checks(file)):
        (check,) = checks
        assert check.mark == Mark.BAD
        assert str(file) in check.value


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_bad(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    (check,) = checkpoint_checks(tmp_path)
    assert (check.mark, "Permission denied" in check.value) == (Mark.BAD, True)


def test_a_chosen_checkpoint_folder_that_is_missing_may_not_be_mounted(tmp_path: Path) -> None:
    (check,) = checkpoint_checks(tmp_path / "shared")
    assert check.mark == Mark.WARNING
    assert "mounted" in (check.mend or "")
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/mnt/a b/c", "nfs4"), ("/mnt/a", "xfs"), ("/mnt/over", "lustre")],
)
def test_the_file_system_is_that_of_the_innermost_and_latest_mount(
    tmp_path: Path, path: str, kind: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "rootfs / rootfs rw 0 0\n/dev/sda / ext4 rw 0 0\n/dev/sdb /mnt xfs rw 0 0\n"
        "host:/a /mnt/a\\040b nfs4 rw 0 0\nx /mnt/over xfs rw 0 0\ny /mnt/over lustre rw 0 0\n"
    )
    assert file_system(Path(path), mounts) == kind


def test_an_image_folder_is_looked_into(tmp_path: Path) -> None:
    spec = images(name="image-folder", root=str(tmp_path / "pictures"))
    assert [c.mark for c in data_checks(spec)] == [Mark.BAD]
    (tmp_path / "pictures" / "train" / "rose").mkdir(parents=True)
    (empty,) = data_checks(spec)
    assert (empty.mark, "holds no file" in empty.value) == (Mark.BAD, True)
    (tmp_path / "pictures" / "train" / "rose" / "1.png").touch()
    (good,) = data_checks(spec)
    assert (good.mark, "1 classes" in good.value) == (Mark.OK, True)


def test_imagenet_must_have_a_folder_train(tmp_path: Path) -> None:
    spec = images(name="imagenet", root=str(tmp_path))
    (tmp_path / "rose").mkdir()
    (tmp_path / "rose" / "1.png").touch()
    (check,) = data_checks(spec)
    assert (check.mark, "has no folder train" in check.value) == (Mark.BAD, True)
    (tmp_path / "rose").rename(tmp_path / "train")
    (tmp_path / "train" / "rose").mkdir()
    (tmp_path / "train" / "1.png").rename(tmp_path / "train" / "rose" / "1.png")
    assert [c.mark for c in data_checks(spec)] == [Mark.OK]


def test_cifar_that_is_not_there_yet_is_downloaded_where_one_may_write(tmp_path: Path) -> None:
    (check,) = data_checks(images(name="cifar10", root=str(tmp_path)))
    assert check.mark == Mark.WARNING
    (tmp_path / "cifar-10-batches-py").mkdir()
    (check,) = data_checks(images(name="cifar10", root=str(tmp_path)))
    assert check.mark == Mark.OK
    (tmp_path / "file").touch()
    (check,) = data_checks(images(name="cifar10", root=str(tmp_path / "file")))
    assert check.mark == Mark.BAD


# ---- looking --------------------------------------------------------------------------------


def test_a_look_that_hangs_ends_with_what_it_has_found() -> None:
    ended = threading.Event()

    def look() -> Iterator[Check]:
        yield ok("disk", "there")
        ended.wait(30)

    checks = list(within(0.2, "disk", look, "look at dmesg"))
    ended.set()
    assert [check.mark for check in checks] == [Mark.OK, Mark.BAD]
    assert checks[-1].value == "no answer within 0.2 s"


def test_a_look_that_breaks_is_a_bad_finding() -> None:
    def broken() -> Iterator[Check]:
        yield ok("disk", "there")
        raise ZeroDivisionError("0")

    assert [c.mark for c in within(9, "disk", broken, "report it")] == [Mark.OK, Mark.BAD]


# ---- the command ----------------------------------------------------------------------------


def test_the_command_ends_well_where_a_worker_could_work(kdecay: Kdecay, tmp_path: Path) -> None:
    kdecay.run("launch", simulated_study(tmp_path, name="known"), "--detach", "--workers", "0")
    lines = kdecay.run("doctor", "--study", "known").stdout.splitlines()
    kdecay.run("delete", "known", "--yes")
    assert lines[-2].split(maxsplit=2) == ["ok", "data", "known: a simulated task needs none"]
    assert lines[-1] == "a worker can work here"
    assert {"server", "tables", "connections", "cpu", "checkpoints"} <= {
        line.split()[1] for line in lines
    }


def test_json_holds_the_same_and_the_exit_code_says_that_something_is_bad(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    elsewhere = Kdecay(home, f"postgresql://me:hunter2@127.0.0.1:{free_port()}/x")
    done = elsewhere.run("doctor", "--study", "any", "--checkpoints", str(file), "--json", code=2)
    told = json.loads(done.stdout)
    assert told["ok"] is False
    bad = [check["subject"] for check in told["checks"] if check["mark"] == "bad"]
    assert bad == ["server", "study", "checkpoints"]
    assert all((check["mend"] is None) == (check["mark"] == "ok") for check in told["checks"])
    assert "hunter2" not in done.stdout + done.stderr


def test_a_stored_study_that_is_not_there_is_bad_and_no_tables_are_made_for_it(
    storage: Storage, empty: str
) -> None:
    for url, told in ((storage.secret_url, "no study named 'no'"), (empty, "there are no studies")):
        spec, (check,) = _stored(url, "no", list(database_checks(url, 1)))
        assert (spec, check.mark, told in check.value) == (None, Mark.BAD, True)
    assert contents(empty) == [[], []]


def test_a_home_that_cannot_be_is_told_with_its_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDECAY_HOME", str(tmp_path / "file"))
    (check,) = _storage_checks(None)
    assert (check.subject, check.mark) == ("server", Mark.BAD)
    assert "KDECAY_HOME" in (check.mend or "")


def test_a_file_and_a_stored_study_are_not_both_looked_at(kdecay: Kdecay) -> None:
    assert "not both" in kdecay.run("doctor", "a.toml", "--study", "b", code=2).stderr
