"""What every family must do, one function a check: tests ask them, ``performance/families.py`` prints them.

Each takes a made model (``Made``) and raises AssertionError where the family does not do it.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from made_bench import write_root
from made_families import make
from made_hub import Hub, pull, serving
from PIL import Image
from serve_help import question, running

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.conversation import Message
from viscot_core.demo.backend import DemoBackend
from viscot_core.demo.models import DemoModel, Ready
from viscot_core.engines.base import Generation, Request
from viscot_core.engines.open import EngineOptions, codec_for
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.images.view import view_of
from viscot_core.models.load import LoadedModel, load_model
from viscot_core.models.zoo import resolve
from viscot_core.policies.wording import Wording
from viscot_core.serve.batching import Batcher

IMAGES = [Image.effect_noise(size, 60).convert("RGB") for size in ((90, 60), (120, 200), (300, 100))]
SHARING = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "glm-4v", "internvl", "idefics3", "smolvlm")
"""Families whose prompts share what precedes the questions about an image."""
NARROW = 201
"""The sides' ratio from which Qwen-VL's and GLM's processors refuse an image."""


@dataclass
class Made:
    """A tiny random model of a family in a folder of its own, and the command line."""

    name: str
    work: Path
    viscot: Callable[..., Any]

    @cached_property
    def folder(self) -> Path:
        return make(self.name, self.work / self.name)

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(self.folder, device="cpu", dtype="fp32")

    @cached_property
    def engine(self) -> LocalEngine:
        return LocalEngine(self.loaded, batch_size=4)

    @property
    def box_format(self) -> str:
        """Its own, or one of a model whose family does not make it certain."""
        return self.loaded.family.box_format or "thousand"

    @property
    def asked(self) -> list[str | Path]:
        """The options that name it on the command line."""
        words: list[str | Path] = ["--model", self.folder, "--device", "cpu"]
        return words + ([] if self.loaded.family.box_format else ["--box-format", self.box_format])

    def run(self, *words: str | Path) -> str:
        """Standard output of a command that must do its work."""
        ran = self.viscot(*words)
        assert ran.code == 0, f"viscot {words[0]}: {ran.code}\n{ran.err}"
        assert "[transformers]" not in ran.err, ran.err
        return str(ran.out)

    def image(self, size: tuple[int, int] = (160, 120)) -> Path:
        """A file with an image of noise."""
        path = self.work / f"{size[0]}x{size[1]}.png"
        if not path.exists():
            Image.effect_noise(size, 50).convert("RGB").save(path)
        return path

    def data(self) -> Path:
        """A data root of four questions."""
        root = self.work / "data"
        return root if root.exists() else write_root(root, count=4, images=3)


def asked() -> list[Request]:
    """One image, the same image again, a chain about two others, and text alone."""
    wide, tall, long = IMAGES
    chain = (
        Message("user", "<image>\nwhere is the blue card, please?"),
        Message("assistant", "box"),
        Message("user", "<image>\nwhich number"),
    )
    return [
        Request((Message("user", "<image>\nwhere is the red card?"),), (view_of(wide),), 12),
        Request((Message("user", "<image>\nand where, where is the green card?"),), (view_of(wide),), 9),
        Request(chain, (view_of(tall), view_of(long)), 12),
        Request((Message("user", "how many?"),), (), 12),
    ]


def answered(engine: LocalEngine, requests: list[Request]) -> list[Generation]:
    """The generations, none of which failed."""
    said = engine.generate(requests)
    assert all(one.error is None for one in said) and any(one.text for one in said), said
    return said


# -- the engine ---------------------------------------------------------------------------------------


def batch_is_single(made: Made) -> None:
    """Rows of zero, one and two images in one batch say what each says alone."""
    alone = LocalEngine(made.loaded, batch_size=1)
    assert answered(made.engine, asked()) == [alone.generate([each])[0] for each in asked()]


