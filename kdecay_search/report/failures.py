"""Why attempts at runs failed, with the traceback or the last output of each."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from kdecay_search.errors import KEPT_BYTES, cleaned
from kdecay_search.report.names import counted, run_name
from kdecay_search.report.summary import run_of
from kdecay_search.snapshot import StudySnapshot
from kdecay_search.storage import Storage, outputs
from kdecay_search.study.trials import State, Trial

MOST_ATTEMPTS = 100
"""Most failed attempts that are shown, the newest; each with up to :data:`KEPT_BYTES` of output."""
MOST_KINDS = 10
"""Most kinds of failure that a terminal shows; attempts that failed alike are shown once."""
RUNS_NAMED = 5
"""Most runs that are named of each kind."""


@dataclass(frozen=True)
class Failures:
    """The newest failed attempts of a study, oldest first."""

    study: str
    """The study's name."""
    total: int
    """Number of failed attempts, those included that are not shown."""
    trials: Sequence[Trial]
    """The failed attempts that are shown."""
    outputs: Mapping[int, str]
    """By trial id, the end of what each wrote, as lines of printable characters."""


def read_failures(storage: Storage, snapshot: StudySnapshot) -> Failures:
    """Read the outputs of a study's failed attempts, which a snapshot leaves out: they are long."""
    failed = [trial for trial in snapshot.attempts if trial.state == State.FAILED]
    newest = sorted(failed, key=lambda trial: trial.trial_id)[-MOST_ATTEMPTS:]
    texts = outputs.read_outputs(storage, [trial.trial_id for trial in newest])
    shown = {trial_id: cleaned(text[-KEPT_BYTES:]) for trial_id, text in texts.items()}
    return Failures(snapshot.spec.name, len(failed), newest, shown)


def as_values(failures: Failures) -> list[dict[str, Any]]:
    """The failures as ``status --errors --json`` prints them under ``errors``."""
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
    """The failures for a terminal, by kind; the newest kind comes last."""
    if not failures.total:
        return Text(f"{failures.study}: no attempt at a run has failed")
    kinds = list(_alike(failures).items())
    hidden = failures.total - sum(len(trials) for _, trials in kinds[-MOST_KINDS:])
    earlier = f"; the oldest {hidden} are not shown" if hidden else ""
    heading = f"{failures.study}: {counted(failures.total, 'failed attempt')}{earlier}"
    parts: list[RenderableType] = [Text(heading, "bold")]
    for (reason, output), trials in kinds[-MOST_KINDS:]:
        parts += [Text(f"\n{_named(trials)}", "bold"), Text(reason, "red")]
        if output:
            parts.append(Text(textwrap.indent(output, "    ")))
    return Group(*parts)


def _alike(failures: Failures) -> Mapping[tuple[str, str], list[Trial]]:
    """Trials by reason and output, in the order of the newest trial of each kind."""
    found: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in failures.trials:
        reason = f"{trial.reason}: {trial.message or 'no message'}"
        kind = reason, failures.outputs.get(trial.trial_id, "")
        found[kind] = [*found.pop(kind, []), trial]
    return found


def _named(trials: Sequence[Trial]) -> str:
    names = list(dict.fromkeys(map(run_name, trials)))
    more = f"; and {len(names) - RUNS_NAMED} more" if len(names) > RUNS_NAMED else ""
    times = f"{len(trials)} times: " if len(trials) > 1 else ""
    return times + "; ".join(names[:RUNS_NAMED]) + more
