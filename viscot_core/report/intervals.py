"""95 % intervals of means and of paired differences, and the permutation test of a difference.

Closed forms, chosen by simulated coverage (``tests/report/test_coverage.py``; the figures are in
``tests/performance/README.md``). A percentile bootstrap is not used: of 20 answers that are right with
probability 0.95 it holds the truth in 65 % of cases only, and 12 right of 12 would give it no width at all.

Questions about one image are not independent: every figure counts *units* (images), and sums the residuals
of a unit before squaring them (the linearised variance of a one-stage cluster sample).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEVEL = 0.95
RESAMPLES = 10_000
_NOTHING = 1e-18
"""A variance below this is rounding."""
_DRAWS_AT_ONCE = 2_000_000
"""How many signs are drawn at once (about 20 MB)."""


class Interval(NamedTuple):
    """A two-sided interval."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high


@dataclass(frozen=True, eq=False)
class ClusterSample:
    """The values of one data set, and the unit (image) that each belongs to; without units, one an item."""

    values: Floats
    """Shape ``[items]``."""
    units: tuple[Hashable, ...] | None = None

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """For each item the number of its unit in this sample, ``[items]``."""
        if self.units is None:
            return np.arange(self.values.size)
        number: dict[Hashable, int] = {}
        return np.array([number.setdefault(unit, len(number)) for unit in self.units], np.int64)

    @property
    def size(self) -> int:
        return int(self.values.size)

    @cached_property
    def independent(self) -> int:
        """The number of units."""
        return int(self.places.max()) + 1 if self.size else 0

    def sums(self, values: Floats) -> Floats:
        """``values`` ``[items]`` added up by unit, ``[units]``."""
        return np.asarray(np.bincount(self.places, values, self.independent), np.float64)


def joined(samples: Sequence[ClusterSample]) -> ClusterSample:
    """All items as one sample."""
    units = [unit for n, s in enumerate(samples) for unit in s.units or ((n, i) for i in range(s.size))]
    return ClusterSample(np.concatenate([s.values for s in samples]), tuple(units))


class Spread(NamedTuple):
    """The mean of samples' means, its variance, and how well the variance is known."""

    mean: float
    variance: float
    degrees: float


def mean_interval(samples: Sequence[ClusterSample]) -> Interval | None:
    """The interval of the mean of the samples' means; None if there is a single unit, or nothing to tell by.

    Wilson's for 0/1 values. Values in 0..1, clusters and several samples take the same form with an effective
    number of items (Korn and Graubard 1998) and Student's t; other values the plain t interval.
    """
    samples = _with_spread(samples)
    if not samples:
        return None
    values = np.concatenate([s.values for s in samples])
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    simple = binary and len(samples) == 1 and samples[0].independent == values.size
    mean, variance, degrees = _spread(samples)
    quantile = NormalDist().inv_cdf((1 + LEVEL) / 2) if simple else t_quantile(degrees)
    if values.min() < 0 or values.max() > 1:
        half = quantile * variance**0.5
        return Interval(mean - half, mean + half) if variance else None
    if simple:
        return _wilson(mean, values.size, quantile)
    if variance < _NOTHING:  # all equal: as many items as there are independent ones
        return _wilson(mean, sum(s.independent for s in samples), quantile)
    items = len(samples) ** 2 / sum(1 / s.size for s in samples)
    # The variance as a multiple of 0/1 values' (the design effect). Two more items of the greatest spread:
    # 30 scores of 0.8 and 1 may have missed the rare 0, and their own variance says nothing of it.
    effect = variance * items / (mean * (1 - mean))
    effect = max(effect, (effect * values.size + 2) / (values.size + 2))
    return _wilson(mean, items / effect, quantile)


def _wilson(mean: float, items: float, z: float) -> Interval:
    shrink = 1 + z * z / items
    centre = (mean + z * z / (2 * items)) / shrink
    half = z / shrink * (mean * (1 - mean) / items + (z / (2 * items)) ** 2) ** 0.5
    # Rounding must not push an end past the mean or past 0..1.
    return Interval(max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean)))


def _with_spread(samples: Sequence[ClusterSample]) -> list[ClusterSample]:
    """Samples whose variance can be told: several of one unit each are taken as one sample."""
    samples = [s for s in samples if s.size]
    single = [s for s in samples if s.independent == 1]
    if len(single) < len(samples) or not single:
        return samples
    together = joined(single)
    return [together] if together.independent > 1 else []


def _spread(samples: Sequence[ClusterSample]) -> Spread:
    """Linearised variance; samples of a single unit count with the mean variance of the others."""
    mean = float(np.mean([s.values.mean() for s in samples]))
    known = [s for s in samples if s.independent > 1]
    sums, alone = [], 0.0
    for sample in known:
        residuals = (sample.values - sample.values.mean()) / (sample.size * len(known))
        sums.append((sample.independent / (sample.independent - 1)) ** 0.5 * sample.sums(residuals))
        alone += sample.size / (sample.size - 1) * float(residuals @ residuals)
    parts = _by_unit(sums, known)
    # Never less than independent items would have: a few units can agree by chance.
    variance = max(float(parts @ parts), alone) * len(known) / len(samples)
    # Satterthwaite: each sample's variance is known to (units - 1) degrees of freedom.
    own = np.array([s @ s for s in sums])
    free = np.array([s.independent - 1 for s in known])
    return Spread(mean, variance, float(own.sum() ** 2 / (own**2 / free).sum() if own.any() else free.sum()))