def fast_is_plain(made: Made) -> None:
    """The shared prefix, where the family has one, changes no word."""
    plain = LocalEngine(made.loaded, batch_size=4, reuse=False)
    assert answered(made.engine, asked()) == answered(plain, asked())
    assert (made.engine.prefix is not None) == (made.name in SHARING)
    assert "prefix" not in made.engine.identity


def a_narrow_image_fails_alone(made: Made) -> None:
    """An image that the processor does not take fails its own item; the others of its batch have answers."""
    narrow = view_of(Image.new("RGB", (NARROW * 10 + 20, 10)))
    before = asked()
    said = made.engine.generate([before[0], Request(before[0].messages, (narrow,), 4), *before[1:]])
    assert [one.error for one in (said[0], *said[2:])] == [None] * 4
    assert said[1].error is None or "aspect ratio must be smaller than 200" in said[1].error
    assert (said[1].error is not None) == made.name.startswith(("qwen", "glm"))


def boxes_come_back(made: Made) -> None:
    """A box in the model's own words is read as the box of the stored image, within a token of it."""
    options = EngineOptions(str(made.folder), box_format=made.loaded.family.box_format or made.box_format)
    own, size = codec_for(options), (517, 333)
    if own.resize is not None:  # pixels of the image after its resize, by the processor itself
        processor: Any = made.loaded.processor
        seen = own.resize(size)
        pixels = processor.hf.image_processor(images=[Image.new("RGB", size)], return_tensors="pt")
        _, down, across = (int(side) for side in pixels["image_grid_thw"][0])
        assert seen == (across * 14, down * 14)
    box = Box(100, 50, 300, 200, Frame.ORIGINAL)
    found = own.parse(own.encode(box, size), size).box.to_original(size)
    assert max(abs(a - b) for a, b in zip(found.coords, box.coords, strict=True)) <= 517 / 84


# -- the commands -------------------------------------------------------------------------------------


def bench_cot(made: Made) -> None:
    """``bench cot`` under four strategies, ``score`` and ``stats``."""
    out = made.work / "cot"
    words = ["--strategy", "cot,direct,gt-box,no-image", "--max-new-tokens", "8", "--max-truncated", "1"]
    made.run("bench", "cot", "--data", made.data(), "--out", out, *words, *made.asked)
    counts = json.loads((out / "run.json").read_text())["counts"]
    assert counts["done"] + counts.get("truncated", 0) >= 16 and not counts["failed"] + counts["pending"]
    made.run("score", out, "--judge", "exact")
    assert "4 of 4" in made.run("stats", out)


def bench_refcoco(made: Made) -> None:
    """``bench refcoco`` and ``stats``; every item has a box, or is counted as unparsable."""
    out = made.work / "refcoco"
    words = ["--max-new-tokens", "8", "--max-truncated", "1"]
    made.run("bench", "refcoco", "--data", made.data(), "--out", out, *words, *made.asked)
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(row["box_status"] in ("ok", "repaired", "unparsable") for row in rows)
    assert "4 of 4" in made.run("stats", out)


def bench_vqa(made: Made) -> None:
    """``bench vqa``, whose questions ask for no box."""
    rows = [{"question_id": 1, "image": made.image().name, "text": "Which colour?", "answer": "red"}]
    questions = made.work / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--max-new-tokens", "4", "--max-truncated", "1", "--out", made.work / "vqa"]
    made.run("bench", "vqa", "--questions", questions, "--images", made.work, *words, *made.asked)


def infer_chat_demo(made: Made) -> None:
    """A question, a conversation, and the cards of the page."""
    record = json.loads(
        made.run("infer", made.image(), "What?", "--json", "--max-new-tokens", "8", *made.asked)
    )
    assert record["error"] is None and record["box_status"] in ("ok", "repaired", "unparsable")
    lines = iter(["What number?", "/direct Which colour?", "/quit"])
    with _typed(lines):
        said = made.run("chat", made.image(), "--max-new-tokens", "8", *made.asked)
    assert said.count("answer  ") == 2 and said.count("box     ") == 1
    batcher = Batcher(made.engine)
    try:
        page = DemoBackend([DemoModel("made", lambda: Ready(batcher, wording(made)))])
        *_, cards = page.ask(lambda: IMAGES[0], "What?", ["cot", "direct"])
    finally:
        batcher.close()
    assert [card.state for card in cards] == ["done", "done"]


