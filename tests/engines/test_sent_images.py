"""Images on their way to a server: encoded once however many ask, small where the model reads a square."""

from __future__ import annotations

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscot_core.conversation import direct_turns
from viscot_core.engines.openai import OpenAIEngine
from viscot_core.families.llava.pixels import preprocess, square_image
from viscot_core.families.table import square_of
from viscot_core.images.reading import open_image
from viscot_core.images.view import View
from viscot_core.openai_api.messages import Messages
from viscot_core.openai_api.options import ApiOptions, ImageForm

PHOTO = View(Image.effect_noise((800, 500), 60).convert("RGB"), "photo")
TURNS = direct_turns("What?")


def url_of(messages: Messages, view: View) -> str:
    (message,) = messages.of(TURNS, [view])
    return str(message["content"][0]["image_url"]["url"])


def sent(messages: Messages, view: View) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url_of(messages, view).partition(",")[2])))


def test_calls_that_miss_at_the_same_time_encode_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    messages = Messages(None, 4)
    encode = messages._encode

    def slowly(view: View) -> str:
        encoded.append(view.key)
        time.sleep(0.1)
        return encode(view)

    monkeypatch.setattr(messages._encoded, "_encode", slowly)
    together = threading.Barrier(8)

    def ask(number: int) -> str:
        together.wait()
        return url_of(messages, View(PHOTO.image, f"photo {number % 2}"))

    with ThreadPoolExecutor(8) as pool:
        urls = list(pool.map(ask, range(8)))
    assert sorted(encoded) == ["photo 0", "photo 1"] and len(set(urls)) == 1
    for number in range(6):  # the oldest goes
        url_of(messages, View(PHOTO.image, f"other {number}"))
    assert len(messages._encoded._found) == 4
    url_of(messages, View(PHOTO.image, "photo 0"))
    assert encoded.count("photo 0") == 2


def test_a_failure_is_told_to_all_who_wait_and_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = Messages(None, 4)
    calls = iter(range(9))

    def fails_once(view: View) -> str:
        time.sleep(0.1)
        if next(calls) == 0:
            raise OSError("no room")
        return "data:"

    monkeypatch.setattr(messages._encoded, "_encode", fails_once)
    together = threading.Barrier(3)

    def ask(_: int) -> str:
        together.wait()
        try:
            return url_of(messages, PHOTO)
        except OSError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, range(3))) == ["no room"] * 3
    assert url_of(messages, PHOTO) == "data:"


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("VisCoT-7b-336", 336),
        ("deepcs233/VisCoT-13b-224", 224),
        ("viscot", None),
        ("llava-v1.5-7b", None),
        ("Qwen3-VL-8B", None),
    ],
)
def test_only_a_certain_name_tells_the_square(name: str, side: int | None) -> None:
    square = square_of(name)
    assert (square.side if square else None) == side
    engine = OpenAIEngine("http://127.0.0.1:1/v1", name)
    assert engine.identity.get("image_square") == (str(side) if side else None)
    engine.close()
    for form in (ImageForm(whole=True), ImageForm(max_side=500)):
        engine = OpenAIEngine("http://127.0.0.1:1/v1", name, options=ApiOptions(images=form))
        assert "image_square" not in engine.identity
        engine.close()


def test_the_square_is_what_the_model_sees_anyway(golden: Path) -> None:
    """Pixel for pixel after padding, resizing and normalising it again; a smaller image is sent as it is."""
    square = square_of("VisCoT-7b-336")
    assert square is not None
    for path in sorted((golden / "images").glob("*.jpg"))[:6]:
        image = open_image(path)
        for side in (112, 224, 336):
            assert np.array_equal(preprocess(image, side), preprocess(square_image(image, side), side))
    messages = Messages(None, 4, None, square)
    assert sent(messages, PHOTO).size == (336, 336)
    little = View(Image.new("RGB", (300, 200)), "little")
    assert sent(messages, little).size == (300, 200)
