"""The queue: adding trials, claiming them, and what a worker writes to a trial that it holds.

What a worker does once an epoch or once a trial is one statement each. Besides saving round trips,
this makes it atomic: a trial's state, its holder, its heartbeat and its result change together or
not at all, whenever the process dies or the connection drops.
"""

from __future__ import annotations

from sqlalchemy import text

from kdecay_search.storage.sql.studies import LAUNCH, NOT_PAUSED, OF_TRIAL, STAGE_IDS

LOCK_STAGE = text("SELECT FROM studies WHERE study_id = :study_id FOR UPDATE")
"""Locks a stage for the rest of the transaction, as Optuna does to number new trials. A statement
of its own, because the one that counts the trials must begin when the lock is held."""

ADD_TRIALS = text("""
    WITH added AS (
      INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
      SELECT (SELECT count(*) FROM trials WHERE study_id = :study_id) + f.place - 1,
        s.study_id, :state, :ended, :ended
      FROM studies s, unnest(cast(:fixed AS text[])) WITH ORDINALITY AS f(params, place)
      WHERE s.study_id = :study_id ORDER BY f.place
      RETURNING trial_id, number
    ), placed AS (
      SELECT trial_id, row_number() OVER (ORDER BY number) AS place FROM added
    ), fixed AS (
      INSERT INTO trial_system_attributes (trial_id, key, value_json)
      SELECT p.trial_id, 'fixed_params', f.params FROM placed p
      JOIN unnest(cast(:fixed AS text[])) WITH ORDINALITY AS f(params, place) USING (place)
    ), given AS (
      INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
      SELECT p.trial_id, g.name, g.value, g.space FROM placed p
      JOIN unnest(cast(:param_places AS integer[]), cast(:param_names AS text[]),
        cast(:param_values AS double precision[]), cast(:param_spaces AS text[]))
        AS g(place, name, value, space) USING (place)
    ), launched AS (
      INSERT INTO trial_user_attributes (trial_id, key, value_json)
      SELECT p.trial_id, l.key, l.value_json FROM placed p
      JOIN study_user_attributes l ON l.study_id = :study_id AND l.key = 'kdecay_launch'
    )
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT p.trial_id, a.key, a.value_json FROM placed p
    JOIN unnest(cast(:places AS integer[]), cast(:keys AS text[]), cast(:texts AS text[]))
      AS a(place, key, value_json) USING (place)
""")
"""Adds trials to a stage, numbered on from those that it has: WAITING ones, or ended ones with
their parameters. Each carries the id of the launch that made the stage. One statement for all of
them, so that none is ever seen, or claimed, without its request. ``fixed_params`` is where Optuna
keeps what ``study.enqueue_trial`` was given."""

HAS_WAITING = text(f"""
    SELECT EXISTS (SELECT FROM trials t WHERE t.study_id = ANY({STAGE_IDS}) AND t.state = 'WAITING'
      AND {NOT_PAUSED} AND {OF_TRIAL} IS NOT DISTINCT FROM {LAUNCH})
""")
"""Whether a study has a trial to claim: asked before a worker loads what training needs, which may
take longer than a claimed trial should wait."""


def _claiming(wanted: str, most: str) -> str:
    """The statement that claims the first waiting trials ``t`` which are wanted."""
    return f"""
    WITH chosen AS (
      SELECT t.trial_id FROM trials t
      WHERE {wanted} AND t.state = 'WAITING'
        AND {NOT_PAUSED} AND {OF_TRIAL} IS NOT DISTINCT FROM {LAUNCH}
      ORDER BY coalesce((SELECT a.value_json FROM trial_system_attributes a
          WHERE a.trial_id = t.trial_id AND a.key = 'fixed_params'), '{{}}') = '{{}}',
        t.study_id, t.number
      LIMIT {most} FOR UPDATE OF t SKIP LOCKED
    ), taken AS (
      UPDATE trials t SET state = 'RUNNING', datetime_start = :now FROM chosen
      WHERE t.trial_id = chosen.trial_id RETURNING t.study_id, t.trial_id
    ), beaten AS (
      INSERT INTO trial_heartbeats (trial_id, heartbeat) SELECT trial_id, now() FROM taken
      ON CONFLICT (trial_id) DO UPDATE SET heartbeat = EXCLUDED.heartbeat
    ), noted AS (
      INSERT INTO trial_user_attributes (trial_id, key, value_json)
      SELECT trial_id, :key, :worker FROM taken
      ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
    )
    SELECT study_id, trial_id, coalesce(
      (SELECT json_object_agg(a.key, a.value_json) FROM trial_user_attributes a
       WHERE a.trial_id = taken.trial_id AND a.key IS NOT NULL), '{{}}') AS attributes,
      ARRAY(SELECT i.step FROM trial_intermediate_values i
       WHERE i.trial_id = taken.trial_id) AS reported
    FROM taken ORDER BY trial_id
"""


