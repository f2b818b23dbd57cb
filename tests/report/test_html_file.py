"""What a report's file holds, without a browser: its images, and nothing of another place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_report import make_run, report_of
from made_runs import prediction, write_run
from PIL import Image

from viscot_core.report.choices import Images
from viscot_core.report.html import write_report
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import read_scored_run
from viscot_core.score.offline import OfflineJudge
from viscot_core.score.scoring import score_run
from viscot_core.sources.catalog import load_catalog


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("small"), 5)


def data_of(report: Path) -> dict[str, Any]:
    """What the page's script reads."""
    (text,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', report.read_text(), re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_file_stands_alone(small: Path, tmp_path: Path) -> None:
    """Nothing is fetched from anywhere: no address, no stylesheet, no script of another file."""
    text = report_of(small, tmp_path / "report.html", Images.EMBED).read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert "<link" not in text
    assert str(small) not in text
    assert not list(tmp_path.glob("*.tmp"))


def test_links_are_relative_and_quoted(small: Path, tmp_path: Path) -> None:
    text = report_of(small, tmp_path / "report.html", Images.LINK).read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    link = data["items"][2]["source"]
    assert link.endswith("/data/1%20%C3%BC%23.jpg")
    assert link.startswith("..")


@pytest.mark.parametrize(
    ("strategy", "image", "lies"),
    [
        ("refcoco", "COCO_train2014_1.jpg", "coco/train2014/COCO_train2014_1.jpg"),
        ("cot", "LINKED/1.jpg", "FOLDER/1.jpg"),
    ],
)
def test_an_image_is_found_where_the_benchmark_found_it(
    tmp_path: Path, strategy: str, image: str, lies: str
) -> None:
    """RefCOCO's under COCO's folders, any under the other name that the catalogue knows for its folder."""
    link, folder = next(iter(load_catalog().links.items()))
    image, lies = (name.replace("LINKED", link).replace("FOLDER", folder) for name in (image, lies))
    there = tmp_path / "data" / lies
    there.parent.mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(there)
    run = write_run(tmp_path / "run", [prediction(strategy=strategy, image=image)])
    report = build_report([read_scored_run(run)], ReportOptions())
    write_report(tmp_path / "report.html", report, data=tmp_path / "data", images=Images.LINK)
    assert f'"source":"data/{lies}"' in (tmp_path / "report.html").read_text()


def test_a_report_embeds_no_file_outside_of_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "secret.png")
    names = ["../secret.png", str(tmp_path / "secret.png")]
    run = write_run(tmp_path / "run", [prediction(question_id=n, image=name) for n, name in enumerate(names)])
    for images in (Images.EMBED, Images.LINK):
        report = build_report([read_scored_run(run)], ReportOptions())
        write_report(tmp_path / "report.html", report, data=tmp_path / "data", images=images)
        assert '"source"' not in (tmp_path / "report.html").read_text()


def test_a_judge_s_verdict_on_another_answer_is_not_shown(tmp_path: Path) -> None:
    """Only the chosen judge's file was checked to belong to the run."""
    run = write_run(tmp_path / "run", [prediction(question_id=n, answer="42") for n in (1, 2)])
    for judge in ("exact", "contains"):
        score_run(run, OfflineJudge(judge))
    scores = run / "scores.contains.jsonl"
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    next(row for row in rows if row.get("question_id") == 2)["pair"] = "0" * 16
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = build_report([read_scored_run(run, "exact")], ReportOptions())
    write_report(tmp_path / "report.html", report, images=Images.NONE)
    first, second = data_of(tmp_path / "report.html")["items"]
    assert first["judges"].keys() == {"exact", "contains"} and second["judges"].keys() == {"exact"}
