"""What the measurements use of viscot: all that a move of its modules can break."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from viscot_core.boxes.geometry import crop_window, parse_box
from viscot_core.boxes.registry import codec
from viscot_core.engines.base import Request
from viscot_core.families.llava.template import TEMPLATES, render
from viscot_core.images.view import View, crop
from viscot_core.policies.wording import Wording

GIB = 2**30
WORDING = Wording(codec("viscot"))
BOX = "[0.282, 0.316, 0.794, 0.738]"
WAYS = ("graphs", "static", "growing", "unfused")
"""How the local engine decodes: captured steps, the same steps one by one, a cache that grows; or captured
steps of plain kernels, where the others are fused as in ``bench``."""

Asked = tuple[Request, list[int], list[Any]]
"""A request, its ids, and the images it shows."""


def shape_of(config: Any) -> Any:
    from viscot_core.families.llava.shapes import shape_of_config

    return shape_of_config(config)


def loaded_model(model: Any, tokenizer: Any) -> Any:
    """What ``load_model`` would give, of weights in memory."""
    from viscot_core.families.llava.processor import ChatProcessor, ChatTokenizer
    from viscot_core.families.manifest import Manifest
    from viscot_core.families.table import family_of
    from viscot_core.models.load import LoadedModel

    side, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    tokens = ChatTokenizer(tokenizer, image_tokens=(side // patch) ** 2, turn_tokens="plain")
    processor = ChatProcessor(tokens, TEMPLATES["vicuna_v1"], model.config, len(tokenizer))
    manifest = Manifest(name="random", template="vicuna_v1", image_side=side)
    family = family_of(model.config.to_dict())
    return LoadedModel(model, family, processor, manifest, Path("random"), "random")


def open_engine(loaded: Any, batch: int = 0, way: str = "") -> Any:
    """The engine of this machine; batch 0: what fits; a way of ``WAYS``, or as it chooses."""
    from viscot_core.engines.transformers.engine import LocalEngine

    engine = LocalEngine(loaded, batch_size=batch, fused=way != "unfused")
    if way and engine.prefix is not None:
        on_gpu = engine.model.device.type == "cuda"
        static = engine.prefix.static_decoder(graphs=on_gpu and way in ("graphs", "unfused"))
        engine.prefix.static = None if way == "growing" else static
    return engine


def run_bench(
    kind: str, data: Path, out: Path, engine: Any, progress: Callable[[int, int], None] | None = None
) -> tuple[int, int]:
    """``viscot bench cot|refcoco`` with a loaded engine: how many items were finished and how many failed."""
    from viscot_core.runs.answering import answer_queries
    from viscot_core.runs.loop import Built, RunPlan, run
    from viscot_core.tasks.refcoco import RefCoco
    from viscot_core.tasks.visual_cot.task import VisualCot

    task: Any = VisualCot(data) if kind == "cot" else RefCoco(data)
    settings = task.settings(codec("viscot"))
    batch = engine.traits.batch
    plan = RunPlan(out, task.kind, task.load(), task.strategies, settings, "random", data, batch=batch)
    ask = partial(answer_queries, type(task), settings, engine)
    _, tally = run(plan, lambda: Built(ask, {}, batch), progress=progress)
    return tally.finished, tally.failed + sum(tally.open.values())


def prompt(loaded: Any, kind: str, words: str, box: str, image: Any, key: str) -> Asked:
    """One prompt of the benchmark: ``detect``, ``answer`` (with a crop) or ``refer``."""
    turns = {
        "detect": lambda: WORDING.detection(words),
        "answer": lambda: WORDING.answer(words, box),
        "refer": lambda: WORDING.refcoco(words),
    }[kind]()
    views: tuple[View, ...] = (View(image, key),)
    if kind == "answer":
        views = (*views, crop(views[0], crop_window(parse_box(box).box, image.size)))
    images = [view.image for view in views]
    ids = loaded.processor.render(turns, [one.size for one in images], generate=True).ids
    return Request(turns, views), ids, images


def box_request() -> str:
    from viscot_core.conversation import BOX_REQUEST

    return BOX_REQUEST


def prompt_texts(questions: Sequence[str]) -> list[str]:
    """What the prompts say, for the tokenizer."""
    said = [t for q in questions for t in (WORDING.detection(q), WORDING.answer(q, BOX), WORDING.refcoco(q))]
    return [render(turns, TEMPLATES["vicuna_v1"], generate=True).text for turns in said]


def open_file(path: Path) -> Any:
    from viscot_core.images.reading import open_image

    return open_image(path)


def pixels_of(image: Any, side: int) -> Any:
    """``float32[3, side, side]`` of an image, by the exact way of inference."""
    from viscot_core.families.llava.pixels import preprocess

    return preprocess(image, side)


def stage_two(lora: int, recompute: int, max_length: int) -> Any:
    """Stage 2 of the recipe ``7b-336``, with LoRA of that rank on the language model."""
    from viscot_core.train.recipe.load import load_recipe
    from viscot_core.train.recipe.schema import LoraSpec

    stage = load_recipe("7b-336").stage("finetune")
    changes: dict[str, Any] = {"max_length": max_length}
    if lora:
        changes |= {"lora": LoraSpec(rank=lora), "train": ("projector", "llm")}
    from viscot_core.train.plan.plan_types import with_recompute

    return with_recompute(stage.model_copy(update=changes), recompute)


def prepare_training(model: Any, stage: Any) -> Any:
    """What the training process does to a model before the Trainer gets it, recomputation apart."""
    from viscot_core.families.table import training_from_parts
    from viscot_core.train.loop.trainable import add_adapters, freeze_for

    training = training_from_parts()
    training.allow_text_only_batches(model, None)  # type: ignore[arg-type]
    freeze_for(training, model, stage)
    return add_adapters(training, model, stage.lora, stage) if stage.lora else model


def encode_rows(rows: Sequence[dict[str, Any]], loaded: Any) -> list[Any]:
    """Samples of LLaVA-type rows: ``sample.encoded.ids / labels``, ``sample.images``."""
    from viscot_core.data.annotations import Conversation
    from viscot_core.data.encode import encode

    processor = loaded.processor.under("vicuna_v1")
    return [encode(Conversation.model_validate(row), processor, max_length=2048) for row in rows]


def padded_batch(samples: Sequence[Any], pad_id: int) -> dict[str, Any]:
    from viscot_core.data.encode import collate

    return dict(collate(samples, {}, pad_id=pad_id))


def packed_batch(samples: Sequence[Any], pad_id: int, capacity: int) -> tuple[dict[str, Any], list[int]]:
    """The batch and the order its images take."""
    from viscot_core.data.packing import collate_packed

    batch, order = collate_packed(samples, pad_id=pad_id, capacity=capacity)
    return dict(batch), list(order)


def token_losses(logits: Any, labels: Any) -> Any:
    from viscot_core.train.objectives.sft import token_losses as losses

    return losses(logits, labels)


def one_row_batch(samples: Sequence[Any], pad_id: int) -> dict[str, Any]:
    """As the trainer's loader makes it, without the images."""
    from viscot_core.data.packing import collate_one_row
    from viscot_core.train.objectives.token_loss import with_targets

    return dict(with_targets(collate_one_row(samples, pad_id=pad_id)))


