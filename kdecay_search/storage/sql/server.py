"""Locks, the version of the tables, and what ``kdecay doctor`` asks the server."""

from __future__ import annotations

from sqlalchemy import text

TRY_LOCK = text("""
    SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0)),
      set_config('idle_in_transaction_session_timeout', :timeout, true)
""")
"""Takes an advisory lock for the rest of the transaction, unless another holds it, and lets the
server end the transaction when this process is silent for too long. Both hold for the transaction
only, so that they work behind a connection pooler; one statement, because a process that freezes
between two would hold the lock for good."""

PING = text("SELECT 1")
"""Asks whether the connection, and with it the lock that its transaction holds, is still there."""

HAS_TABLES = text("SELECT to_regclass('alembic_version') IS NOT NULL")
"""Whether Optuna's tables are complete: it makes this one last."""

TABLES_VERSION = text("SELECT version_num FROM alembic_version")
"""The version of Optuna's tables."""

LIMITS = (
    text("SELECT set_config('statement_timeout', '10s', true)"),
    text("SELECT set_config('lock_timeout', '5s', true)"),
)
"""Let no question of the doctor's wait for long; for this transaction only."""

IDENTITY = text("""
    SELECT cast(current_setting('server_version_num') AS integer) AS number,
      current_setting('server_version') AS version,
      current_user AS user_name,
      coalesce(current_schema(), 'public') AS schema_name,
      current_setting('is_superuser') = 'on' AS is_superuser,
      pg_backend_pid() AS pid
""")
"""Who the server is, and who it takes this user for. Behind a pooler ``pid`` is not the process id
that libpq was told when it connected."""

CONNECTIONS = text("""
    SELECT cast(current_setting('max_connections') AS integer),
      cast(current_setting('superuser_reserved_connections') AS integer)
        + coalesce(cast(current_setting('reserved_connections', true) AS integer), 0),
      (SELECT cast(sum(numbackends) AS integer) FROM pg_stat_database),
      (SELECT sum(numbackends) FROM pg_stat_database WHERE datname = current_database()),
      (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
      (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
      (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)
""")
"""The server's limit, how many connections of it are reserved, how many are used on the server and
on this database, this database's limit and this user's, and how many this user uses."""

MISSING_PERMISSIONS = text("""
    SELECT wanted.verb, c.relname FROM pg_class c, unnest(:verbs) AS wanted(verb)
    WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relkind IN ('r', 'p')
      AND NOT has_table_privilege(c.oid, wanted.verb)
      AND (wanted.verb = 'SELECT' OR c.relname <> 'version_info')
    UNION ALL
    SELECT 'USAGE', s.relname FROM pg_class s JOIN pg_depend d ON d.objid = s.oid
    JOIN pg_class c ON c.oid = d.refobjid
    WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid) AND c.relname <> 'version_info'
      AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') END
    ORDER BY 1, 2
""")
"""Permissions that this user lacks on Optuna's tables, and on the sequences that number their rows.
Of ``version_info`` nothing but reading is needed."""

CLOCK = text("SELECT clock_timestamp()")
"""The time by the database's clock."""

TRY_CREATE = (text("CREATE TABLE kdecay_doctor (id integer)"),)
"""What making the tables needs. The doctor executes this and the next two, and rolls them back."""

TRY_WORK = (
    text("INSERT INTO studies (study_id, study_name) VALUES (:id, :name)"),
    text("INSERT INTO trials (trial_id, number, study_id, state) VALUES (:id, 0, :id, 'WAITING')"),
    text("UPDATE trials SET state = 'RUNNING' WHERE trial_id = :id"),
)
"""What a worker needs. The ids are negative and given, so that no sequence advances."""

TRY_DELETE = (
    text("DELETE FROM trials WHERE trial_id = :id"),
    text("DELETE FROM studies WHERE study_id = :id"),
)
"""What ``kdecay delete`` needs."""
