from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdecay_search.training.data.sampling import balanced_subset, stratified_split

label_lists = st.lists(st.integers(0, 6), min_size=1, max_size=300).map(
    lambda labels: np.array(labels, dtype=np.int64)
)
seeds = st.integers(0, 2**32 - 1)


@given(label_lists, st.floats(0.001, 0.999), seeds)
def test_a_split_has_every_image_on_one_side(labels: np.ndarray, share: float, seed: int) -> None:
    rest, part = stratified_split(labels, share, seed)
    assert sorted([*rest, *part]) == list(range(len(labels)))
    assert len(part) == round(share * len(labels))


@given(label_lists, st.floats(0.001, 0.999), seeds)
def test_a_split_takes_the_same_share_of_every_class(
    labels: np.ndarray, share: float, seed: int
) -> None:
    _, part = stratified_split(labels, share, seed)
    for label in np.unique(labels):
        wanted = share * np.sum(labels == label)
        assert abs(np.sum(labels[part] == label) - wanted) <= 1 + 1e-9


@given(label_lists, st.data(), seeds)
def test_a_subset_is_balanced_over_the_classes(
    labels: np.ndarray, data: st.DataObject, seed: int
) -> None:
    size = data.draw(st.integers(1, len(labels)))
    chosen = balanced_subset(labels, size, seed)
    assert len(chosen) == len(set(chosen)) == size
    counts = {label: np.sum(labels[chosen] == label) for label in np.unique(labels)}
    for label, count in counts.items():
        assert count >= max(counts.values()) - 1 or count == np.sum(labels == label)


def test_another_seed_draws_other_images() -> None:
    labels = np.arange(200) % 10
    assert not np.array_equal(balanced_subset(labels, 50, 0), balanced_subset(labels, 50, 1))
    assert not np.array_equal(
        stratified_split(labels, 0.5, 0)[1], stratified_split(labels, 0.5, 1)[1]
    )


def test_samples_are_the_same_on_every_machine() -> None:
    """Recorded once: a machine that differs would train a study on other images."""
    labels = np.arange(20) % 2
    assert balanced_subset(labels, 4, 7).tolist() == SUBSET
    assert stratified_split(labels, 0.2, 7)[1].tolist() == PART


SUBSET = [1, 6, 8, 13]
PART = [0, 5, 16, 17]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_subset_may_be_smaller_than_the_number_of_classes(size: int) -> None:
    assert len(balanced_subset(np.arange(10), size, 0)) == size
