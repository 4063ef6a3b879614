"""How many runs are announced before a search."""

from __future__ import annotations

from kdecay_search.search import runs_at_most
from tests.search.searches import sampler_spec, search
from tests.support.memory_studies import study


def test_announced_runs_are_those_of_a_search_that_grows_to_the_cap() -> None:
    """Stage 1: k = 1 to 8 by 0.5 with three seeds; stage 2 starts at 1.5."""
    spec = study(search={"k_min": 1.0, "k_max": 4.0, "seeds": 3, "max_terms": 2})
    assert runs_at_most(spec) == [(15, 45), (14, 42)]


def test_announced_runs_count_the_original_when_it_is_off_the_grid() -> None:
    spec = study(search=search(k_min=2.0, seeds=1, max_terms=1))
    assert runs_at_most(spec) == [(6, 6)]


def test_announced_runs_of_a_sampler_are_trials_times_seeds_per_stage() -> None:
    assert runs_at_most(sampler_spec(max_terms=2)) == [(6, 18), (6, 18)]


def test_no_stage_is_announced_beyond_the_cap() -> None:
    spec = study(search=search(k_max=2.0, k_cap=2.0, k_step=1.0, max_terms=9, seeds=1))
    assert runs_at_most(spec) == [(2, 2), (1, 1)]
