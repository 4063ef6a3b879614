"""What a worker reads of a stage before it decides whether to prune its trial."""

from __future__ import annotations

import math

import pytest

from kdecay_search.search.early_stopping import FIRST_SEED
from kdecay_search.storage import Storage, queue
from kdecay_search.storage.parameters import distributions
from kdecay_search.storage.queue import Claim
from kdecay_search.storage.seed_trials import read_seed
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RAW_ONLY, RunKey, RunRequest
from kdecay_search.worker.trial import ClaimedTrial, should_prune
from tests.support.memory_studies import study
from tests.support.queued_runs import queued

ERRORS = {1.0: 30.0, **{k: 10.0 + k for k in (2.0, 3.0, 4.0, 5.0, 6.0)}, 9.0: 40.0}
"""Averaged error (%) by k: of the protected k = 1, of five that are alike, and of a bad one."""


def spec(name: str) -> StudySpec:
    return study(name, epochs=12, pruning={"enabled": True, "keep_at_least": 4})


def claimed(storage: Storage, name: str) -> Claim:
    claim = queue.claim(storage, name, "me")
    assert claim is not None
    return claim


def reporting(storage: Storage, name: str) -> tuple[int, list[Claim]]:
    """A running trial for each of :data:`ERRORS`, after 6 epochs, without Optuna parameters."""
    requests = [
        RunRequest(RunKey(1, index, FIRST_SEED), (), k, (1.0, 9.0), protected=k == 1.0)
        for index, k in enumerate(ERRORS)
    ]
    study_id = queued(storage, name, requests)
    claims = [claimed(storage, name) for _ in requests]
    for claim in claims:
        for step in range(1, 7):
            assert claim.request.k is not None
            assert queue.report(storage, claim, step, ERRORS[claim.request.k])
    return study_id, claims


def test_a_run_without_parameters_yet_is_judged_by_its_request(storage: Storage) -> None:
    """A run that has just begun may have reports before it has parameters. That once cost the run
    that was asking."""
    study_id, claims = reporting(storage, "no-parameters")
    assert not storage.optuna.get_trial(claims[-1].trial_id).params
    trials = read_seed(storage, study_id, FIRST_SEED)
    assert [trial.candidate for trial in trials] == [Candidate(k) for k in ERRORS]
    asked = spec("no-parameters")
    assert should_prune(asked, trials[-1], trials)
    assert not should_prune(asked, trials[1], trials)


def test_only_unprotected_averaged_curves_are_judged_and_only_when_a_decision_is_due(
    storage: Storage,
) -> None:
    study_id, claims = reporting(storage, "conditions")
    asked = spec("conditions")
    before = read_seed(storage, study_id, FIRST_SEED)
    assert not should_prune(asked, before[0], before)
    queue.note(storage, claims[-1].trial_id, {RAW_ONLY: True})
    trials = read_seed(storage, study_id, FIRST_SEED)
    assert [trial.is_raw for trial in trials] == [False] * 6 + [True]
    assert not should_prune(asked, trials[-1], trials)
    for step in range(7, 12):
        queue.report(storage, claims[-1], step, 40.0)
    later = read_seed(storage, study_id, FIRST_SEED)[-1]
    assert len(later.errors) == 11
    assert not should_prune(asked, later, before)


def test_failed_trials_are_left_out_and_pruned_ones_are_marked(storage: Storage) -> None:
    study_id, claims = reporting(storage, "ended")
    queue.fail(storage, claims[1].trial_id, "lost", None)
    queue.prune(storage, claims[2].trial_id, 13.0)
    trials = read_seed(storage, study_id, FIRST_SEED)
    assert [trial.trial_id for trial in trials] == [
        claim.trial_id for claim in claims if claim is not claims[1]
    ]
    assert [trial.is_pruned for trial in trials] == [False, True, False, False, False, False]


def test_a_trial_that_others_failed_after_its_report_is_lost(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdecay_search.tasks.protocol import Epoch, Lost

    _, claims = reporting(storage, "reaped")
    trial = ClaimedTrial(storage, spec("reaped"), claims[-1])

    def report_and_lose(*_: object) -> bool:
        queue.fail(storage, claims[-1].trial_id, "lost", None)
        return True

    monkeypatch.setattr(queue, "report", report_and_lose)
    assert trial.report(Epoch(6, 1.0, 41.0, 40.0)) is Lost


def test_a_sampled_level_and_infinite_errors_are_read_as_they_were_written(
    storage: Storage,
) -> None:
    request = RunRequest(RunKey(1, 0, FIRST_SEED), (), 2.0, (1.0, 5.0), levels=(0.05, 0.1, 0.2))
    study_id = queued(storage, "sampled-level", [request])
    claim = claimed(storage, "sampled-level")
    spaces = distributions(request)
    queue.give_parameters(storage, claim.trial_id, {"k": 2.5, "lr_max": 0.2}, spaces)
    for step, value in enumerate((9.0, math.inf, math.nan), start=1):
        queue.report(storage, claim, step, value)
    (trial,) = read_seed(storage, study_id, FIRST_SEED)
    assert trial.candidate == Candidate(2.5, 0.2)
    assert trial.request == request
    assert trial.errors == [9.0, math.inf, math.inf]
