"""Intervals and p-values against scipy, against closed forms and against worked cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from viscot_core.report.intervals import (
    ClusterSample,
    difference_interval,
    mean_interval,
    paired_test,
    t_quantile,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def sample(values: object, units: tuple[int, ...] | None = None) -> ClusterSample:
    return ClusterSample(np.asarray(values, np.float64), units)


@pytest.mark.parametrize(("right", "n"), [(12, 12), (0, 12), (19, 20), (1, 2), (437, 500)])
def test_right_and_wrong_have_wilsons_interval(right: int, n: int) -> None:
    theirs = stats.binomtest(right, n).proportion_ci(0.95, "wilson")
    ours = mean_interval([sample(np.arange(n) < right)])
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_twelve_right_of_twelve_are_not_certain() -> None:
    ends = mean_interval([sample(np.ones(12))])
    assert ends and ends.low == pytest.approx(0.757, abs=1e-3) and ends.high == 1


@pytest.mark.parametrize("degrees", [1, 2, 3.7, 19, 120, 5000, 1e6])
def test_the_quantile_is_scipys(degrees: float) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_other_values_have_about_students_interval() -> None:
    values = np.random.default_rng(1).beta(4, 3, 400)
    theirs = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert mean_interval([sample(values)]) == pytest.approx(theirs, abs=0.003)
    points = 1400 + 100 * values  # beyond 0..1: exactly Student's
    theirs = stats.t.interval(0.95, 399, points.mean(), stats.sem(points))
    assert mean_interval([sample(points)]) == pytest.approx(theirs, rel=1e-6)


def test_one_unit_has_no_interval() -> None:
    assert mean_interval([sample([0.3])]) is None
    assert mean_interval([sample([0, 1, 1], (7, 7, 7))]) is None
    assert mean_interval([]) is None
    assert difference_interval([sample([0.3])]) is None
    assert mean_interval([sample([5.0, 5.0])]) is None  # two equal values on an unknown scale


def test_one_item_in_each_of_several_sets_is_a_sample_of_them() -> None:
    assert mean_interval([sample([v]) for v in (1, 1, 0, 1)]) is not None


def test_questions_about_one_image_are_no_more_than_one_draw() -> None:
    """Five images with four equal answers each know as much as five answers."""
    each = np.repeat([1.0, 1, 0, 1, 0], 4)
    loose = mean_interval([sample(each)])
    tight = mean_interval([sample(each, tuple(np.repeat(np.arange(5), 4)))])
    assert loose and tight and tight.high - tight.low > 1.7 * (loose.high - loose.low)


def test_images_shared_by_two_sets_are_counted_once() -> None:
    values = rng().integers(0, 2, 60)
    units = tuple(range(60))
    same = mean_interval([sample(values, units), sample(values, units)])
    other = mean_interval([sample(values, units), sample(values, tuple(range(60, 120)))])
    assert same and other
    assert (same.high - same.low) / (other.high - other.low) == pytest.approx(2**0.5, rel=0.05)


def test_the_permutation_p_is_the_exact_one() -> None:
    """Six differences of +1: only 2 of the 64 sign patterns are as extreme, so p = 1/32."""
    assert paired_test([sample(np.ones(6))], rng(), 50_000).p == pytest.approx(1 / 32, abs=0.003)
    of_one_image = paired_test([sample(np.ones(6), (0,) * 6)], rng(), 50_000)
    assert of_one_image.p == 1 and of_one_image.interval is None


@pytest.mark.parametrize("seed", range(5))
def test_p_is_that_of_scipys_exact_test(seed: int) -> None:
    """Twelve pairs: scipy goes through all 4096 patterns of signs."""
    random = np.random.default_rng(seed)
    differences = random.integers(0, 2, 12) - random.integers(0, 2, 12) + random.choice([0, 0.25], 12)
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=4096)
    assert paired_test([sample(differences)], rng(), 50_000).p == pytest.approx(theirs.pvalue, abs=0.01)


def test_no_difference_has_p_1_and_still_an_interval() -> None:
    test = paired_test([sample(np.zeros(5)), sample(np.zeros(3))], rng())
    assert (test.mean, test.p, test.n) == (0, 1, 8)
    assert test.interval and test.interval.low < -0.2 and test.interval.high > 0.2


def test_the_statistic_is_the_mean_of_data_sets() -> None:
    assert paired_test([sample(np.ones(1000)), sample(np.zeros(2))], rng(), 2000).mean == 0.5


def test_many_distinct_differences_agree_with_few() -> None:
    base = np.random.default_rng(3).normal(0.1, 1, 400)
    many = paired_test([sample(base)], rng(), 20_000)
    few = paired_test([sample(np.round(base, 1))], rng(), 20_000)
    assert many.p == pytest.approx(few.p, abs=0.03)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_interval_stays_inside_the_scale_and_holds_the_mean(values: list[float]) -> None:
    ends = mean_interval([sample(values)])
    assert ends and 0 <= ends.low <= np.mean(values) <= ends.high <= 1 and ends.low < ends.high


def test_the_p_value_rejects_a_true_null_as_often_as_it_says() -> None:
    """400 pairs of equally good strategies over two data sets: about 5 % get p < 0.05."""
    random = rng()
    rejected = 0
    for _ in range(400):
        groups = [sample(random.integers(0, 2, n) - random.integers(0, 2, n)) for n in (60, 40)]
        rejected += paired_test(groups, random, 1000).p < 0.05
    assert 0.02 <= rejected / 400 <= 0.09


def test_a_difference_of_scores_is_at_most_1() -> None:
    """23 pairs of 24 gained had an interval up to +1.056."""
    found = difference_interval([ClusterSample(np.array([1.0] * 23 + [0.0]))])
    assert found is not None and 0.7 < found.low < found.high == 1.0
    assert difference_interval([ClusterSample(-np.array([1.0] * 23 + [0.0]))]) == (-1.0, -found.low)
