"""Comparison of a disturbed study with the same study undisturbed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdecay_search.storage import Storage, records
from kdecay_search.storage.attributes import CURVES, LAUNCH, TRAINED_SECONDS, K
from tests.chaos.black_hole import MACHINE, MESSAGE
from tests.support.kdecay_command import errors_by_run

FINISHED = ("COMPLETE", "PRUNED")
"""States of a trial that has finished its run."""
REASONS = ("lost", "withdrawn")
"""Reasons for which a trial may fail although nothing is wrong with its run."""
MAX_BLACK_HOLE_FAILURES = 12
"""Most runs that a black hole may fail: it pauses for 1, 2, 4, … seconds after each."""

Run = tuple[tuple[float, ...], float, int]
"""(earlier ks, k, seed), which determine a run's curve."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as the storage holds it."""

    run: Run
    """The run that the trial is an attempt at."""
    state: str
    """The name of Optuna's state."""
    error: float | None
    """Validation error (%) of a complete trial; else None."""
    reports: Mapping[int, float]
    """Averaged error (%) by epoch, from 1."""
    curves: Mapping[str, list[float]]
    """The curves stored with the trial, by name: one value for each epoch."""
    reason: str | None
    """Why the trial failed; None if it did not."""
    message: str | None
    """Text stored with a failed trial."""
    resumed_epochs: int = 0
    """How many of the reported epochs an earlier trial of the run has trained."""
    worker: str = ""
    """Name of the worker that held the trial last."""
    was_paused: bool = False
    """Whether the trial has been paused."""

    @property
    def is_of_black_hole(self) -> bool:
        """Whether the trial was failed by a black hole."""
        return self.worker.startswith(f"{MACHINE}:") and MESSAGE in (self.message or "")

    def __str__(self) -> str:
        earlier, k, seed = self.run
        return f"k = {(*earlier, k)}, seed {seed}"


