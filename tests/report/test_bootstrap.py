"""Resampling against closed forms, against scipy, and its two ways of drawing against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from viscot_core.report.bootstrap import mean_interval, paired_test, resampled_means


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("values", [np.repeat([0.0, 1.0], [300, 700]), np.random.default_rng(1).random(1000)])
def test_the_interval_is_the_normal_one_for_many_items(values: np.ndarray) -> None:
    low, high = mean_interval(resampled_means(values, rng(), 20_000))
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_counting_and_drawing_give_the_same_distribution() -> None:
    """100 values on 9 levels are drawn item by item, 200 of them by counting; the spread must scale only."""
    base = np.arange(9) / 8
    drawn = resampled_means(np.tile(base, 15), rng(), 20_000)  # 9 * 16 > 135
    counted = resampled_means(np.tile(base, 60), rng(), 20_000)  # 9 * 16 < 540
    assert drawn.std() / counted.std() == pytest.approx(2, rel=0.03)
    assert drawn.mean() == pytest.approx(counted.mean(), abs=1e-3)


def test_one_value_has_no_spread() -> None:
    assert mean_interval(resampled_means([0.3], rng())) == (pytest.approx(0.3), pytest.approx(0.3))


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        resampled_means([], rng())


def test_the_permutation_p_is_the_exact_one() -> None:
    """Six differences of +1: only 2 of the 64 sign patterns are as extreme, so p = 1/32."""
    assert paired_test([np.ones(6)], rng(), 50_000).p == pytest.approx(1 / 32, abs=0.003)


@pytest.mark.parametrize(
    "values", [np.repeat([0.0, 0.5, 1.0], [5, 3, 12]), np.random.default_rng(2).random(40)]
)
def test_the_interval_is_scipys(values: np.ndarray) -> None:
    """The percentile bootstrap of ``scipy.stats.bootstrap``, which takes some hundred times longer."""
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng())
    ours = mean_interval(resampled_means(values, rng(), 20_000))
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_p_is_that_of_scipys_exact_test(seed: int) -> None:
    """Twelve pairs: scipy goes through all 4096 patterns of signs."""
    random = np.random.default_rng(seed)
    differences = random.integers(0, 2, 12) - random.integers(0, 2, 12) + random.choice([0, 0.25], 12)
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=4096)
    assert paired_test([differences], rng(), 50_000).p == pytest.approx(theirs.pvalue, abs=0.01)


def test_no_difference_has_p_1() -> None:
    test = paired_test([np.zeros(5), np.zeros(3)], rng())
    assert (test.mean, test.p, test.n) == (0, 1, 8)


def test_the_statistic_is_the_mean_of_data_sets() -> None:
    test = paired_test([np.ones(1000), np.zeros(2)], rng(), 2000)
    assert test.mean == 0.5


def test_many_distinct_differences_agree_with_few() -> None:
    base = np.random.default_rng(3).normal(0.1, 1, 400)
    many = paired_test([base], rng(), 20_000)
    few = paired_test([np.round(base, 1)], rng(), 20_000)
    assert many.p == pytest.approx(few.p, abs=0.03)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_the_interval_stays_inside_the_values(values: list[float]) -> None:
    low, high = mean_interval(resampled_means(values, rng(), 500))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """400 samples of 200 answers that are right with probability 0.7: 95 % of the intervals hold 0.7."""
    random = rng()
    held = 0
    for _ in range(400):
        low, high = mean_interval(resampled_means(random.random(200) < 0.7, random, 1000))
        held += low <= 0.7 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_the_p_value_rejects_a_true_null_as_often_as_it_says() -> None:
    """400 pairs of equally good strategies over two data sets: about 5 % get p < 0.05."""
    random = rng()
    rejected = 0
    for _ in range(400):
        groups = [random.integers(0, 2, n) - random.integers(0, 2, n) for n in (60, 40)]
        rejected += paired_test(groups, random, 1000).p < 0.05
    assert 0.02 <= rejected / 400 <= 0.09
