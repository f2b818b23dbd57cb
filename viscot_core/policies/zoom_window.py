"""From the box of a call to the rectangle that is cut, and to the size in which it is shown."""

from __future__ import annotations

import math

from viscot_core.boxes.geometry import Box, CropPolicy, Size, Window, crop_window
from viscot_core.boxes.numbers import Numbers
from viscot_core.boxes.registry import smart_resize
from viscot_core.images.reading import MAX_PIXELS
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
        raise Refused("the box has no area: x1 < x2 and y1 < y2")
    left, top, right, bottom = source
    across, down = (right - left) * rules.margin, (bottom - top) * rules.margin
    x0, y0 = max(x0 - across, left), max(y0 - down, top)
    x1, y1 = min(x1 + across, right), min(y1 + down, bottom)
    if not (x0 < x1 and y0 < y1):
        raise Refused("the box lies outside of the image")
    if max(x1 - x0, y1 - y0) > rules.most_aspect * min(x1 - x0, y1 - y0):
        raise Refused(f"the box is more than {rules.most_aspect:g} times as long as it is wide")
    if rules.window == "paper":
        return crop_window(Box(x0, y0, x1, y1, box.frame), size, CropPolicy.PAPER)
    if rules.grows and min(x1 - x0, y1 - y0) < rules.least_side:
        x0, y0, x1, y1 = _grown((x0, y0, x1, y1), source, rules.least_side)
    cut = _whole((x0, y0, x1, y1), source, rules)
    if not rules.grows and min(cut[2] - cut[0], cut[3] - cut[1]) < rules.least_side:
        raise Refused(f"the box is smaller than {rules.least_side} pixels")
    return cut


def _whole(box: Numbers, source: Window, rules: Rules) -> Window:
    """Whole pixels, at least one. Raises Refused where rounding down leaves none."""
    if rules.rounding == "down":
        # In pixels of the source, as its authors count.
        x0, y0, x1, y1 = (int(corner - source[axis % 2]) for axis, corner in enumerate(box))
        x1, y1 = min(x1, source[2] - source[0] - 1), min(y1, source[3] - source[1] - 1)
        if x0 >= x1 or y0 >= y1:
            raise Refused("the box has no whole pixel")
        return x0 + source[0], y0 + source[1], x1 + source[0], y1 + source[1]
    left, top = min(round(box[0]), source[2] - 1), min(round(box[1]), source[3] - 1)
    return left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)


def _grown(box: Numbers, source: Window, side: int) -> Numbers:
    """The box in its own shape, so that its shorter side is ``side``, cut at the border of its source.

    Qwen-Agent's rule (``maybe_resize_bbox``): where that is not larger than ``side`` in both, the box stays.
    """
    x0, y0, x1, y1 = box
    left, top, right, bottom = source
    ratio = side / min(x1 - x0, y1 - y0)
    across, down = math.ceil((x1 - x0) * ratio / 2), math.ceil((y1 - y0) * ratio / 2)
    # Rounded in pixels of the source, as its authors count.
    cx, cy = (x0 + x1) / 2 - left, (y0 + y1) / 2 - top
    grown = (
        max(left + math.floor(cx - across), left),
        max(top + math.floor(cy - down), top),
        min(left + math.ceil(cx + across), right),
        min(top + math.ceil(cy + down), bottom),
    )
    return grown if min(grown[2] - grown[0], grown[3] - grown[1]) > side else box


def shown_size(size: Size, rules: Rules, most_pixels: int | None) -> Size:
    """The size in which a crop of ``size`` is shown: its area within the limits, its sides whole steps."""
    most = min((most for most in (rules.most_pixels, most_pixels) if most is not None), default=None)
    if rules.step > 1:
        patch = rules.step**2
        most_tokens = MAX_PIXELS if most is None else max(most // patch, 1)
        least = math.ceil(rules.least_pixels / patch)
        return smart_resize(size, max_tokens=most_tokens, min_tokens=min(least, most_tokens), step=rules.step)
    area = size[0] * size[1]
    share = 1.0
    if most is not None and area > most:
        share = math.sqrt(most / area)
    elif area < rules.least_pixels:
        share = math.sqrt(rules.least_pixels / area)
    return max(1, int(size[0] * share)), max(1, int(size[1] * share))
