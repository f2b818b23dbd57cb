"""The page in a headless Chromium, as a person uses it; ``VISCOT_SHOTS=DIR`` keeps what it looked like."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from demo_help import Browser, browser, shown
from PIL import Image
from serve_help import WORDING, Gated, Looker, Slow, asks_for_box

from viscot_core.demo.models import DemoModel, Ready
from viscot_core.engines.base import Generation, Request
from viscot_core.models.known import BUNDLED_ZOOM
from viscot_core.models.zoo import BUNDLED_FOLDER, BUNDLED_FOLDERS, hint_about
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.serve.batching import Batcher
from viscot_core.tour import EXAMPLES, examples

pytest.importorskip("gradio", reason="needs viscot[demo]")
pytestmark = pytest.mark.slow
DESKTOP, PHONE = (1280, 860), (390, 844)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture
def shot(person: Browser, tmp_path: Path) -> Callable[[str], None]:
    folder = Path(os.environ.get("VISCOT_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: person.screenshot(folder / f"{name}.png")


class Thinker(Looker):
    """Names the region at once, and answers when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        if not all(asks_for_box(request) for request in requests):
            assert self.go.wait(60)
        return super().generate(requests)


def test_a_proxy_of_the_environment_is_not_asked_for_the_own_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """`viscot demo` ended with an unexpected error where http_proxy is set, as in many networks."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intranet.example")
    with shown(Looker()) as url, urlopen(url, timeout=60) as page:
        assert page.status == 200
    assert os.environ["no_proxy"].split(",")[:2] == ["intranet.example", "127.0.0.1"]


def test_an_image_is_asked_about_in_all_ways(person: Browser, shot: Callable[[str], None]) -> None:
    engine = Thinker()
    with shown(engine) as url:
        person.open(url, *DESKTOP)
        shot("desktop-empty")
        person.one("#ask").click()
        person.wait(lambda: "First choose an image" in person.text(".vs-message"), "the hint")
        person.choose(EXAMPLES / "wide.jpg")
        person.ask("What is it?")
        person.wait(lambda: person.all(".vs-box.vs-shown"), "the box")
        assert person.text("#ask") == "Asking", "the answer cannot be there before the crop was read"
        shot("desktop-reading")
        engine.go.set()
        person.answered()
        assert person.text(".vs-way-cot .vs-answer") == "seen 224 x 224"
        assert person.all(".vs-way-cot canvas.vs-crop")

        person.all("#mode input")[2].click()
        person.drag((0.63, 0.5), (0.9, 0.9))
        person.wait(lambda: "your box" in person.text(".vs-own.vs-shown .vs-tag"), "the drawn box")
        person.ask("And here?")
        person.answered()
        cards = ".vs-turn:first-child .vs-title"
        assert person.text(cards) == "ANSWERS AT ONCE | YOUR BOX"
        assert engine.prompts.count(next(p for p in engine.prompts if "[0.6" in p)) == 1
        assert len(person.all(".vs-turn")) == 2, "the first question is still there"
        shot("desktop-both-own-box")
        assert person.problems() == []


def test_the_answer_grows_word_by_word(person: Browser, shot: Callable[[str], None]) -> None:
    engine = Slow()
    with shown(engine) as url:
        person.open(url, *DESKTOP)
        person.choose(EXAMPLES / "wide.jpg")
        person.ask("What is it?")
        for words in ("seen", "seen 224"):
            engine.step.release()
            person.wait(lambda words=words: person.text(".vs-way-cot .vs-answer") == words, words)
        assert person.text(".vs-busy") == "reads the crop" and person.text("#ask") == "Asking"
        shot("desktop-growing")
        for _ in range(2):
            engine.step.release()
        person.answered()
        assert person.text(".vs-way-cot .vs-answer") == "seen 224 x 224"


def test_a_phone_sees_image_question_and_answer(person: Browser, shot: Callable[[str], None]) -> None:
    with shown(Looker(seconds=0.1)) as url:
        person.open(url, *PHONE)
        shot("phone-empty")
        person.all(".vs-example")[2].click()
        person.wait(lambda: "Press Ask" in person.text(".vs-message"), "the example")
        person.one("#ask").click()
        person.answered()
        wide = person.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= PHONE[0], "nothing sticks out to the right"
        answer = person.driver.execute_script(
            "return document.querySelector('.vs-answer').getBoundingClientRect().bottom"
        )
        assert answer < PHONE[1], "the answer is on the first screen"
        left = [person.one(css).rect["x"] for css in ("#question", ".vs-stage", ".vs-answers", ".vs-head h1")]
        assert max(left) - min(left) < 1, "one left edge"
        shot("phone-answer")


def test_an_answer_is_copied_and_crop_and_image_are_enlarged_and_saved(
    person: Browser, shot: Callable[[str], None], tmp_path: Path
) -> None:
    person.driver.execute_cdp_cmd(
        "Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    with shown(Looker()) as url:
        person.open(url, *DESKTOP)
        person.choose(EXAMPLES / "wide.jpg")
        person.ask("What is it?")
        person.answered()
        person.one(".vs-copy").click()
        person.wait(lambda: person.text(".vs-copy") == "Copied", "the copy")

        person.one(".vs-card canvas").click()
        fitted = person.one("dialog canvas").rect
        assert fitted["height"] > 0.8 * DESKTOP[1], "as large as the window"
        shot("desktop-enlarged")
        person.one("dialog canvas").click()
        assert person.one("dialog canvas").rect["width"] == 224, "then in its own pixels"
        person.one(".vs-close").click()

        bar = {button.text: button for button in person.all(".vs-bar button")}
        bar["Save image"].click()
        saved = tmp_path / "viscot.png"
        person.wait(saved.is_file, "the download")
        with Image.open(saved) as image, Image.open(EXAMPLES / "wide.jpg") as asked:
            assert image.size == asked.size
            colors = {color for _, color in image.convert("RGB").getcolors(2**24) or ()}
        assert (220, 38, 38) in colors and (37, 99, 235) in colors, "with box and crop window"
        bar["Enlarge"].click()
        assert person.one("dialog canvas").get_attribute("width") == str(asked.size[0])
        assert person.problems() == []


def test_what_is_no_image_is_said_and_the_page_goes_on(
    person: Browser, shot: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 100)
    with shown(Looker(error="the prompt does not fit")) as url:
        person.open(url, *DESKTOP)
        person.one("input.vs-file").send_keys(str(tmp_path / "broken.png"))
        person.wait(lambda: "cannot be read as an image" in person.text(".vs-message.vs-wrong"), "the error")
        person.choose(EXAMPLES / "cards.jpg")
        person.ask("<img src=x onerror=alert(1)>?")
        person.answered()
        assert person.text(".vs-question") == "<img src=x onerror=alert(1)>?", "words are no HTML"
        assert person.text(".vs-failed .vs-note") == "the prompt does not fit"
        shot("desktop-failed")


def test_one_who_waits_sees_the_place_in_the_line(person: Browser, shot: Callable[[str], None]) -> None:
    engine = Gated()
    with shown(engine, places=1) as url:
        person.open(url, *DESKTOP)
        first = person.driver.current_window_handle
        person.choose(EXAMPLES / "cards.jpg")
        person.ask("First?")
        person.wait(lambda: person.all(".vs-busy"), "the first to be asked")
        person.driver.switch_to.new_window("tab")
        person.open(url, *DESKTOP)
        person.choose(EXAMPLES / "cards.jpg")
        person.ask("Second?")
        person.wait(lambda: "you are next" in person.text(".vs-busy"), "the place in the line")
        shot("desktop-waiting")
        engine.go.set()
        person.answered()
        person.driver.close()
        person.driver.switch_to.window(first)


def test_the_bundled_model_finds_and_reads_an_example(person: Browser, shot: Callable[[str], None]) -> None:
    if not (BUNDLED_FOLDER / "config.json").exists():
        pytest.skip("no bundled model in this checkout")
    from viscot_core import load

    example = examples()[0]
    with shown(load().engine, hint=hint_about(None)) as url:
        person.open(url, *DESKTOP)
        person.choose(example.image)
        person.ask(example.question)
        person.wait(lambda: person.all(".vs-box.vs-shown"), "the box")
        person.answered()
        assert person.text(".vs-way-cot .vs-answer") == example.answer
        assert "only knows viscot's synthetic images" in person.text(".vs-turn .vs-hint")
        shot("bundled-model")


@pytest.mark.parametrize(("window", "name"), [(DESKTOP, "desktop"), (PHONE, "phone")])
def test_several_looks_are_numbered_steps(
    person: Browser, shot: Callable[[str], None], window: tuple[int, int], name: str
) -> None:
    """In their order, beside each other, large enough to see; the answer of three looks stands below."""
    if not (BUNDLED_FOLDERS[BUNDLED_ZOOM] / "config.json").exists():
        pytest.skip("no bundled model in this checkout")
    from viscot_core import load

    with shown(load(BUNDLED_ZOOM, device="cpu").engine, zoom=ZoomSettings()) as url:
        person.open(url, *window)
        person.choose(EXAMPLES / "search.jpg")
        person.ask("On the white card, on the black card, what does the red card say?")
        person.answered()
        person.driver.execute_script("document.querySelector('.vs-turn').scrollIntoView()")
        moving = "return document.querySelector('.vs-turn').getAnimations({subtree: true}).length"
        person.wait(lambda: not person.driver.execute_script(moving), "the crops to have opened")
        shot(f"{name}-steps")
        steps = person.all(".vs-way-cot .vs-step")
        assert [step.text[:3] for step in steps] == ["1. ", "2. ", "3. "]
        card, words = (person.one(css).rect for css in (".vs-way-cot", ".vs-way-cot .vs-words"))
        right = 0.0
        for step in steps:
            place, crop = step.rect, step.find_element("css selector", "canvas").rect
            assert crop["width"] > 70 and crop["width"] == pytest.approx(crop["height"], rel=0.05)
            assert right <= place["x"] and place["y"] + place["height"] <= words["y"]
            right = place["x"] + place["width"]
        assert right <= card["x"] + card["width"] and words["width"] > 0.8 * (card["width"] - 30)
        assert person.text(".vs-way-cot .vs-words .vs-detail").endswith(" s")
        assert person.problems() == []


def test_a_page_of_a_pdf_is_chosen_and_the_answer_names_it(
    person: Browser, shot: Callable[[str], None], tmp_path: Path
) -> None:
    from selenium.webdriver import Keys

    pytest.importorskip("pypdfium2", reason="needs viscot[pdf]")
    pages = [Image.new("RGB", size, "white") for size in ((300, 400), (500, 300), (300, 400))]
    pages[0].save(tmp_path / "three.pdf", save_all=True, append_images=pages[1:], resolution=200)
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    with shown(Looker()) as url:
        person.open(url, *PHONE)
        person.one("input.vs-file").send_keys(str(tmp_path / "broken.pdf"))
        person.wait(lambda: "cannot be read as a PDF" in person.text(".vs-message.vs-wrong"), "the error")
        person.choose(tmp_path / "three.pdf")
        assert "Page 1 of 3, 300 × 400" in person.text(".vs-message")
        person.ask("First?")
        person.answered()
        person.one("[aria-label='Page after']").send_keys(Keys.ENTER)  # without a mouse
        person.wait(lambda: "Page 2 of 3, 500 × 300" in person.text(".vs-message"), "the second page")
        person.ask("Second?")
        person.answered()
        assert person.text(".vs-page") == "Page 2 of 3 | Page 1 of 3", "the first answer is still there"
        number = person.one(".vs-number")
        number.send_keys(Keys.CONTROL, "a")
        number.send_keys("9", Keys.TAB)
        person.wait(lambda: "Page 3 of 3" in person.text(".vs-message"), "the last page")
        assert not person.one("[aria-label='Page after']").is_enabled()
        wide = person.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= PHONE[0], "nothing sticks out to the right"
        shot("phone-pdf")
        person.choose(EXAMPLES / "cards.jpg")
        assert not person.one(".vs-leaf").is_displayed() and not person.all(".vs-turn")
        person.choose(tmp_path / "three.pdf")
        assert person.one(".vs-leaf").is_displayed()
        person.one(".vs-example").click()
        person.wait(lambda: person.text(".vs-message") == "Press Ask.", "the example")
        assert not person.one(".vs-leaf").is_displayed(), "an example has no pages"
        assert person.problems() == []


def test_a_question_waits_for_the_page_it_is_asked_about(
    person: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was about the page before, and its crop was cut from the new one."""
    from selenium.webdriver import Keys

    from viscot_core.demo import page as here

    pytest.importorskip("pypdfium2", reason="needs viscot[pdf]")
    pages = [Image.new("RGB", size, "white") for size in ((300, 400), (500, 300))]
    pages[0].save(tmp_path / "two.pdf", save_all=True, append_images=pages[1:], resolution=200)
    decode = here.decode

    def slow(*data: Any, **options: Any) -> Image.Image:
        time.sleep(1.5)
        return decode(*data, **options)

    with shown(Looker()) as url:
        person.open(url, *DESKTOP)
        person.choose(tmp_path / "two.pdf")
        monkeypatch.setattr(here, "decode", slow)
        person.one("[aria-label='Page after']").click()
        person.ask("Which?")
        assert "not here yet" in person.text(".vs-message")
        person.one("#question textarea, #question input").send_keys(Keys.ENTER)
        person.wait(lambda: "Page 2 of 2" in person.text(".vs-message"), "the second page")
        assert not person.all(".vs-turn")
        person.one("#ask").click()
        person.answered()
        assert person.text(".vs-page") == "Page 2 of 2"
        # A question that was sent holds its page, before its first words are there.
        person.ask("And here?")
        person.one("[aria-label='Page before']").click()
        assert "Wait for the answer" in person.text(".vs-message")
        person.answered()
        assert person.text(".vs-page") == "Page 2 of 2 | Page 2 of 2"
        person.one("[aria-label='Page before']").click()
        person.wait(lambda: "Page 1 of 2" in person.text(".vs-message"), "the first page")
        assert person.problems() == []