CLAIM = text(_claiming(f"t.study_id = ANY({STAGE_IDS})", "1"))
"""Claims the first waiting trial that is not paused and that nobody else is claiming, and reads
what its worker needs. Trials whose candidate is known come before those that the sampler completes,
so that it draws knowing as many results as possible. One statement, so that exactly one worker gets
the trial, and a running trial always has a holder and a heartbeat."""

CLAIM_ALIKE = text(
    _claiming(
        """t.study_id = :study_id AND EXISTS (
        SELECT FROM trial_user_attributes s
        WHERE s.trial_id = t.trial_id AND s.key = 'seed' AND s.value_json = :seed)""",
        ":most",
    )
)
"""Claims further trials as :data:`CLAIM` does: those of one stage and seed."""

SET_PARAMETERS = text("""
    INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT t.trial_id, p.name, p.value, p.space FROM trials t,
      unnest(cast(:names AS text[]), cast(:values AS double precision[]), cast(:spaces AS text[]))
      AS p(name, value, space)
    WHERE t.trial_id = :trial_id AND t.state = 'RUNNING' FOR KEY SHARE OF t
    ON CONFLICT (trial_id, param_name) DO NOTHING
""")
"""Writes the parameters of a running trial, all at once: a reader never sees k without lr_max."""

REPORT = text("""
    INSERT INTO trial_intermediate_values
      (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, :step, :value, :type FROM trials
    WHERE trial_id = :trial_id AND state = 'RUNNING' FOR KEY SHARE
    ON CONFLICT (trial_id, step) DO UPDATE SET intermediate_value = EXCLUDED.intermediate_value,
      intermediate_value_type = EXCLUDED.intermediate_value_type
""")
"""Writes the value after an epoch while the trial runs; no row is written if it has ended, which
tells the worker that the trial is lost. Repeating it changes nothing. Like all that is written to a
trial, it waits for a deletion that is under way, and then writes nothing."""

BEAT = text("""
    WITH beaten AS (
      INSERT INTO trial_heartbeats (trial_id, heartbeat)
      SELECT trial_id, now() FROM trials WHERE trial_id = :trial_id FOR KEY SHARE
      ON CONFLICT (trial_id) DO UPDATE SET heartbeat = EXCLUDED.heartbeat
    )
    SELECT t.state = 'RUNNING' AS running, a.value_json = 'true' AS stopped FROM trials t
    LEFT JOIN studies s ON s.study_name = :first_stage
    LEFT JOIN study_user_attributes a ON a.study_id = s.study_id AND a.key = :key
    WHERE t.trial_id = :trial_id
""")
"""Writes a heartbeat, and reads whether the trial still runs and whether the user has stopped the
study: a worker needs to know both as often as it beats."""

RELEASE = text("""
    UPDATE trials t SET state = 'WAITING' FROM trial_user_attributes a
    WHERE t.trial_id = :trial_id AND t.state = 'RUNNING'
      AND a.trial_id = t.trial_id AND a.key = :key AND a.value_json = :worker
""")
"""Puts a trial back into the queue if this worker still holds it: repeated after a connection that
dropped behind the commit, it must not take the trial from its next holder."""

PAUSE = text("""
    WITH paused AS (
      UPDATE trials t SET state = 'WAITING' FROM trial_user_attributes a
      WHERE t.trial_id = :trial_id AND t.state = 'RUNNING'
        AND a.trial_id = t.trial_id AND a.key = :key AND a.value_json = :worker
      RETURNING t.trial_id, t.datetime_start
    )
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT p.trial_id, n.key, n.value_json
    FROM paused p, unnest(cast(:keys AS text[]), cast(:texts AS text[])) AS n(key, value_json)
    UNION ALL
    SELECT p.trial_id, 'trained_seconds', cast(round(cast(
        greatest(0, extract(epoch FROM cast(:now AS timestamp) - p.datetime_start))
        + coalesce((SELECT cast(s.value_json AS double precision) FROM trial_user_attributes s
            WHERE s.trial_id = p.trial_id AND s.key = 'trained_seconds'
              AND s.value_json ~ '^[0-9]{1,9}([.][0-9]*)?$'), 0) AS numeric), 3) AS text)
    FROM paused p
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
""")
"""Pauses a trial if this worker still holds it, and adds up how long it has trained. A paused trial
is a waiting one that nobody claims: its state and what says so change together."""

RESUME = text("""
    UPDATE trial_user_attributes a SET value_json = 'null' FROM trials t
    WHERE t.trial_id = ANY(:trial_ids) AND t.state = 'WAITING'
      AND a.trial_id = t.trial_id AND a.key = 'paused'
""")
"""Lets paused trials be claimed again."""

