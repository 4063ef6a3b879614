"""Studies, their stages and the user attributes of those."""

from __future__ import annotations

from sqlalchemy import text

STAGE_IDS = """ARRAY(
      SELECT study_id FROM studies
      WHERE starts_with(study_name, :prefix)
        AND substr(study_name, length(:prefix) + 1) ~ '^(k[1-9][0-9]*|confirm)$')"""
"""Part of a statement: Optuna's ids of a study's stages. An array, because a comparison with an
array that is computed once lets Postgres use the index on ``trials.study_id``."""

STUDY_NAMES = text("""
    SELECT s.study_name FROM studies s JOIN study_user_attributes a USING (study_id)
    WHERE s.study_name ~ :pattern AND a.key = :spec
    ORDER BY s.study_id
""")
"""Names of the first stages of all studies, oldest first. A study has its spec among the user
attributes of its first stage."""

READ_STUDY = text(f"""
    SELECT s.study_id, substr(s.study_name, length(:prefix) + 1) AS stage,
      (SELECT json_object_agg(a.key, a.value_json) FROM study_user_attributes a
       WHERE a.study_id = s.study_id) AS attributes
    FROM studies s WHERE s.study_id = ANY({STAGE_IDS})
""")
"""The stages of a study with their user attributes. One statement, so that the spec, the list of
stages and what is noted about them belong to the same moment."""

COUNT_TRIALS = text(f"""
    SELECT count(DISTINCT s.study_id) AS stages, count(t.trial_id) AS trials
    FROM studies s LEFT JOIN trials t USING (study_id) WHERE s.study_id = ANY({STAGE_IDS})
""")
"""How many stages a study has, and how many trials in all of them."""

WRITE_ATTRIBUTES = text("""
    INSERT INTO study_user_attributes (study_id, key, value_json)
    SELECT s.study_id, w.key, w.value_json
    FROM unnest(cast(:study_ids AS integer[]), cast(:keys AS text[]), cast(:texts AS text[]))
      AS w(study_id, key, value_json)
    JOIN studies s USING (study_id)
    ON CONFLICT (study_id, key) DO UPDATE SET value_json = EXCLUDED.value_json
""")
"""Sets user attributes of several stages at once, of those that still exist. Optuna's own function
takes four statements for each attribute."""
