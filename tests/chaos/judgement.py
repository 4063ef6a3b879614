"""Whether a disturbed study has the answer of the undisturbed one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdecay_search.storage import Storage, records
from tests.support.kdecay_command import errors_by_run

FINISHED = ("COMPLETE", "PRUNED")
REASONS = ("lost", "withdrawn")
"""Why a trial may fail in a study whose runs have nothing wrong with them."""

Run = tuple[tuple[float, ...], float, int]
"""(earlier ks, k, seed): what decides a run's curve."""


@dataclass(frozen=True)
class Attempt:
    """One trial, as the storage holds it."""

    run: Run
    state: str
    error: float | None
    reports: Mapping[int, float]
    """Averaged error (%) by epoch, from 1."""
    curves: Mapping[str, list[float]]
    reason: str | None
    message: str | None
    resumed_epochs: int = 0
    """Of the reports, those that an earlier trial of the run trained."""

    def __str__(self) -> str:
        earlier, k, seed = self.run
        return f"k = {(*earlier, k)}, seed {seed}"


@dataclass(frozen=True)
class Outcome:
    """``kdecay status --json`` and all trials."""

    summary: Mapping[str, Any]
    attempts: list[Attempt]

    def count(self, state: str) -> int:
        return sum(attempt.state == state for attempt in self.attempts)

    @property
    def resumed(self) -> int:
        """Trials that went on from a checkpoint."""
        return sum(attempt.resumed_epochs > 0 for attempt in self.attempts)

    @property
    def finished(self) -> dict[Run, list[Attempt]]:
        found = defaultdict(list)
        for attempt in self.attempts:
            if attempt.state in FINISHED:
                found[attempt.run].append(attempt)
        return found


def read_outcome(url: str, study: str, summary: Mapping[str, Any]) -> Outcome:
    """Read all trials of all stages."""
    storage = Storage(url)
    try:
        ids = records.stage_ids(storage, study).values()
        return Outcome(
            summary,
            [_attempt(t) for study_id in ids for t in storage.optuna.get_all_trials(study_id)],
        )
    finally:
        storage.close()


def _attempt(trial: Any) -> Attempt:
    attributes = trial.user_attrs
    k = trial.params.get(records.PARAMETER, attributes["k"])
    return Attempt(
        run=(tuple(attributes["earlier_ks"]), k, attributes["seed"]),
        state=trial.state.name,
        error=trial.value if trial.state.name == "COMPLETE" else None,
        reports=dict(trial.intermediate_values),
        curves={name: attributes[name] for name in records.CURVES if name in attributes},
        reason=attributes.get("reason"),
        message=attributes.get("message"),
        resumed_epochs=attributes.get("resumed_epochs", 0),
    )


def differences(disturbed: Outcome, undisturbed: Outcome, pruning: bool) -> list[str]:
    """Everything in which they differ and must not; empty if all is well.

    Without pruning every run is complete in both. With it, what is pruned may depend on who comes
    first; ``undisturbed`` is not pruned, and so holds the curves of all runs.
    """
    found = [*_unfinished(disturbed), *_unaccounted(disturbed, undisturbed)]
    found += _failures(disturbed)
    found += _wrong_curves(disturbed, undisturbed)
    if not pruning:
        found += _wrong_results(disturbed.summary, undisturbed.summary)
        found += [
            f"{attempt} was pruned" for attempt in disturbed.attempts if attempt.state == "PRUNED"
        ]
    return found


def _unfinished(disturbed: Outcome) -> Iterator[str]:
    if disturbed.summary["state"] != "done":
        yield f"the study is {disturbed.summary['state']}"
    for attempt in disturbed.attempts:
        if attempt.state in ("RUNNING", "WAITING"):
            yield f"{attempt} is still {attempt.state}"


def _unaccounted(disturbed: Outcome, undisturbed: Outcome) -> Iterator[str]:
    finished = {run: len(attempts) for run, attempts in disturbed.finished.items()}
    for run in undisturbed.finished.keys() - finished.keys():
        yield f"{run} is lost"
    for run in finished.keys() - undisturbed.finished.keys():
        yield f"{run} is not in the undisturbed study"
    for run, count in finished.items():
        if count > 1:
            yield f"{run} was finished {count} times"


def _failures(disturbed: Outcome) -> Iterator[str]:
    for attempt in disturbed.attempts:
        if attempt.state == "FAIL" and attempt.reason not in REASONS:
            yield f"{attempt} failed for the reason {attempt.reason}: {attempt.message}"


def _wrong_curves(disturbed: Outcome, undisturbed: Outcome) -> Iterator[str]:
    """Whatever a trial has reported, the undisturbed run has reported too, at the same epoch."""
    right = {run: attempts[0] for run, attempts in undisturbed.finished.items()}
    for attempt in disturbed.attempts:
        if attempt.run not in right:
            continue
        expected = right[attempt.run]
        for epoch, error in attempt.reports.items():
            if expected.reports.get(epoch) != error:
                yield f"{attempt}, epoch {epoch}: {error}, and {expected.reports.get(epoch)} before"
        if attempt.state == "COMPLETE":
            yield from _incomplete(attempt, expected)


def _incomplete(attempt: Attempt, expected: Attempt) -> Iterator[str]:
    if attempt.error != expected.error:
        yield f"{attempt} ended with {attempt.error}, and with {expected.error} before"
    if attempt.reports.keys() != expected.reports.keys():
        yield f"{attempt} reported the epochs {sorted(attempt.reports)}"
    if attempt.curves != expected.curves:
        yield f"{attempt} has other curves"


def _wrong_results(disturbed: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> Iterator[str]:
    if errors_by_run(dict(disturbed)) != errors_by_run(dict(undisturbed)):
        yield "the errors in status --json differ"
    for what, now, before in (
        ("the chosen ks", *(s["schedule"]["ks"] for s in (disturbed, undisturbed))),
        ("the stages' ks", *(_stage_ks(s) for s in (disturbed, undisturbed))),
        ("the gain", disturbed["gain"], undisturbed["gain"]),
    ):
        if now != before:
            yield f"{what}: {now}, and {before} before"


def _stage_ks(summary: Mapping[str, Any]) -> list[tuple[int, float, bool]]:
    return [(stage["n"], stage["k"], stage["kept"]) for stage in summary["stages"]]


def reasons(outcome: Outcome) -> Counter[str]:
    """How many trials failed, by reason."""
    return Counter(str(a.reason) for a in outcome.attempts if a.state == "FAIL")