def trainers_loss(text_rows: int, stage: Any) -> Callable[[Any, dict[str, Any], float], Any]:
    """The trainer's own loss: ``loss(model, batch, learned tokens of the step)``."""
    from types import SimpleNamespace

    import torch

    from viscot_core.families.table import training_from_parts
    from viscot_core.train.objectives.base import TrainStep
    from viscot_core.train.objectives.sft import Sft

    run: Any = SimpleNamespace(text_rows=text_rows, training=training_from_parts())
    objective = Sft(run, stage)
    return lambda model, batch, words: objective.loss(
        model, batch, TrainStep(torch.tensor(words), 1, 1, 0, 1)
    )[0]


def use_attention(base: Any, one_row: bool) -> None:
    """The trainer's attention over one row of samples, or the usual one."""
    from viscot_core.families.table import training_from_parts
    from viscot_core.train.objectives import varlen

    varlen.register()
    training_from_parts().use_attention(base, varlen.VARLEN if one_row else "sdpa")


def compile_parts(base: Any, backend: str) -> None:
    """What a recipe's ``compile: true`` does."""
    from viscot_core.families.table import training_from_parts

    training_from_parts().compile_parts(base, language_model=True, backend=backend)


def memory_estimate(config: Any, stage: Any, per_device: int) -> float:
    """The plan's estimate of one GPU's memory, GiB."""
    from viscot_core.train.plan.estimates import memory_gib

    return float(memory_gib(shape_of(config), stage, per_device, 1))


def answering_estimate(parameters: float) -> float:
    """What ``viscot doctor`` takes a model of so many parameters to need in 16 bit, GiB."""
    from viscot_core.models.known import ZOO

    sized = [model for model in ZOO.values() if model.parameters is not None]
    known = min(sized, key=lambda model: abs(model.parameters - parameters / 1e9))
    return replace(known, parameters=parameters / 1e9).gpu_gb(16) * 1e9 / GIB


def doctor_lines() -> list[str]:
    from viscot_core.doctor import examine

    wanted = ("models", "recipes", "hardware")
    return [f"{f.name}: {f.text}" for f in examine(measure=False) if f.group in wanted]