CLOSE_PAUSED = text("""
    WITH ended AS (
      UPDATE trials t SET state = 'PRUNED', datetime_complete = :now FROM trial_user_attributes a
      WHERE t.trial_id = ANY(:trial_ids) AND t.state = 'WAITING'
        AND a.trial_id = t.trial_id AND a.key = 'paused' AND a.value_json <> 'null'
      RETURNING t.trial_id
    )
    INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT ended.trial_id, 0,
      CASE cast(i.intermediate_value_type AS text) WHEN 'NAN' THEN 'NaN'
        ELSE i.intermediate_value END,
      cast(CASE cast(i.intermediate_value_type AS text) WHEN 'NAN' THEN 'FINITE'
        ELSE cast(i.intermediate_value_type AS text) END AS trialvaluetype)
    FROM ended CROSS JOIN LATERAL (
      SELECT v.intermediate_value, v.intermediate_value_type FROM trial_intermediate_values v
      WHERE v.trial_id = ended.trial_id ORDER BY v.step DESC LIMIT 1) AS i
    ON CONFLICT (trial_id, objective) DO UPDATE SET value = EXCLUDED.value,
      value_type = EXCLUDED.value_type
""")
"""Ends paused trials as pruned; by Optuna's convention the value of each is the one that it
reported last. One that has been resumed meanwhile is left alone."""

SET_USER_ATTRS = text("""
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT t.trial_id, a.key, a.value_json FROM trials t,
      unnest(cast(:keys AS text[]), cast(:texts AS text[])) AS a(key, value_json)
    WHERE t.trial_id = :trial_id AND t.state IN ('WAITING', 'RUNNING') FOR KEY SHARE OF t
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
""")
"""Sets user attributes of a trial that has not ended; what has ended does not change any more."""

FINISH = text("""
    WITH ended AS (
      UPDATE trials SET state = :state, datetime_complete = :now
      WHERE trial_id = ANY(:trial_ids) AND state IN ('WAITING', 'RUNNING') RETURNING trial_id
    ), valued AS (
      INSERT INTO trial_values (trial_id, objective, value, value_type)
      SELECT trial_id, 0, :value, :type FROM ended WHERE cast(:type AS text) IS NOT NULL
      ON CONFLICT (trial_id, objective) DO UPDATE SET value = EXCLUDED.value,
        value_type = EXCLUDED.value_type
    )
    INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT ended.trial_id, a.key, a.value_json FROM ended,
      unnest(cast(:keys AS text[]), cast(:texts AS text[])) AS a(key, value_json)
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
""")
"""Ends trials, unless others have ended or deleted them: one that was trained, or several that are
withdrawn. One statement, so that state, value and curves change together, and a trial that somebody
else has ended keeps its record."""

_EXPLAINED = """), explained AS (
      INSERT INTO trial_user_attributes (trial_id, key, value_json)
      SELECT lost.trial_id, a.key, a.value_json FROM lost,
        unnest(cast(:keys AS text[]), cast(:texts AS text[])) AS a(key, value_json)
      ON CONFLICT (trial_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
    )
    SELECT count(*) FROM lost
"""

REAP_SILENT = text(f"""
    WITH future AS (
      UPDATE trial_heartbeats h SET heartbeat = now() FROM trials t
      WHERE t.study_id = ANY({STAGE_IDS}) AND t.state = 'RUNNING' AND h.trial_id = t.trial_id
        AND h.heartbeat > now()
    ), lost AS (
      UPDATE trials t SET state = 'FAIL', datetime_complete = :now FROM trial_heartbeats h
      WHERE t.study_id = ANY({STAGE_IDS}) AND t.state = 'RUNNING' AND h.trial_id = t.trial_id
        AND greatest(h.heartbeat,
              CASE WHEN pg_postmaster_start_time() <= now() THEN pg_postmaster_start_time() END)
              < now() - make_interval(secs => :grace)
      RETURNING t.trial_id
    {_EXPLAINED}""")
"""Fails the running trials whose last heartbeat is older than the grace period, by the database's
clock. While the server was down nobody could beat: the period begins anew when it starts.

A time that lies ahead was written before the clock was set back, and says nothing. Such a start is
left out; such a heartbeat is replaced by the time at which it is seen, so that a dead worker's
trial is failed a grace period later, and not when the clock has caught up.

One statement, so that a trial which its worker puts back at this moment is not failed after
that."""

REAP_PROCESS = text(f"""
    WITH lost AS (
      UPDATE trials t SET state = 'FAIL', datetime_complete = :now FROM trial_user_attributes w
      WHERE t.study_id = ANY({STAGE_IDS}) AND t.state = 'RUNNING' AND w.trial_id = t.trial_id
        AND w.key = :worker_key AND starts_with(w.value_json, :beginning)
      RETURNING t.trial_id
    {_EXPLAINED}""")
"""Fails the running trials of a process that is known to be dead, at once and in one statement, as
:data:`REAP_SILENT` does."""
