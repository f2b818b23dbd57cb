"""Words on drawings: no boxes where a font here has the character."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from viscot_core.images import lettering


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    """Which fonts there are is found out once."""
    lettering._fonts.cache_clear()
    lettering._font_for.cache_clear()
    yield
    lettering._fonts.cache_clear()
    lettering._font_for.cache_clear()


@pytest.mark.parametrize("text", ["äéß€ñçőşŽ", "Ωλάμδα", "жЯії", "“”…–→≤²", "Straße naïve", "a\ud83dz"])
def test_latin_greek_and_cyrillic_without_any_font_of_the_system(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lettering, "_system_fonts", list)
    (font,) = lettering._fonts(20)
    assert [character for character in text if not lettering._has(font, character)] == []
    sheet = Image.new("RGB", (300, 40))
    lettering.write(ImageDraw.Draw(sheet), (5, 5), text, 20, (255, 255, 255))
    box = sheet.getbbox()
    assert box is not None and abs(box[2] - 5 - lettering.width_of(text, 20)) < 6


def test_other_characters_come_from_another_font(monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    """A font of the system, or the one that is named: Georgian is not in the font that is shipped."""
    whole = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
    if not whole.is_file():
        pytest.skip("this system has no font with Georgian letters where the test looks")
    monkeypatch.setattr(lettering, "_system_fonts", lambda: [repo / "README.md", whole])
    assert [lettering._font_for(character, 20) for character in "aბa"] == [0, 1, 0]
    assert [piece for _, piece in lettering._pieces("Tბილisi", 20)] == ["T", "ბილ", "isi"]
    lettering._fonts.cache_clear()
    lettering._font_for.cache_clear()
    monkeypatch.setattr(lettering, "_system_fonts", list)
    assert lettering._font_for("中", 20) == 0  # the box of a missing character
    monkeypatch.setenv("VISCOT_FONT", str(whole))
    lettering._fonts.cache_clear()
    assert len(lettering._fonts(20)) == 2


@pytest.mark.parametrize(
    "name", ["NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "ipag.ttf"]
)
def test_fonts_with_chinese_characters_are_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    for each in (name, "Arial.ttf", "NotoSans-Regular.ttf"):
        (tmp_path / "deep" / each).touch()
    monkeypatch.setattr(lettering, "_FOLDERS", (str(tmp_path), str(tmp_path / "none")))
    assert [path.name for path in lettering._system_fonts()] == [name]
