"""Why attempts at runs failed, with the traceback or the last words of each."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from kdecay_search.errors import KEPT_BYTES, cleaned
from kdecay_search.report.summary import run_of
from kdecay_search.report.text import counted, run_name
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage, outputs
from kdecay_search.study.trials import State, Trial

MOST_ATTEMPTS = 100
"""The newest; of each up to :data:`KEPT_BYTES` are kept."""
MOST_KINDS = 10
"""Of failures that a terminal is shown; those that failed alike are shown once."""
RUNS_NAMED = 5


@dataclass(frozen=True)
class Failures:
    """The newest failed attempts of a study, oldest first."""

    study: str
    total: int
    trials: Sequence[Trial]
    outputs: Mapping[int, str]
    """By trial: lines of printable characters."""


def read_failures(storage: Storage, snapshot: StudySnapshot) -> Failures:
    """Of a study that was read; the outputs are read only here, since they are long."""
    failed = [trial for trial in snapshot.attempts if trial.state == State.FAILED]
    newest = sorted(failed, key=lambda trial: trial.trial_id)[-MOST_ATTEMPTS:]
    said = outputs.read_outputs(storage, [trial.trial_id for trial in newest])
    shown = {trial_id: cleaned(text[-KEPT_BYTES:]) for trial_id, text in said.items()}
    return Failures(snapshot.spec.name, len(failed), newest, shown)


def as_values(failures: Failures) -> list[dict[str, Any]]:
    """What ``status --errors --json`` has under ``errors``."""
    return [
        {
            "trial": trial.number,
            **run_of(trial),
            "reason": trial.reason,
            "message": trial.message,
            "worker": trial.worker,
            "output": failures.outputs.get(trial.trial_id),
        }
        for trial in failures.trials
    ]


def as_text(failures: Failures) -> RenderableType:
    """What a terminal is shown: the newest kind of failure last."""
    if not failures.total:
        return Text(f"{failures.study}: no attempt at a run has failed")
    kinds = list(_alike(failures).items())
    hidden = failures.total - sum(len(trials) for _, trials in kinds[-MOST_KINDS:])
    earlier = f"; {hidden} of them, which are older, are not shown" if hidden else ""
    heading = f"{failures.study}: {counted(failures.total, 'failed attempt')}{earlier}"
    parts: list[RenderableType] = [Text(heading, "bold")]
    for (reason, output), trials in kinds[-MOST_KINDS:]:
        parts += [Text(f"\n{_named(trials)}", "bold"), Text(reason, "red")]
        if output:
            parts.append(Text(textwrap.indent(output, "    ")))
    return Group(*parts)


def _alike(failures: Failures) -> Mapping[tuple[str, str], list[Trial]]:
    """Trials by what they said, in the order of the last that said so."""
    found: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in failures.trials:
        reason = f"{trial.reason}: {trial.message or 'no word'}"
        kind = reason, failures.outputs.get(trial.trial_id, "")
        found[kind] = [*found.pop(kind, []), trial]
    return found


def _named(trials: Sequence[Trial]) -> str:
    names = list(dict.fromkeys(map(run_name, trials)))
    more = f"; and {len(names) - RUNS_NAMED} more" if len(names) > RUNS_NAMED else ""
    times = f"{len(trials)} times: " if len(trials) > 1 else ""
    return times + "; ".join(names[:RUNS_NAMED]) + more
