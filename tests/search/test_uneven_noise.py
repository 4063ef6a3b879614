"""Noise that differs between candidates: the statement of a gain is robust to it."""

from __future__ import annotations

import numpy as np

from kdecay_search.search.results import Results
from kdecay_search.search.selection import Gain
from kdecay_search.study.candidate import Candidate


def test_the_interval_of_a_gain_is_wider_where_the_compared_runs_are_noisier() -> None:
    random = np.random.default_rng(3)
    noise = random.normal(0, 0.1, (7, 3))
    ks = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    even = {Candidate(k): dict(enumerate(8 + row)) for k, row in zip(ks, noise, strict=True)}
    uneven = even | {Candidate(1.0): dict(enumerate(8 + 5 * noise[0]))}
    for errors, least, most in ((even, 1.0, 1.1), (uneven, 1.3, 2.0)):
        results = Results.by_seed([(Candidate(1.0), {}), *errors.items()])
        ratio = results.uneven_noise([Candidate(1.0), Candidate(3.0)])
        assert least <= ratio <= most
        assert results.uneven_noise([Candidate(2.0), Candidate(3.0)]) <= ratio
    exact = Results.of((point, seed, 8.0) for point in even for seed in range(3))
    assert exact.uneven_noise(even) == 1.0
    alone = Results.of((point, 0, point.k) for point in even)
    assert alone.uneven_noise(even) == 1.0


def test_a_wider_gain_keeps_its_mean() -> None:
    gain = Gain(1.0, (0.5, 2.0), 0.99).widened(2.0)
    assert (gain.mean, gain.interval, gain.is_sure) == (1.0, (0.0, 3.0), False)
