"""Studies, their stages and the user attributes of those."""

from __future__ import annotations

from sqlalchemy import text

MAX_STAGES = 16
"""Largest number of a stage: studies have at most so many terms."""
_NAMES = ", ".join(f":prefix || '{stage}'" for stage in (
    "confirm", *(f"k{number}" for number in range(1, MAX_STAGES + 1))
))  # fmt: skip
STAGE_IDS = f"""ARRAY(SELECT study_id FROM studies WHERE study_name IN ({_NAMES}))"""
"""Part of a statement: Optuna's ids of a study's stages. By their names, and not by what these
begin with, so that Postgres uses the index on names: a statement costs the same however many other
studies there are. An array, because a comparison with an array that is computed once lets Postgres
use the index on ``trials.study_id``."""

LAUNCH = """(
      SELECT l.value_json FROM studies f JOIN study_user_attributes l USING (study_id)
      WHERE f.study_name = :prefix || 'k1' AND l.key = 'kdecay_launch')"""
"""Part of a statement: the id of the launch that made a study, from its first stage."""

OF_TRIAL = """(
      SELECT l.value_json FROM trial_user_attributes l
      WHERE l.trial_id = t.trial_id AND l.key = 'kdecay_launch')"""
"""Part of a statement: the id of the launch that a trial ``t`` belongs to. A study of a version
before there were such ids has none, and neither have its trials."""

NOT_PAUSED = """NOT EXISTS (
      SELECT FROM trial_user_attributes p
      WHERE p.trial_id = t.trial_id AND p.key = 'paused' AND p.value_json <> 'null')"""
"""Part of a statement: whether a waiting trial ``t`` may be claimed, and is not paused."""

STUDY_NAMES = text("""
    SELECT s.study_name FROM studies s JOIN study_user_attributes a USING (study_id)
    WHERE s.study_name ~ :pattern AND a.key = :spec
    ORDER BY s.study_id
""")
"""Names of the first stages of all studies, oldest first. A study has its spec among the user
attributes of its first stage."""

ACTIVE_STUDIES = text("""
    SELECT s.study_name FROM (
      SELECT split_part(study_name, '/', 1) AS name, count(*) AS stages FROM studies
      WHERE study_name ~ :stage_pattern GROUP BY name
    ) counted JOIN studies s ON s.study_name = counted.name || '/k1'
    JOIN study_user_attributes a ON a.study_id = s.study_id AND a.key = :spec
    LEFT JOIN study_user_attributes e ON e.study_id = s.study_id AND e.key = :ended_key
    WHERE e.value_json IS DISTINCT FROM cast(counted.stages AS text)
    ORDER BY s.study_id
""")
"""Names of the first stages of the studies that may want work, oldest first. One that has ended
has the number of its stages noted; if another number is there now, somebody has deleted one."""

WAITING_STUDIES = text(f"""
    SELECT DISTINCT split_part(s.study_name, '/', 1) AS name FROM studies s
    WHERE split_part(s.study_name, '/', 1) = ANY(:study_names) AND s.study_name ~ :stage_pattern
      AND EXISTS (SELECT FROM trials t WHERE t.study_id = s.study_id AND t.state = 'WAITING'
        AND {NOT_PAUSED})
""")
"""Which of several studies have waiting trials that are not paused."""

OVERVIEWS = text("""
    SELECT s.study_name, e.study_id AS ended_id, o.value_json AS overview FROM (
      SELECT split_part(study_name, '/', 1) AS name, count(*) AS stages FROM studies
      WHERE study_name ~ :stage_pattern GROUP BY name
    ) counted JOIN studies s ON s.study_name = counted.name || '/k1'
    JOIN study_user_attributes a ON a.study_id = s.study_id AND a.key = :spec
    LEFT JOIN study_user_attributes e ON e.study_id = s.study_id AND e.key = :ended_key
      AND e.value_json = cast(counted.stages AS text)
    LEFT JOIN study_user_attributes o ON o.study_id = e.study_id AND o.key = :overview_key
    ORDER BY s.study_id
""")
"""The first stages of all studies, oldest first, with what is noted about those that have ended."""

