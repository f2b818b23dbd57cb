"""Where the tokens of an image lie, by the kind of a backbone's image processor.

Each asks transformers' own processor for the layout of an image of some size. What comes out is believed
because a test paints a corner of an image and sees which tokens change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from viscot_core.boxes.geometry import Size
from viscot_core.families.token_grid import TokenGrid


def _merged(hf: Any, size: Size) -> TokenGrid | None:
    """One grid of merged patches in the image's own shape (Qwen-VL, GLM-V)."""
    from viscot_core.families.generic.processor import blank

    grid = hf.image_processor(images=[[blank(size)]], return_tensors="np").get("image_grid_thw")
    if grid is None or int(grid[0][0]) != 1:
        return None
    merge = int(hf.image_processor.merge_size)
    return TokenGrid((int(grid[0][2]) // merge, int(grid[0][1]) // merge))


def _tiled(hf: Any, size: Size) -> TokenGrid | None:
    """Tiles, then all of the image where there are several (InternVL)."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    images, cells = hf.image_processor, _square_root(hf.image_seq_length)
    side = (images.size["height"], images.size["width"])
    tiles = (1, 1)
    if images.crop_to_patches:
        across, down = get_optimal_tiled_canvas(size[::-1], side, images.min_patches, images.max_patches)
        tiles = (int(across), int(down))
    overview = tiles != (1, 1)
    return cells and TokenGrid(cells, tiles, overview, side=side[0])


def _split(hf: Any, size: Size) -> TokenGrid | None:
    """Tiles and all of the image, or that alone where it is small (Idefics3, SmolVLM)."""
    cells = _square_root(hf.image_seq_len)
    _, down, across = hf.image_processor.get_number_of_image_patches(size[1], size[0], {})
    side = int(hf.image_processor.max_image_size["longest_edge"])
    if not down:
        return cells and TokenGrid(cells, side=side)
    return cells and TokenGrid(cells, (int(across), int(down)), overview=True, side=side)


def _stretched(hf: Any, size: Size) -> TokenGrid | None:
    """A square that every image is stretched to (Gemma 3)."""
    if getattr(hf.image_processor, "do_pan_and_scan", False):
        return None  # its windows overlap
    cells = _square_root(hf.image_seq_length)
    return cells and TokenGrid(cells, side=int(hf.image_processor.size["height"]))


def _square_root(tokens: int) -> tuple[int, int] | None:
    """A square of so many tokens; None where they fill none."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else None


LAYOUTS: Mapping[str, Callable[[Any, Size], TokenGrid | None]] = {
    "merged": _merged,
    "tiled": _tiled,
    "split": _split,
    "stretched": _stretched,
}
"""By ``Backbone.layout``."""