def test_the_image_on_the_page_is_the_one_that_is_asked_about(
    person: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second image, chosen while the first was on its way, was shown, and the server had the first."""
    from viscot_core.demo import page as here

    for name, size in (("first", (300, 200)), ("second", (500, 400))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    decode = here.decode

    def slow(*data: Any, **options: Any) -> Image.Image:
        time.sleep(2.5)
        return decode(*data, **options)

    monkeypatch.setattr(here, "decode", slow)
    with shown(Looker()) as url:
        person.open(url, *DESKTOP)
        file = person.one("input.vs-file")
        file.send_keys(str(tmp_path / "first.png"))
        time.sleep(0.7)
        file.send_keys(str(tmp_path / "second.png"))
        person.wait(lambda: "still on its way" in person.text(".vs-message"), "the second to be refused")
        person.one(".vs-example").click()
        person.wait(lambda: "300 × 200" in person.text(".vs-message"), "the first image")
        size = "const image = document.querySelector('.vs-image img'); return image.naturalWidth"
        assert person.driver.execute_script(size) == 300
        # After a while another may be chosen: where the first one comes after all, nothing is asked.
        person.driver.execute_script("const now = Date.now; Date.now = () => now() + (window.later || 0)")
        person.one(".vs-example").click()
        person.wait(lambda: person.text(".vs-message") == "Press Ask.", "the example")
        file.send_keys(str(tmp_path / "first.png"))
        time.sleep(0.7)
        person.driver.execute_script("window.later = 60000")
        file.send_keys(str(tmp_path / "second.png"))
        person.wait(lambda: "choose yours again" in person.text(".vs-message"), "the first one")
        person.ask("Which?")
        assert "not here yet" in person.text(".vs-message") and not person.all(".vs-turn")
        file.send_keys(str(tmp_path / "second.png"))
        person.wait(lambda: "500 × 400" in person.text(".vs-message"), "the second image")
        person.one("#ask").click()
        person.answered()
        assert person.problems() == []


@pytest.mark.parametrize(("window", "name"), [(DESKTOP, "desktop"), (PHONE, "phone")])
def test_models_are_chosen_and_answer_side_by_side(
    person: Browser, shot: Callable[[str], None], window: tuple[int, int], name: str
) -> None:
    from viscot_core.errors import CheckpointError

    def fails() -> Ready:
        raise CheckpointError("broken has no weights; copy it again.")

    with closing(Batcher(Looker(box="[0.100, 0.300, 0.300, 0.500]"))) as batcher:
        other = DemoModel("other", lambda: Ready(batcher, WORDING))
        with shown(Looker(), more=[other, DemoModel("broken", fails)]) as url:
            person.open(url, *window)
            person.choose(EXAMPLES / "wide.jpg")
            boxes = person.all("#models input")
            assert [box.is_selected() for box in boxes] == [True, False, False]
            boxes[0].click()
            person.one("#ask").click()
            person.wait(lambda: "Choose a model" in person.text(".vs-message"), "the hint")
            for box in boxes:
                box.click()
            person.ask("What is it?")
            person.answered()
            shot(f"{name}-models")
            assert person.text(".vs-model") == "looker | other | broken"
            assert person.text(".vs-failed .vs-note") == "broken has no weights; copy it again."
            assert person.text(".vs-answer").count("seen") == 2
            place = "return document.querySelector('.vs-box').style.left"
            first = person.driver.execute_script(place)
            show = [each for each in person.all(".vs-copy") if each.text == "Show its box"]
            show[1].click()
            person.wait(lambda: "box of other" in person.text(".vs-message"), "the other box")
            assert person.driver.execute_script(place) != first
            wide = person.driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= window[0], "nothing sticks out to the right"
            answer = person.one(".vs-answer").rect
            assert answer["y"] + answer["height"] < window[1], "the first answer is on the first screen"
            assert person.problems() == []
