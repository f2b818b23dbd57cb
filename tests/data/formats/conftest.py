"""What the tests of the layouts share: a folder with the image that the documented rows name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    Image.effect_noise((320, 240), 60).convert("RGB").save(tmp_path / "card.png")
    return tmp_path