@dataclass(frozen=True)
class Outcome:
    """How a study ended."""

    summary: Mapping[str, Any]
    """The output of ``kdecay status --json``."""
    trials: list[TrialRecord]
    """All trials of all stages."""
    launches: frozenset[str | None] = frozenset((None,))
    """Ids of the launches that have made the stages and the trials."""

    def count(self, state: str) -> int:
        """Count the trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def paused(self) -> int:
        """How many trials have been paused."""
        return sum(trial.was_paused for trial in self.trials)

    @property
    def resumed(self) -> int:
        """How many trials resumed from a checkpoint."""
        return sum(trial.resumed_epochs > 0 for trial in self.trials)

    @property
    def finished(self) -> dict[Run, list[TrialRecord]]:
        """The trials that finished, by run."""
        found = defaultdict(list)
        for trial in self.trials:
            if trial.state in FINISHED:
                found[trial.run].append(trial)
        return found


def read_outcome(url: str, study: str, summary: Mapping[str, Any]) -> Outcome:
    """Read all trials of a study; ``summary`` is its ``kdecay status --json``."""
    storage = Storage(url)
    try:
        stages = records.read_stages(storage, study).values()
        trials = [t for s in stages for t in storage.optuna.get_all_trials(s.study_id)]
        launches = {stage.attributes.get(LAUNCH) for stage in stages}
        launches |= {trial.user_attrs.get(LAUNCH) for trial in trials}
        return Outcome(summary, [_trial_record(trial) for trial in trials], frozenset(launches))
    finally:
        storage.close()


def _trial_record(trial: Any) -> TrialRecord:
    attributes = trial.user_attrs
    k = trial.params.get(K, attributes["k"])
    return TrialRecord(
        run=(tuple(attributes["earlier_ks"]), k, attributes["seed"]),
        state=trial.state.name,
        error=trial.value if trial.state.name == "COMPLETE" else None,
        reports=dict(trial.intermediate_values),
        curves={name: attributes[name] for name in CURVES if name in attributes},
        reason=attributes.get("reason"),
        message=attributes.get("message"),
        resumed_epochs=attributes.get("resumed_epochs", 0),
        worker=attributes.get("worker", ""),
        was_paused=TRAINED_SECONDS in attributes,
    )


def differences(disturbed: Outcome, undisturbed: Outcome, pruning: bool) -> list[str]:
    """Describe all differences that must not be; the list is empty if all is well.

    Without pruning, every run is complete in both studies. With pruning, which runs are paused, and
    which of them end as pruned, may depend on which worker is first; ``undisturbed`` is never
    pruned, so it holds all curves. The answer must be the same.
    """
    found = [*_unfinished(disturbed), *_wrong_runs(disturbed, undisturbed)]
    found += _failures(disturbed)
    found += _wrong_curves(disturbed, undisturbed)
    found += _wrong_answer(disturbed.summary, undisturbed.summary)
    if not pruning:
        found += _wrong_results(disturbed.summary, undisturbed.summary)
        found += [f"{trial} was pruned" for trial in disturbed.trials if trial.state == "PRUNED"]
    return found


def _unfinished(disturbed: Outcome) -> Iterator[str]:
    if disturbed.summary["state"] != "done":
        yield f"the study is {disturbed.summary['state']}"
    for trial in disturbed.trials:
        if trial.state in ("RUNNING", "WAITING"):
            yield f"{trial} is still {trial.state}"
    if len(disturbed.launches) != 1:
        yield f"its records are of {len(disturbed.launches)} launches"


def _wrong_runs(disturbed: Outcome, undisturbed: Outcome) -> Iterator[str]:
    finished = {run: len(trials) for run, trials in disturbed.finished.items()}
    for run in undisturbed.finished.keys() - finished.keys():
        yield f"{run} is lost"
    for run in finished.keys() - undisturbed.finished.keys():
        yield f"{run} is not in the undisturbed study"
    for run, count in finished.items():
        if count > 1:
            yield f"{run} was finished {count} times"


def _failures(disturbed: Outcome) -> Iterator[str]:
    by_black_hole = sum(trial.is_of_black_hole for trial in disturbed.trials)
    if by_black_hole > MAX_BLACK_HOLE_FAILURES:
        yield f"a black hole has failed {by_black_hole} runs"
    for trial in disturbed.trials:
        is_expected = trial.reason in REASONS or trial.is_of_black_hole
        if trial.state == "FAIL" and not is_expected:
            yield f"{trial} failed for the reason {trial.reason}: {trial.message}"


def _wrong_curves(disturbed: Outcome, undisturbed: Outcome) -> Iterator[str]:
    """Reports of any trial that differ from the undisturbed run's at the same epoch."""
    expected_trials = {run: trials[0] for run, trials in undisturbed.finished.items()}
    for trial in disturbed.trials:
        if trial.run not in expected_trials:
            continue
        expected = expected_trials[trial.run]
        for epoch, error in trial.reports.items():
            if expected.reports.get(epoch) != error:
                yield f"{trial}, epoch {epoch}: {error}, and {expected.reports.get(epoch)} before"
        if trial.state == "COMPLETE":
            yield from _wrong_end(trial, expected)


def _wrong_end(trial: TrialRecord, expected: TrialRecord) -> Iterator[str]:
    if trial.error != expected.error:
        yield f"{trial} ended with {trial.error}, and with {expected.error} before"
    if trial.reports.keys() != expected.reports.keys():
        yield f"{trial} reported the epochs {sorted(trial.reports)}"
    if trial.curves != expected.curves:
        yield f"{trial} has other curves"


def _wrong_answer(disturbed: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> Iterator[str]:
    now, before = (s["schedule"]["ks"] for s in (disturbed, undisturbed))
    if now != before:
        yield f"the chosen ks: {now}, and {before} before"


def _wrong_results(disturbed: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> Iterator[str]:
    if errors_by_run(dict(disturbed)) != errors_by_run(dict(undisturbed)):
        yield "the errors in status --json differ"
    for what, now, before in (
        ("the stages' ks", *(_stage_ks(s) for s in (disturbed, undisturbed))),
        ("the gain", disturbed["gain"], undisturbed["gain"]),
    ):
        if now != before:
            yield f"{what}: {now}, and {before} before"


def _stage_ks(summary: Mapping[str, Any]) -> list[tuple[int, float, bool]]:
    return [(stage["n"], stage["k"], stage["kept"]) for stage in summary["stages"]]


def reasons(outcome: Outcome) -> Counter[str]:
    """How many trials failed, by reason."""
    return Counter(
        "by the black hole" if trial.is_of_black_hole else str(trial.reason)
        for trial in outcome.trials
        if trial.state == "FAIL"
    )
