"""A random model and made-up images with their questions, for `bench.py`."""

from __future__ import annotations

import json
import random
from pathlib import Path

from viscot_core.boxes.geometry import Box, Frame, format_box
from viscot_core.boxes.registry import codec
from viscot_core.conversation import BOX_REQUEST, IMAGE
from viscot_core.families.llava.template import TEMPLATES
from viscot_core.policies.wording import Wording

WORDING = Wording(codec("viscot"))
QUESTIONS = (
    "What is written on the sign?",
    "Which color is the large shape on the left?",
    "How many are there?",
)


def make_model(folder: Path, *, positions: int = 2048) -> Path:
    """A random model of 17 M parameters: 336 px, 576 image tokens, most of its work in the language model.

    Its context has so many ``positions``.
    """
    from viscot_core.families.llava.scratch import build_model, train_tokenizer
    from viscot_core.families.manifest import Manifest
    from viscot_core.train.recipe.tiny_specs import ScratchSpec

    shape = ScratchSpec(
        image_side=336,
        vision_width=192,
        vision_layers=6,
        vision_mlp=768,
        llm_width=384,
        llm_layers=8,
        llm_mlp=1024,
        max_positions=positions,
        vocab_size=1000,
    )
    # Real vocabularies know these words: prompts must not be longer in tokens than they really are.
    said = [turns for q in QUESTIONS for turns in (WORDING.answer(q, "[0.1, 0.2]"), WORDING.detection(q))]
    said.append(WORDING.refcoco("The thing number 1 on the left"))
    texts = [TEMPLATES["vicuna_v1"].prompt(turns) for turns in said]
    texts += [text.lower() for text in texts]
    tokenizer = train_tokenizer(texts * 3, vocab_size=shape.vocab_size, max_positions=shape.max_positions)
    model = build_model(shape, tokenizer, feature_layer=-2, attention="sdpa", seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Manifest(name="random-17m", template="vicuna_v1", image_side=336).save(folder)
    return folder


def make_data(root: Path, *, images: int, expressions: int, name: str = "made") -> Path:
    """``images`` of 640 x 480 with one question and ``expressions`` referring expressions each."""
    import numpy as np
    from PIL import Image

    rng = random.Random(name)
    (root / "images").mkdir(parents=True, exist_ok=True)
    for folder in ("benchmark", "benchmark_det", "refcoco"):
        (root / folder).mkdir(exist_ok=True)
    questions, regions, referring = [], [], []
    for number in range(images):
        image = f"images/{name}_{number}.jpg"
        coarse = np.random.default_rng(number).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480)).save(root / image, quality=90)
        box = [rng.randrange(300), rng.randrange(200), 320 + rng.randrange(300), 220 + rng.randrange(200)]
        words = format_box(Box(*map(float, box), frame=Frame.ORIGINAL).to_square((640, 480)))
        question = QUESTIONS[number % 3]
        spoken = [f"{IMAGE}\n{question} {BOX_REQUEST}", words, IMAGE, "yes"]
        turns = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(spoken)]
        questions.append(
            {"dataset": name, "question_id": number, "image": [image, image], "conversations": turns}
        )
        region = {"img_path": image, "bbox": box, "height": 480, "width": 640}
        regions.append({**region, "expression": question, "question_id": number})
        referring += [
            {**region, "expression": f"The thing number {n} on the left", "sent_id": number * expressions + n}
            for n in range(expressions)
        ]
    (root / "benchmark" / f"{name}.json").write_text(json.dumps(questions))
    for path, rows in ((f"benchmark_det/{name}", regions), (f"refcoco/REC_refcoco_{name}_val", referring)):
        (root / f"{path}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root
