"""Trials and what they left behind, as they are read for decisions and for reports."""

from __future__ import annotations

from sqlalchemy import text

from kdecay_search.storage.sql.studies import LAUNCH, NOT_PAUSED, OF_TRIAL, STAGE_IDS

DIRECTION = """(SELECT d.direction FROM study_directions d
       WHERE d.study_id = t.study_id AND d.objective = 0)"""
"""MINIMIZE or MAXIMIZE: which direction of trial ``t``'s values is better."""


def value_of(value: str, kind: str) -> str:
    """A stored value as a number that may be infinite or NaN.

    Args:
        value: The column of the number, null if it is not finite.
        kind: The column that says what the number is.
    """
    return f"""CASE {kind} WHEN 'FINITE' THEN {value}
        WHEN 'INF_POS' THEN 'Infinity' WHEN 'INF_NEG' THEN '-Infinity' ELSE 'NaN' END"""


HISTORY = text(f"""
    SELECT known.count AS known, t.trial_id, t.number, t.state,
      {OF_TRIAL} IS NOT DISTINCT FROM {LAUNCH} AS is_own,
      (SELECT p.param_value FROM trial_params p
       WHERE p.trial_id = t.trial_id AND p.param_name = :parameter) AS k,
      (SELECT json_build_array(p.param_value, p.distribution_json) FROM trial_params p
       WHERE p.trial_id = t.trial_id AND p.param_name = :level) AS level,
      {DIRECTION} AS direction,
      (SELECT {value_of("v.value", "v.value_type")} FROM trial_values v
       WHERE v.trial_id = t.trial_id AND v.objective = 0) AS value,
      (SELECT count(*) FROM trial_intermediate_values i
       WHERE i.trial_id = t.trial_id) AS epochs,
      (SELECT {value_of("i.intermediate_value", "i.intermediate_value_type")}
       FROM trial_intermediate_values i
       WHERE i.trial_id = t.trial_id ORDER BY i.step DESC LIMIT 1) AS last_value,
      (SELECT array_agg(ARRAY[i.step,
         {value_of("i.intermediate_value", "i.intermediate_value_type")}] ORDER BY i.step)
       FROM trial_intermediate_values i
       WHERE i.trial_id = t.trial_id AND i.step = ANY(:looks)) AS looks,
      (SELECT json_object_agg(a.key, a.value_json) FROM trial_user_attributes a
       WHERE a.trial_id = t.trial_id AND a.key = ANY(:attributes)) AS attributes
    FROM (SELECT count(*) FROM trials
          WHERE study_id = ANY({STAGE_IDS}) AND trial_id <= :latest) AS known
    LEFT JOIN trials t ON t.study_id = ANY({STAGE_IDS})
      AND (t.trial_id = ANY(:open) OR t.trial_id > :latest)
    ORDER BY t.trial_id
""")
"""What planning asks about the trials of a study: those that a process has not seen yet (later than
``:latest``) or last saw open (``:open``), and how many there are among those that it has seen; and
whether each belongs to this launch of the study. One
statement, so that all of it is of the same moment; without any such trial it gives one row of
nulls, since the count is needed."""

CURVES = text("""
    SELECT trial_id, key, value_json FROM trial_user_attributes
    WHERE trial_id = ANY(:ids) AND key = ANY(:names)
""")
"""The curves that ended trials left in their user attributes."""

REPORTED = text("""
    SELECT trial_id, step, coalesce(intermediate_value, 'NaN') AS value
    FROM trial_intermediate_values WHERE trial_id = ANY(:ids) ORDER BY trial_id, step
""")
"""The values that trials have reported so far, epoch by epoch."""

OUTPUTS = text("""
    SELECT trial_id, value_json FROM trial_user_attributes
    WHERE trial_id = ANY(:ids) AND key = :key AND length(value_json) <= :longest
""")
"""What failed trials kept of a traceback or of a program's output; not what is too long to be
written by a worker."""


def _noted_seconds(key: str) -> str:
    """Part of a statement: what an attribute of a trial ``t`` says in seconds; null without it."""
    return f"""(
      SELECT cast(a.value_json AS double precision) FROM trial_user_attributes a
      WHERE a.trial_id = t.trial_id AND a.key = '{key}'
        AND a.value_json ~ '^[0-9]{{1,9}}([.][0-9]*)?$')"""


DURATIONS = text(f"""
    SELECT d.trial_id, greatest(0, coalesce(d.before, 0) + coalesce(d.since, 0)
      - coalesce(d.shared, 0)) AS seconds
    FROM (
      SELECT t.trial_id, {NOT_PAUSED} AS is_ended,
        {_noted_seconds("trained_seconds")} AS before, {_noted_seconds("shared_seconds")} AS shared,
        CASE WHEN t.datetime_complete > t.datetime_start AND {NOT_PAUSED}
          THEN extract(epoch FROM t.datetime_complete - t.datetime_start) END AS since
      FROM trials t WHERE t.study_id = ANY({STAGE_IDS})
    ) d
    WHERE d.since IS NOT NULL OR d.before IS NOT NULL AND NOT d.is_ended
""")
"""How long the ended and the paused trials of a study took, without the time in which they were
paused, and without that which counts for trials that were trained together with them. Of a trial
that was put back into the queue, only the time since its last claim counts."""

PROGRESS = text("""
    SELECT a.value_json AS worker,
      sum((SELECT count(*) FROM trial_intermediate_values i
           WHERE i.trial_id = a.trial_id)) AS epochs,
      count(r.trial_id) AS failures
    FROM studies s JOIN trials t USING (study_id)
    JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = :key
    LEFT JOIN trial_user_attributes r
      ON r.trial_id = a.trial_id AND r.key = 'reason' AND r.value_json = :memory
    WHERE split_part(s.study_name, '/', 1) = ANY(:study_names) AND a.value_json = ANY(:workers)
    GROUP BY a.value_json
""")
"""How many epochs each worker has reported, and how many of its trials failed for lack of memory,
in some studies. It is read once a second, so it looks at no trial of any other study."""
