"""The page in a thread, and a headless Chromium that looks at it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serve_help import WORDING

from viscot_core.demo.models import DemoModel, Ready
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.serve.batching import Batcher
from viscot_core.serve.listen import listen

CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)


@contextmanager
def shown(engine: Any, **options: Any) -> Iterator[str]:
    """The page's address; it is served until the block ends. ``options`` are those of ``page_of``."""
    with page_of(engine, **options) as (url, _):
        yield url


@contextmanager
def page_of(
    engine: Any,
    *,
    places: int = 8,
    hint: str = "",
    zoom: ZoomSettings | None = None,
    more: Sequence[DemoModel] = (),
) -> Iterator[tuple[str, Any]]:
    """The address of a served page, and its Gradio blocks."""
    from viscot_core.demo.backend import DemoBackend
    from viscot_core.demo.page import build, launch

    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    batcher = Batcher(engine, batch=8)
    model = DemoModel(engine.name, lambda: Ready(batcher, WORDING, zoom), hint=hint)
    model.ready()
    blocks = build(DemoBackend([model, *more], places=places))
    launch(blocks, "127.0.0.1", port, block=False)
    try:
        yield f"http://127.0.0.1:{port}", blocks
    finally:
        blocks.close(verbose=False)
        batcher.close()


class Browser:
    """What a person does on the page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.asked = ""

    def open(self, url: str, width: int, height: int) -> None:
        """Load the page in a window whose inside is ``width`` x ``height``."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.driver.get(url)
        self.asked = ""
        self.wait(lambda: self.all(".vs-stage .vs-example"), "the stage")

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements("css selector", css)

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        """What stands there now; read again where the page redraws an element while it is read."""
        from selenium.common.exceptions import StaleElementReferenceException

        for _ in range(100):
            try:
                return " | ".join(each.text for each in self.all(css))
            except StaleElementReferenceException:
                continue
        raise AssertionError(f"{css} is redrawn without end")

    def wait(self, done: Any, what: str, seconds: float = 40) -> None:
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, (
                f"waited {seconds:g} s for {what}; the page says {self.text('body')!r}"
            )
            time.sleep(0.05)

    def choose(self, image: Path) -> None:
        self.one("input.vs-file").send_keys(str(image))
        self.wait(lambda: "pixels. Ask" in self.text(".vs-message"), "the image to be taken")

    def ask(self, question: str) -> None:
        box = self.one("#question textarea, #question input")
        box.clear()
        box.send_keys(question)
        self.asked = question
        self.one("#ask").click()

    def answered(self) -> None:
        self.wait(
            lambda: (
                self.all(".vs-turn:first-child .vs-card")
                # Right after a click an earlier question is still the first.
                and self.text(".vs-turn:first-child .vs-question").endswith(self.asked)
                and not self.all(".vs-turn:first-child .vs-busy")
                and self.text("#ask") == "Ask"
            ),
            "the answer",
        )

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press at ``start`` and let go at ``end``, in shares of the image."""
        from selenium.webdriver import ActionChains

        image = self.one(".vs-image")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        width, height = image.size["width"], image.size["height"]
        x, y = ((start[0] - 0.5) * width, (start[1] - 0.5) * height)
        along, down = (end[0] - start[0]) * width, (end[1] - start[1]) * height
        chain = ActionChains(self.driver).move_to_element_with_offset(image, x, y).click_and_hold()
        chain.move_by_offset(along / 2, down / 2).move_by_offset(along / 2, down / 2).release().perform()

    def screenshot(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))

    def problems(self) -> list[str]:
        """What the browser's console calls severe."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A headless Chromium with its own profile; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    driver_path = shutil.which("chromedriver")
    if CHROMIUM is None or driver_path is None:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
