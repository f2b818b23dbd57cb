"""The report in a real browser (headless Chromium): it loads, filters and pages, and shows no model's
markup.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from made_report import make_run, report_of
from made_runs import prediction, talk, write_run
from PIL import Image

from viscot_core.report.choices import Images
from viscot_core.report.html import write_report
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import read_scored_run
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

CATCH = (
    """<script>window.faults = []; addEventListener("error", e => faults.push(e.message), true);</script>"""
)
RESULT = """<script>addEventListener("load", async () => {{
  const result = {{}};
  try {{ {script} }} catch (error) {{ faults.push(String(error)); }}
  result.faults = faults; result.hacked = window.hacked === 1;
  document.body.replaceChildren(Object.assign(document.createElement("pre"),
    {{id: "result", textContent: JSON.stringify(result)}}));
}});</script>"""


def browse(report: Path, script: str, *options: str) -> dict[str, Any]:
    """Open ``report`` in Chromium, run ``script`` once all has loaded (it fills ``result``), return the
    result.
    """
    page = report.with_name("browsed.html")
    text = report.read_text().replace("<head>", "<head>" + CATCH, 1)
    page.write_text(text.replace("</body>", RESULT.format(script=script) + "</body>"))
    dom = chromium(report.parent, "--dump-dom", "--virtual-time-budget=20000", *options, page.as_uri())
    found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    return json.loads(unescape(found[1]))


def chromium(folder: Path, *arguments: str) -> str:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1300,2000", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("small"), 50)


IMAGES_SEEN = """
  const images = [...document.querySelectorAll("article .image img")];
  result.seen = images.filter(i => i.naturalWidth > 0).length;
  result.missing = document.querySelectorAll(".missing").length;
  result.cards = document.querySelectorAll("article").length;