def _by_unit(sums: Sequence[Floats], samples: Sequence[ClusterSample]) -> Floats:
    """Each sample's sums by unit, added up where samples share units, as RefCOCO's splits share images."""
    if all(s.units is None for s in samples):
        return np.concatenate(sums)
    shared: dict[Hashable, float] = {}
    for n, (sample, totals) in enumerate(zip(samples, sums, strict=True)):
        units = dict.fromkeys(sample.units or ((n, i) for i in range(sample.size)))
        for unit, total in zip(units, totals, strict=True):
            shared[unit] = shared.get(unit, 0.0) + float(total)
    return np.fromiter(shared.values(), np.float64)


@lru_cache
def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t (scipy's, which takes longer to import than this takes).

    With ``t = sqrt(degrees) tan(a)`` the density is proportional to ``cos(a) ** (degrees - 1)``: it is
    integrated over a grid of angles and read backwards.
    """
    if degrees > 1e4:
        return NormalDist().inv_cdf((1 + level) / 2)
    angles = np.linspace(0, np.pi / 2, 40_001)
    density = np.cos(angles) ** (max(degrees, 1.0) - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(degrees**0.5 * np.tan(np.interp(level * mass[-1], mass, angles)))


class PairedTest(NamedTuple):
    """Mean difference of paired items, its interval and a two-sided permutation p-value."""

    mean: float
    interval: Interval | None
    p: float
    n: int


def paired_test(
    samples: Sequence[ClusterSample], rng: np.random.Generator, resamples: int = RESAMPLES
) -> PairedTest:
    """Test differences ``a - b`` of the same items, one sample per data set.

    The statistic is the mean of the data sets' means. Under the null hypothesis the differences of an image
    are as likely to have the other sign, so images' signs are flipped at random (a permutation test).
    """
    samples = [s for s in samples if s.size]
    mean = float(np.mean([s.values.mean() for s in samples]))
    parts = _by_unit([s.sums(s.values / (s.size * len(samples))) for s in samples], samples)
    # Sums of equal values in another order differ by rounding: the tolerance counts them as equal.
    # +1 below: the observed signs are one of the possible draws, so p is never 0.
    extreme = int(np.sum(np.abs(_flipped_sums(parts, rng, resamples)) >= abs(mean) - 1e-12))
    return PairedTest(
        mean, difference_interval(samples), (extreme + 1) / (resamples + 1), sum(s.size for s in samples)
    )


def difference_interval(samples: Sequence[ClusterSample]) -> Interval | None:
    """The t interval of the mean of the samples' mean differences; None if there is a single unit.

    Differences of 0/1 values (-1, 0, 1) get one more pair of each sign (Bonett and Price 2012), without which
    pairs that all agree would have an interval of no width.
    """
    samples = _with_spread(samples)
    if not samples:
        return None
    mean, variance, degrees = _spread(samples)
    if np.isin(np.concatenate([s.values for s in samples]), (-1.0, 0.0, 1.0)).all():
        more = 2 / len(samples)  # two pairs in all
        sizes = np.array([s.size + more for s in samples])
        means = np.array([s.values.sum() for s in samples]) / sizes
        squares = (np.array([s.values @ s.values for s in samples]) + more) / sizes
        mean = float(means.mean())
        variance = max(variance, float(np.sum((squares - means**2) / sizes)) / len(samples) ** 2)
    half = t_quantile(degrees) * variance**0.5
    # Scores in 0..1 differ by at most 1, as few pairs would let the interval forget.
    most = 1.0 if all(np.abs(s.values).max() <= 1 for s in samples) else np.inf
    return Interval(max(-most, mean - half), min(most, mean + half)) if variance > _NOTHING else None


def _flipped_sums(parts: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Sums of ``parts`` ``[units]`` under random signs, shape ``[resamples]``."""
    n = parts.size
    # Equal sizes are drawn together, and differ by rounding where sums were added up in another order.
    sizes, counts = np.unique(np.abs(parts).round(15), return_counts=True)
    if sizes.size <= 8 or sizes.size * 16 <= n:  # a count costs about 16 single draws
        # Of k equal sizes Binomial(k, 1/2) stay positive: positive - (k - positive) remain.
        positive = rng.binomial(counts, 0.5, size=(resamples, sizes.size))
        return np.asarray((2 * positive - counts) @ sizes)
    sums = np.empty(resamples)
    for rows in _chunks(resamples, n):
        # One random bit a unit, each row rounded up to whole bytes: [rows, ceil(n / 8)].
        bits = np.frombuffer(rng.bytes((rows.stop - rows.start) * -(-n // 8)), np.uint8)
        signs = np.unpackbits(bits.reshape(rows.stop - rows.start, -1), axis=1, count=n)
        # With bits b in {0, 1} the signs are 2b - 1: sum((2b - 1) d) = b @ 2d - sum(d).
        sums[rows] = signs.astype(np.float64) @ (2 * parts) - parts.sum()
    return sums


def _chunks(resamples: int, n: int) -> Iterator[slice]:
    rows = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, resamples, rows):
        yield slice(start, min(start + rows, resamples))
