"""When a run may end early."""

from __future__ import annotations

import pytest

from kdecay_search.search.early_stopping import (
    Curve,
    is_look,
    may_stop,
    should_stop,
)
from kdecay_search.study.candidate import Candidate
from kdecay_search.study.spec import StudySpec
from kdecay_search.study.trials import RunKey, RunRequest
from tests.support.memory_studies import study, trial

KS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)


def spec(epochs: int = 12, **pruning: object) -> StudySpec:
    return study(epochs=epochs, pruning={"enabled": True, **pruning})


def curves(errors: dict[float, float], epochs: int = 6) -> list[Curve]:
    return [
        Curve(Candidate(k), [error] * epochs, protected=k == 1.0) for k, error in errors.items()
    ]


def worse(errors: dict[float, float], keep: int = 4, epochs: int = 6) -> set[float]:
    """The candidates that would be ended, each asked as if it had just come to this epoch."""
    seen = curves(errors, epochs)
    asked = spec(keep_at_least=keep)
    return {c.point.k for c in seen if not c.protected and should_stop(asked, c, seen, len(KS) - 1)}


def test_the_worse_side_of_a_slope_ends_and_the_better_side_goes_on() -> None:
    rising = {k: 10.0 + k for k in KS}
    assert worse(rising) == {3.5, 4.0, 4.5, 5.0}
    assert worse({k: 10.0 - k for k in KS}) == {1.5, 2.0, 2.5, 3.0}


def test_as_many_as_stated_go_on_even_in_a_small_grid() -> None:
    asked = spec(keep_at_least=4)
    seen = curves({1.0: 9.0, 2.0: 8.0, 3.0: 7.0, 4.0: 20.0, 5.0: 30.0})
    assert not any(should_stop(asked, curve, seen, candidates=4) for curve in seen)


def test_fewer_go_on_the_later_it_is() -> None:
    rising = {k: 10.0 + k for k in KS}
    ended = [len(worse(rising, keep=1, epochs=epochs)) for epochs in (4, 6, 9)]
    assert ended == sorted(ended)
    assert ended[0] < ended[-1]


def test_nobody_ends_once_only_so_many_are_left() -> None:
    asked = spec(keep_at_least=4)
    seen = curves({k: 10.0 + k for k in KS})
    lost = {Candidate(k) for k in (1.5, 2.0, 2.5, 3.0)}
    gone = [Curve(c.point, c.averaged[:4], pruned=True) for c in seen if c.point in lost]
    left = [c for c in seen if c.point not in lost]
    assert not any(should_stop(asked, curve, [*gone, *left], 8) for curve in left)


def test_a_bad_epoch_of_one_candidate_is_weighed_with_its_neighbours() -> None:
    dip = {k: 10.0 + abs(k - 3.0) for k in KS}
    alone = sorted(dip, key=dip.__getitem__).index(3.5)
    noisy = {**dip, 3.0: 10.9}
    assert alone < 4
    assert 3.0 not in worse(noisy)


def test_a_good_candidate_among_bad_neighbours_goes_on() -> None:
    """An end of the grid has neighbours on one side only, and the smooth curve may be wrong."""
    rising = {k: 10.0 + k for k in KS}
    assert 5.0 in worse(rising)
    assert 5.0 not in worse({**rising, 5.0: 11.8})


def test_the_first_runs_have_nobody_to_be_compared_with() -> None:
    assert not should_stop(
        spec(), Curve(Candidate(5.0), [50.0] * 6), curves({1.0: 9.0, 5.0: 50.0}), 8
    )


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 12, 30, 200])
def test_looks_lie_between_the_first_share_and_the_end(epochs: int) -> None:
    asked = spec(epochs)
    looks = [epoch for epoch in range(1, epochs + 1) if is_look(asked, epoch)]
    assert len(looks) <= asked.pruning.looks
    assert all(asked.pruning.first_share * epochs - 1e-9 <= look < epochs for look in looks)
    assert bool(looks) == (epochs > 1)
    assert not any(is_look(spec(epochs, enabled=False), look) for look in looks)


def test_only_unprotected_runs_of_the_first_seed_are_ever_asked_about() -> None:
    asked = spec()
    first = trial(0, 2.0).request
    assert may_stop(asked, first, 6)
    assert not may_stop(asked, first, 1)
    assert not may_stop(asked, first, 12)
    assert not may_stop(spec(enabled=False), first, 6)
    assert not may_stop(asked, RunRequest(first.key, (), 1.0, (1.0, 5.0), protected=True), 6)
    assert not may_stop(asked, RunRequest(RunKey(1, 0, 1), (), 2.0, (1.0, 5.0)), 6)


def test_who_is_left_out_or_yet_to_come_counts_among_those_that_the_better_share_is_of() -> None:
    """Half of eight go on after half of the training, half of ten, not of the eight seen so far."""
    asked, seen = spec(keep_at_least=4), curves({k: 10.0 + k for k in KS})
    fifth = next(curve for curve in seen if curve.point.k == 3.5)
    assert should_stop(asked, fifth, seen, candidates=8)
    assert not should_stop(asked, fifth, seen, candidates=10)
