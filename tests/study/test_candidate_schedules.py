"""The schedule of a candidate whose floor is a share of its level."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.study.candidate import Candidate
from tests.support.joint_studies import joint_spec


def floor(lr_max: float, share: float) -> float:
    point = Candidate(1.0, lr_max, "polynomial", power=1.0, lr_min=share)
    return joint_spec().candidate_schedule(point).lr_min


def test_a_floor_shows_no_rounding_error() -> None:
    assert 0.1 * 0.05 == 0.005000000000000001
    assert floor(0.1, 0.05) == 0.005


@given(lr_max=st.floats(1e-12, 1e7), share=st.floats(0, 1))
def test_a_floor_is_its_share_and_never_above_the_level(lr_max: float, share: float) -> None:
    assert floor(lr_max, share) == pytest.approx(lr_max * share, rel=1e-11, abs=0)
    assert floor(lr_max, share) <= lr_max