def serve_streams(made: Made) -> None:
    """A real HTTP server: the box first, then the answer in pieces that make up the plain reply."""
    content = base64.b64encode(made.image().read_bytes()).decode()
    body = question("What?", f"data:image/png;base64,{content}", max_tokens=8)
    with running(made.engine, wording=wording(made)) as here:
        plain = here.post(body).json()
        streamed = here.post({**body, "stream": True})
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    assert lines[-1] == "[DONE]", streamed.text
    events = [json.loads(line) for line in lines[:-1]]
    told = [event["viscot"]["box"] for event in events if "box" in event.get("viscot", {})]
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events if event["choices"]]
    assert told and told[0] == plain["viscot"]["box"]
    assert "".join(pieces).strip() == plain["choices"][0]["message"]["content"].strip()


# -- files --------------------------------------------------------------------------------------------


def saved_and_loaded(made: Made) -> None:
    """A model that transformers writes again, in several files, says the same, and nothing is missing."""
    again = made.work / "again"
    made.loaded.model.save_pretrained(again, max_shard_size="200KB")
    assert (again / "model.safetensors.index.json").exists()
    for file in made.folder.iterdir():
        if not (again / file.name).exists() or file.name == "generation_config.json":
            shutil.copy(file, again / file.name)
    loaded = load_model(again, device="cpu", dtype="fp32")
    said = LocalEngine(loaded, batch_size=4).generate(asked())
    assert said == made.engine.generate(asked())
    assert loaded.family.name == made.name


def pulled(made: Made) -> None:
    """``models pull`` from a hub on this machine brings every file; the model answers from the cache."""
    files = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    cache = made.work / "cache"
    with serving(Hub(files, repo=f"someone/tiny-{made.name}")) as hub:
        ran = pull(hub, cache, made.work)
    assert ran.returncode == 0, ran.stderr
    folder = Path(ran.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert resolve(folder) == folder
    loaded = load_model(folder, device="cpu", dtype="fp32")
    assert LocalEngine(loaded).generate(asked()[:1]) == made.engine.generate(asked()[:1])


def inspected(made: Made) -> None:
    """``models inspect`` counts every part and finds nothing amiss."""
    report = json.loads(made.run("models", "inspect", made.folder, "--json"))
    sizes = report["parameters"]
    assert sizes["total"] == sum(each.numel() for each in made.loaded.model.parameters())
    assert min(sizes.values()) > 1000 and not report["missing"] + report["misshaped"]


def wording(made: Made) -> Wording:
    """How it is spoken to."""
    return Wording(codec_for(EngineOptions(str(made.folder), box_format=made.box_format)))


@contextmanager
def _typed(lines: Iterator[str]) -> Iterator[None]:
    """These lines, as a person would type them."""
    import builtins

    before = builtins.input
    builtins.input = lambda *_: next(lines)
    try:
        yield
    finally:
        builtins.input = before


CHECKS: dict[str, Callable[[Made], None]] = {
    "batch = single, 0-2 images": batch_is_single,
    "fast = plain": fast_is_plain,
    "narrow image fails alone": a_narrow_image_fails_alone,
    "boxes come back": boxes_come_back,
    "bench cot": bench_cot,
    "bench refcoco": bench_refcoco,
    "bench vqa": bench_vqa,
    "infer, chat, demo": infer_chat_demo,
    "serve streams": serve_streams,
    "save, load": saved_and_loaded,
    "pull": pulled,
    "inspect": inspected,
}
"""The columns of the table."""