"""


@browser
@pytest.mark.parametrize("images", [Images.EMBED, Images.LINK])
def test_it_loads_without_errors_and_shows_images(small: Path, tmp_path: Path, images: Images) -> None:
    result = browse(report_of(small, tmp_path / "report.html", images), IMAGES_SEEN)
    assert result["cards"] == 24
    assert result["seen"] == 20
    assert result["missing"] == 4
    assert not result["hacked"]
    if images is Images.EMBED:
        assert result["faults"] == []


@browser
def test_filters_and_paging_work(small: Path, tmp_path: Path) -> None:
    script = """
      const where = () => document.getElementById("where").value;
      const press = id => document.getElementById(id).click();
      const heads = () =>
        [...document.querySelectorAll("article header span:first-child")].map(s => s.textContent);
      const set = (name, value) => {
        form.elements[name].value = value;
        form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
        return where();
      };
      result.start = where();
      press("next");
      result.second = [where(), heads()[0]];
      press("back");
      result.back = where();
      result.cot = [set("strategy", "cot"), heads().every(h => h.endsWith("cot"))];
      result.cub = set("dataset", "cub");
      result.right = set("score", "0.5 and more");
      result.unjudged = set("score", "no verdict");
      set("score", "");
      result.failed = set("status", "failed");
      set("status", "");
      result.unparsable = set("box", "unparsable");
      set("box", "");
      result.words = [set("words", "card 13?"), heads()];
      result.none = set("words", "nothing at all");
      result.hash = location.hash;
      for (const name of ["words", "strategy", "dataset"]) set(name, "");
      result.per = [set("per", "96"), heads().length];
    """
    result = browse(report_of(small, tmp_path / "report.html", Images.EMBED), script)
    assert result["faults"] == []
    assert result["start"] == "100 items, page 1 of 5"
    assert result["second"] == ["100 items, page 2 of 5", "docvqa 12, cot"]
    assert result["back"] == "100 items, page 1 of 5"
    assert result["cot"] == ["50 items, page 1 of 3", True]
    assert result["cub"].startswith("25 items")
    right = sum(n % 3 != 0 and n % 10 != 9 for n in range(1, 50, 2))
    assert result["right"].startswith(f"{right} items")
    assert result["unjudged"].startswith("5 items")
    assert result["failed"].startswith("5 items")
    assert result["unparsable"].startswith("2 items")
    assert result["words"] == ["1 items, page 1 of 1", ["cub 13, cot"]]
    assert result["none"] == "0 items, page 1 of 1"
    assert "words=nothing+at+all" in result["hash"]
    assert result["per"] == ["100 items, page 1 of 2", 96]


@browser
def test_questions_are_compared_across_strategies_and_judges(tmp_path: Path) -> None:
    """Question 1: cot right, direct wrong. 2: the other way round. 3: both right, and the judges disagree."""
    said = {1: ("42", "no"), 2: ("no", "42"), 3: ("42", "42!"), 4: ("no", "no")}
    rows = [
        prediction(strategy=strategy, question_id=number, answer=answer, seconds=number)
        for number, answers in said.items()
        for strategy, answer in zip(("cot", "direct"), answers, strict=True)
    ]
    run = write_run(tmp_path / "run", rows)
    score_run(run, OfflineJudge("exact"))
    score_run(run, OfflineJudge("contains"))
    scores = run / "scores.contains.jsonl"
    changed = [json.loads(line) for line in scores.read_text().splitlines()]
    for row in changed:
        if (row.get("question_id"), row.get("strategy")) == (3, "cot"):
            row["score"] = 0.0
    scores.write_text("".join(json.dumps(row) + "\n" for row in changed))
    page = tmp_path / "report.html"
    report = build_report([read_scored_run(run, "exact")], ReportOptions())
    write_report(page, report, images=Images.NONE)
    script = """
      const heads = () =>
        [...document.querySelectorAll("article > header span:first-child")].map(s => s.textContent);
      const set = (name, value) => {
        form.elements[name].value = value;
        form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
      };
      result.options = [...form.elements.compare.options].map(o => o.textContent);
      set("compare", "cot right, direct wrong");
      result.pair = heads();
      set("view", "rows");
      const where = document.getElementById("where").value;
      result.row = [heads(), document.querySelectorAll(".way").length, where];
      set("compare", "judges disagree");
      result.apart = [heads(), document.querySelector("dl").textContent];
      set("compare", "");
      set("sort", "slow");
      result.slow = heads();
      set("sort", "apart");
      result.furthest = heads().slice(0, 2);
      set("view", "");
      set("sort", "worst");
      result.worst = document.querySelector("article .badge").textContent;
      shown[0].answer = '=HYPERLINK("http://x")';
      shown[1].answer = "-5";
      result.csv = csv();
      result.prompts = [...document.querySelectorAll("pre")].map(p => p.textContent);"""
    found = browse(page, script)
    assert found["faults"] == []
    assert found["options"] == [
        "all",
        "cot right, direct wrong (1)",
        "direct right, cot wrong (1)",
        "judges disagree (1)",
    ]
    assert found["pair"] == ["synth 1, cot", "synth 1, direct"]
    assert found["row"] == [["synth 1"], 2, "1 questions, page 1 of 1"]
    assert found["apart"][0] == ["synth 3"] and "exact 1.00" in found["apart"][1]
    assert found["slow"] == ["synth 4", "synth 3", "synth 2", "synth 1"]
    assert sorted(found["furthest"]) == ["synth 1", "synth 2"]
    assert found["worst"] == "0.00"
    table = list(csv.DictReader(io.StringIO(found["csv"])))
    assert len(table) == 8 and {row["run"] for row in table} == {"run"}
    assert {row["question"] for row in table} == {"What number is on the red card?"}
    # A model's words are no formula to a spreadsheet; a number stays one.
    assert table[0]["answer"] == '\'=HYPERLINK("http://x")' and table[1]["answer"] == "-5"
    assert table[0]["true_box"] == "64 48 192 176" and table[0]["box_status"] == "ok"
    one = next(text for text in found["prompts"] if "ASSISTANT: [0.100, 0.200, 0.300, 0.400]" in text)
    assert "What number is on the red card?" in one


@browser
def test_a_phone_shows_it_whole(small: Path, tmp_path: Path) -> None:
    """In a frame of 390 px: nothing sticks out, and what stays in sight is a tenth of the screen at most."""
    report = report_of(small, tmp_path / "report.html", Images.EMBED)
    page = tmp_path / "phone.html"
    page.write_text(
        f"""<head></head><body><iframe src="{report.name}" width="390" height="844"></iframe></body>"""
    )
    script = """
      const inside = document.querySelector("iframe").contentDocument;
      result.wide = inside.documentElement.scrollWidth;
      result.bar = inside.getElementById("bar").offsetHeight;
      result.cards = inside.querySelectorAll("article").length;"""
    found = browse(page, script, "--allow-file-access-from-files")
    assert found["cards"] == 24
    assert found["wide"] <= 390 and found["bar"] <= 84


@browser
def test_a_link_opens_what_was_filtered(small: Path, tmp_path: Path) -> None:
    script = """
      location.hash = "strategy=direct&page=2";
      await new Promise(done => setTimeout(done, 100));
      result.where = document.getElementById("where").value;
      location.hash = "strategy=unheard-of&per=7&page=x";
      await new Promise(done => setTimeout(done, 100));
      result.odd = document.getElementById("where").value;
    """
    result = browse(report_of(small, tmp_path / "report.html", Images.NONE), script)
    assert result["where"] == "50 items, page 2 of 3"
    assert result["odd"] == "100 items, page 1 of 5"
    assert result["faults"] == []


@browser
def test_words_of_models_stay_words(small: Path, tmp_path: Path) -> None:
    script = """
      const answers = [...document.querySelectorAll("dd")].map(d => d.textContent);
      result.shown = answers.filter(a => a.includes("onerror")).length;
      result.images = document.querySelectorAll("dd img, dd script").length;
    """
    result = browse(report_of(small, tmp_path / "report.html", Images.NONE), script)
    assert result["shown"] > 0
    assert result["images"] == 0
    assert not result["hacked"]


@browser
@pytest.mark.slow
def test_ten_thousand_items_stay_usable(tmp_path: Path) -> None:
    report = report_of(make_run(tmp_path, 5000, images=400), tmp_path / "report.html", Images.LINK)
    assert report.stat().st_size < 12_000_000
    script = """
      const timed = act => {
        const start = performance.now();
        act();
        document.body.offsetHeight;  // lay out
        return performance.now() - start;
      };
      result.where = document.getElementById("where").value;
      result.cards = document.querySelectorAll("article").length;
      result.next = timed(() => document.getElementById("next").click());
      form.elements.words.value = "card 4999?";
      result.search = timed(() => form.dispatchEvent(new Event("input")));
      result.found = document.getElementById("where").value;
    """
    result = browse(report, script)
    assert result["where"] == "10000 items, page 1 of 417"
    assert result["cards"] == 24
    assert result["found"].startswith("2 items")
    assert result["next"] < 3000
    assert result["search"] < 3000


@browser
def test_a_screenshot_is_not_blank(small: Path, tmp_path: Path) -> None:
    """``VISCOT_KEEP=FOLDER`` keeps the image as FOLDER/report.png."""
    report = report_of(small, tmp_path / "report.html", Images.EMBED)
    chromium(tmp_path, f"--screenshot={tmp_path / 'shot.png'}", report.as_uri())
    if keep := os.environ.get("VISCOT_KEEP"):
        shutil.copy(tmp_path / "shot.png", Path(keep) / "report.png")
    with Image.open(tmp_path / "shot.png") as shot:
        colors = shot.convert("RGB").getcolors(2**24)
    assert colors and len(colors) > 200


@browser
def test_a_talk_is_drawn_as_numbered_steps(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cot" / "synth" / "val"
    folder.mkdir(parents=True)
    Image.new("RGB", (640, 480), "teal").save(folder / "2.jpg")
    run = write_run(tmp_path / "run", [talk(2, 2, refused=3)])
    page = tmp_path / "report.html"
    report = build_report([read_scored_run(run)], ReportOptions())
    write_report(page, report, data=tmp_path / "data", images=Images.EMBED)
    script = """
      result.steps = [...document.querySelectorAll(".step")].map(step => step.textContent);
      result.crops = document.querySelectorAll(".crop").length;
      result.text = document.querySelector("article").textContent;"""
    found = browse(page, script)
    assert found["steps"] == ["1. [0.100, 0.100, 0.900, 0.900]", "2. [0.200, 0.100, 0.900, 0.900]"]
    assert found["crops"] == 2 and "3 of its calls" in found["text"] and not found["faults"]
