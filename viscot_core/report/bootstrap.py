"""Bootstrap intervals and paired permutation tests, exact in distribution and fast.

Judge scores take few distinct values. To draw n items with replacement and average them is then the same as
one multinomial draw of how often each value occurs: 10,000 resamples of 10,000 items take milliseconds
(``scipy.stats.bootstrap`` and ``permutation_test`` draw every item: 0.6 s and 6 s; a test compares them).
Values that are all different (IoU) are drawn item by item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RESAMPLES = 10_000
_DRAWS_AT_ONCE = 2_000_000
"""How many items are drawn at once (about 20 MB)."""


class Interval(NamedTuple):
    """A two-sided percentile interval."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high


def resampled_means(values: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Means of ``resamples`` bootstrap samples of ``values`` (one or more), shape ``[resamples]``."""
    data = np.asarray(values, np.float64)
    if data.size == 0:
        raise ValueError("nothing to resample")
    distinct, counts = np.unique(data, return_counts=True)
    if _few(distinct.size, data.size):
        # [resamples, distinct]: how often each value occurs in each resample.
        drawn = rng.multinomial(len(data), counts / len(data), size=resamples)
        return np.asarray(drawn @ distinct / len(data))
    means = np.empty(resamples)
    index_type = np.uint16 if data.size <= 2**16 else np.int64
    for rows in _chunks(resamples, data.size):
        picks = rng.integers(0, data.size, size=(rows.stop - rows.start, data.size), dtype=index_type)
        means[rows] = data[picks].mean(axis=1)
    return means


def mean_interval(means: Floats, level: float = 0.95) -> Interval:
    """The percentile interval of resampled means."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


class PairedTest(NamedTuple):
    """Mean difference of paired items, its bootstrap interval and a two-sided permutation p-value."""

    mean: float
    interval: Interval
    p: float
    n: int


def paired_test(
    groups: Sequence[ArrayLike], rng: np.random.Generator, resamples: int = RESAMPLES
) -> PairedTest:
    """Test differences ``a - b`` of the same items, one array ``[items]`` per data set.

    The statistic is the mean of the data sets' means. Under the null hypothesis each difference is as likely
    to have the other sign, so signs are flipped at random (a stratified permutation test). The interval
    resamples items within each data set.
    """
    arrays = [np.asarray(g, np.float64) for g in groups]
    means = np.mean([resampled_means(a, rng, resamples) for a in arrays], axis=0)
    flipped = np.mean([_flipped_means(a, rng, resamples) for a in arrays], axis=0)
    mean = float(np.mean([a.mean() for a in arrays]))
    # Sums of equal values in another order differ by rounding: the tolerance counts them as equal.
    # +1 below: the observed signs are one of the possible draws, so p is never 0.
    extreme = int(np.sum(np.abs(flipped) >= abs(mean) - 1e-12))
    return PairedTest(
        mean, mean_interval(means), (extreme + 1) / (resamples + 1), sum(a.size for a in arrays)
    )


def _flipped_means(differences: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Means of the differences under random signs, shape ``[resamples]``."""
    n = differences.size
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    if _few(sizes.size, n):  # of k equal sizes, Binomial(k, 1/2) stay positive
        positive = rng.binomial(counts, 0.5, size=(resamples, sizes.size))
        # Of `counts` equal sizes, positive ones minus negative ones: positive - (counts - positive).
        return np.asarray((2 * positive - counts) @ sizes / n)
    means = np.empty(resamples)
    for rows in _chunks(resamples, n):
        # One random bit an item, each row rounded up to whole bytes: [rows, ceil(n / 8)].
        bits = np.frombuffer(rng.bytes((rows.stop - rows.start) * -(-n // 8)), np.uint8)
        signs = np.unpackbits(bits.reshape(rows.stop - rows.start, -1), axis=1, count=n)
        # With bits b in {0, 1} the signs are 2b - 1: mean((2b - 1) d) = b @ (2 d / n) - mean(d).
        means[rows] = signs.astype(np.float64) @ (2 * differences / n) - differences.mean()
    return means


def _few(distinct: int, n: int) -> bool:
    """Whether counting distinct values is cheaper than drawing items (a count costs about 16 draws)."""
    return distinct <= 8 or distinct * 16 <= n


def _chunks(resamples: int, n: int) -> Iterator[slice]:
    rows = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, resamples, rows):
        yield slice(start, min(start + rows, resamples))
