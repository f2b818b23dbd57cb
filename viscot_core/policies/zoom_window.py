"""From the box of a call to the rectangle that is cut, and to the size in which it is shown."""

from __future__ import annotations

import math

from viscot_core.boxes.geometry import Box, CropPolicy, Size, Window, crop_window
from viscot_core.policies.dialects.base import Rules


class Refused(Exception):
    """A call that cannot be made; the words are for the model."""


def window_of(box: Box, source: Window, size: Size, rules: Rules) -> Window:
    """The rectangle to cut, in pixels of the original image of ``size``.

    ``box`` (ORIGINAL) was named in the part ``source`` of it and is cut at the border of that part.

    Raises:
        Refused: it has no area, lies outside of its source, is too small or too long.
    """
    x0, y0, x1, y1 = box.coords
    if not (x0 < x1 and y0 < y1):
        raise Refused("the box has no area: x0 < x1 and y0 < y1")
    left, top, right, bottom = source
    if x1 <= left or y1 <= top or x0 >= right or y0 >= bottom:
        raise Refused("the box lies outside of the image")
    across, down = (x1 - x0) * rules.margin, (y1 - y0) * rules.margin
    x0, y0 = max(x0 - across, left), max(y0 - down, top)
    x1, y1 = min(x1 + across, right), min(y1 + down, bottom)
    longer, shorter = max(x1 - x0, y1 - y0), min(x1 - x0, y1 - y0)
    if longer > rules.most_aspect * shorter:
        raise Refused(f"the box is more than {rules.most_aspect:g} times as long as it is wide")
    if rules.grows:
        x0, x1 = _grown(x0, x1, left, right, rules.least_side)
        y0, y1 = _grown(y0, y1, top, bottom, rules.least_side)
    elif shorter < rules.least_side:
        raise Refused(f"the box is smaller than {rules.least_side} pixels")
    cut = Box(x0, y0, x1, y1, box.frame)
    return crop_window(cut, size, CropPolicy.PAPER if rules.window == "paper" else CropPolicy.TIGHT)


def _grown(low: float, high: float, least: float, most: float, side: int) -> tuple[float, float]:
    """A span of at least ``side`` about the middle of another, moved inside ``least``..``most``."""
    if high - low >= side:
        return low, high
    middle = (low + high) / 2
    low, high = middle - side / 2, middle + side / 2
    shift = max(least - low, 0) - max(high - most, 0)
    return max(low + shift, least), min(high + shift, most)


def shown_size(size: Size, rules: Rules, most_pixels: int | None) -> Size:
    """The size in which a crop of ``size`` is shown: its area within the limits, its sides whole steps."""
    width, height = size
    limits = [most for most in (rules.most_pixels, most_pixels) if most is not None]
    most, step = min(limits, default=None), rules.step
    area = width * height
    share = 1.0
    if most is not None and area > most:
        share = math.sqrt(most / area)
    elif area < rules.least_pixels:
        share = math.sqrt(rules.least_pixels / area)
    # Away from the limit that was hit, or else the nearest: the result keeps both.
    whole = math.floor if share < 1 else math.ceil if share > 1 else round
    return tuple(max(step, whole(side * share / step) * step) for side in (width, height))  # type: ignore[return-value]
