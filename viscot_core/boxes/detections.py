"""Boxes for the library ``supervision``, which draws, filters and counts detections of any model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from viscot_core.boxes.geometry import Box
from viscot_core.errors import UsageError
from viscot_core.resources import install_line

if TYPE_CHECKING:
    import supervision


def detections_of(
    boxes: Sequence[Box], names: Sequence[str], probabilities: Sequence[float | None]
) -> supervision.Detections:
    """Boxes in pixels of the image as ``supervision.Detections``, in their order.

    ``class_id`` counts from 0, ``data["class_name"]`` are ``names``. ``confidence`` is there where all
    ``probabilities`` are known.

    Raises:
        UsageError: ``supervision`` is not installed.
    """
    import numpy as np

    try:
        import supervision
    except ImportError as error:
        raise UsageError(f"Detections need: {install_line(['supervision'])}") from error
    known = [each for each in probabilities if each is not None]
    return supervision.Detections(
        xyxy=np.array([box.coords for box in boxes], dtype=np.float32).reshape(-1, 4),
        confidence=np.array(known, dtype=np.float32) if len(known) == len(boxes) else None,
        class_id=np.arange(len(boxes)),
        data={"class_name": np.array(names, dtype=str)},
    )