READ_STUDY = text(f"""
    SELECT s.study_id, substr(s.study_name, length(:prefix) + 1) AS stage,
      (SELECT json_object_agg(a.key, a.value_json) FROM study_user_attributes a
       WHERE a.study_id = s.study_id AND a.key IS NOT NULL) AS attributes
    FROM studies s WHERE s.study_id = ANY({STAGE_IDS})
""")
"""The stages of a study with their user attributes. One statement, so that the spec, the list of
stages and what is noted about them belong to the same moment."""

COUNT_TRIALS = text(f"""
    SELECT count(DISTINCT s.study_id) AS stages, count(t.trial_id) AS trials
    FROM studies s LEFT JOIN trials t USING (study_id) WHERE s.study_id = ANY({STAGE_IDS})
""")
"""How many stages a study has, and how many trials in all of them."""

CREATE_STAGE = text("""
    WITH made AS (
      INSERT INTO studies (study_name) SELECT :stage_name
      ON CONFLICT (study_name) DO NOTHING RETURNING study_id
    ), directed AS (
      INSERT INTO study_directions (study_id, objective, direction)
      SELECT study_id, 0, cast(:direction AS studydirection) FROM made
    ), described AS (
      INSERT INTO study_user_attributes (study_id, key, value_json)
      SELECT made.study_id, a.key, a.value_json FROM made,
        unnest(cast(:keys AS text[]), cast(:texts AS text[])) AS a(key, value_json)
    )
    SELECT study_id FROM made
""")
"""Creates a stage with its direction and user attributes; gives no row if its name is taken. One
statement, so that no stage is ever seen without the id of its launch."""

WRITE_ATTRIBUTES = text("""
    INSERT INTO study_user_attributes (study_id, key, value_json)
    SELECT s.study_id, w.key, w.value_json
    FROM unnest(cast(:study_ids AS integer[]), cast(:keys AS text[]), cast(:texts AS text[]))
      AS w(study_id, key, value_json)
    JOIN studies s USING (study_id) FOR KEY SHARE OF s
    ON CONFLICT (study_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
""")
"""Sets user attributes of several stages at once, of those that still exist. Optuna's own function
takes four statements for each attribute. It waits for a deletion that is under way: an attribute
of a study that is gone would be an error."""

OWN_STAGES = text(f"""
    SELECT s.study_id, s.study_name,
      (SELECT json_object_agg(a.key, a.value_json) FROM study_user_attributes a
       WHERE a.study_id = s.study_id AND a.key = ANY(:marks)) AS attributes,
      EXISTS (SELECT FROM trials t JOIN trial_user_attributes r USING (trial_id)
       WHERE t.study_id = s.study_id AND r.key = :request) AS has_runs
    FROM studies s WHERE s.study_id = ANY({STAGE_IDS}) ORDER BY s.study_id
""")
"""What tells whether the stages that have a study's names are this program's: their user attributes
of the names ``:marks``, and whether a trial of theirs carries a request."""

LOCK_STAGES = text("SELECT FROM studies WHERE study_id = ANY(:study_ids) FOR UPDATE")
"""Locks stages for the rest of the transaction: no trial and no attribute is added to them. Those
whose writing has begun are waited for."""

LOCK_TRIALS = text("""
    SELECT state FROM trials WHERE study_id = ANY(:study_ids) ORDER BY trial_id FOR UPDATE
""")
"""Locks the trials of stages, as :data:`LOCK_STAGES` does, and tells their states."""

_TRIAL_TABLES = (
    "trial_user_attributes",
    "trial_system_attributes",
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_heartbeats",
)
_STUDY_TABLES = (
    "trials",
    "study_directions",
    "study_user_attributes",
    "study_system_attributes",
    "studies",
)

DELETE_STAGES = (
    *(
        text(f"""
            DELETE FROM {table} WHERE trial_id IN
              (SELECT trial_id FROM trials WHERE study_id = ANY(:study_ids))
        """)
        for table in _TRIAL_TABLES
    ),
    *(text(f"DELETE FROM {table} WHERE study_id = ANY(:study_ids)") for table in _STUDY_TABLES),
)
"""Delete stages with everything that belongs to them, the rows that others refer to last. Optuna's
own function swallows the error of a row that is added meanwhile, and then deletes nothing."""
