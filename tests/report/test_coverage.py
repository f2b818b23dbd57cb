"""How often 95 % intervals hold the truth, simulated; ``python tests/report/test_coverage.py`` prints it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from viscot_core.report.intervals import ClusterSample, Interval, difference_interval, mean_interval

Draw = Callable[[np.random.Generator], tuple[Sequence[ClusterSample], float]]
"""Samples, and the mean that they were drawn around."""
LEVELS = np.array([0, 0.25, 0.5, 0.8, 1])


def right_or_wrong(low: float, high: float, n: int, sets: int = 1) -> Draw:
    """Each set is right with a probability from the range: at a single one the coverage jumps with n, as a
    single count more or less decides (0.924 or 0.984, for any interval, at 0.95 and n = 20)."""

    def draw(rng: np.random.Generator) -> tuple[list[ClusterSample], float]:
        truth = rng.uniform(low, high, sets)
        return [ClusterSample((rng.random(n) < p).astype(float)) for p in truth], float(truth.mean())

    return draw


def judged(chances: Sequence[float], n: int) -> Draw:
    """Scores of a judge, who uses a few levels."""
    chances = np.array(chances) / sum(chances)
    return lambda rng: ([ClusterSample(rng.choice(LEVELS, n, p=chances))], float(chances @ LEVELS))


def overlaps(n: int) -> Draw:
    """IoU of boxes, a sixth of them beside the object."""
    return lambda rng: ([ClusterSample(rng.beta(5, 2, n) * (rng.random(n) < 5 / 6))], 5 / 6 * 5 / 7)


def expressions(images: int, right: float = 0.85, correlation: float = 0.3) -> Draw:
    """As RefCOCO: 1 to 7 expressions an image, whose boxes tend to be right or wrong together."""

    def draw(rng: np.random.Generator) -> tuple[list[ClusterSample], float]:
        more = (1 - correlation) / correlation
        chance = rng.beta(right * more, (1 - right) * more, images)
        units = np.repeat(np.arange(images), rng.integers(1, 8, images))
        return [ClusterSample((rng.random(units.size) < chance[units]).astype(float), tuple(units))], right

    return draw


def pairs(gained: float, lost: float, n: int, sets: int = 1) -> Draw:
    """Differences of two strategies' right and wrong answers."""
    chances = [gained, lost, 1 - gained - lost]
    return lambda rng: (
        [ClusterSample(rng.choice([1.0, -1.0, 0.0], n, p=chances)) for _ in range(sets)],
        gained - lost,
    )


MEANS: dict[str, Draw] = {
    "right or wrong, 0.90-0.99, n = 20": right_or_wrong(0.9, 0.99, 20),
    "right or wrong, 0.90-0.99, n = 50": right_or_wrong(0.9, 0.99, 50),
    "right or wrong, 0.1-0.9, n = 20": right_or_wrong(0.1, 0.9, 20),
    "right or wrong, 0.1-0.9, n = 200": right_or_wrong(0.1, 0.9, 200),
    "12 sets, 0.7-0.99, n = 20 each": right_or_wrong(0.7, 0.99, 20, 12),
    "judge, mean 0.82, n = 20": judged([1, 1, 2, 4, 12], 20),
    "judge, mean 0.82, n = 50": judged([1, 1, 2, 4, 12], 50),
    "judge, mean 0.55, n = 20": judged([3, 1, 1, 1, 4], 20),
    "judge, mean 0.95, n = 50": judged([2, 2, 2, 4, 90], 50),
    "IoU, n = 20": overlaps(20),
    "IoU, n = 100": overlaps(100),
    "RefCOCO, 20 images": expressions(20),
    "RefCOCO, 50 images": expressions(50),
    "RefCOCO, 200 images": expressions(200),
}
DIFFERENCES: dict[str, Draw] = {
    "pairs, 0.3 gained, 0.2 lost, n = 40": pairs(0.3, 0.2, 40),
    "pairs, 0.4 gained, 0.1 lost, n = 100": pairs(0.4, 0.1, 100),
    "pairs, 0.15 gained, 0.05 lost, n = 100": pairs(0.15, 0.05, 100),
    "12 sets of pairs, 0.1, 0.1, n = 20 each": pairs(0.1, 0.1, 20, 12),
}


def coverage(
    draw: Draw, interval: Callable[[Sequence[ClusterSample]], Interval | None], draws: int = 2500
) -> float:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(draws):
        samples, truth = draw(rng)
        ends = interval(samples)
        held += ends is not None and ends.low <= truth <= ends.high
    return held / draws


@pytest.mark.slow
@pytest.mark.parametrize("name", MEANS)
def test_of_a_mean(name: str) -> None:
    assert 0.93 <= coverage(MEANS[name], mean_interval) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENCES)
def test_of_a_difference(name: str) -> None:
    assert 0.93 <= coverage(DIFFERENCES[name], difference_interval) <= 0.97


def test_at_one_probability_it_is_as_near_as_counts_allow() -> None:
    """The former bootstrap held 0.95 in 65 % of cases of 20 answers."""
    found = coverage(right_or_wrong(0.95, 0.95, 20), mean_interval, 1000)
    assert 0.90 <= found <= 0.95


if __name__ == "__main__":
    for name, draw in MEANS.items():
        print(f"{name:45} {coverage(draw, mean_interval):.3f}")
    for name, draw in DIFFERENCES.items():
        print(f"{name:45} {coverage(draw, difference_interval):.3f}")
