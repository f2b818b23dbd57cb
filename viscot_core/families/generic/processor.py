"""Conversations through a model's own chat template and processor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from PIL import Image

from viscot_core import torch_builds
from viscot_core.boxes.geometry import Size
from viscot_core.conversation import CLOSING, IMAGE, OPENING, Message
from viscot_core.deadline import TEMPLATE_SECONDS, call_within
from viscot_core.errors import CheckpointError, EngineError, UsageError
from viscot_core.families.base import NO_THOUGHTS, ImageLimits
from viscot_core.families.generic.backbones import Backbone
from viscot_core.families.inputs import IGNORE, Rendered
from viscot_core.tensors import read_json

_FAULTS = (ImportError, RuntimeError, OSError, ValueError, KeyError, AttributeError, TypeError)
"""What transformers raises over a processor's files."""
_PACKAGES = ("torchvision", "num2words")
"""What some processors need, by the names that transformers' messages use."""
_FILES = {
    "image processor": ("preprocessor_config.json", "processor_config.json"),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
}
"""One of each is there in every folder that a processor can be made of."""
_CLASSES = (
    ("preprocessor_config.json", "image_processor_type"),
    ("preprocessor_config.json", "processor_class"),
    ("processor_config.json", "processor_class"),
    ("tokenizer_config.json", "tokenizer_class"),
)
"""Files that name classes of transformers, and where."""
_RENAMED = {"Qwen2_5_VLImageProcessor": "Qwen2VLImageProcessor"}
"""Names that were published once and that transformers no longer has, although it has the class."""
_TEMPLATE_CURE = "copy chat_template.jinja from the model's own folder on the hub"
_NO_LETTER = "\ufffd"
"""What decoding makes of bytes that are no letter, or not yet one."""
_SWITCH = "enable_thinking"
"""What a chat template calls the choice to think; without a word, many of them let the model think."""


def load_processor(path: Path) -> Any:
    """transformers' processor of a checkpoint folder, with Pillow's image processor, padding on the left.

    Raises:
        CheckpointError: the folder has no processor, or no chat template.
        EngineError: torchvision is missing, which processors with a video part need, or does not fit torch.
    """
    with _readable(path):
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    processor.image_processor = load_image_processor(path)
    # A processor may ask its image part for other things than the stored file says (InternVL: tiles). Images
    # are encoded by that part alone, so it is told here, once.
    for name, value in _asked_of_images(processor).items():
        if hasattr(processor.image_processor, name):
            setattr(processor.image_processor, name, value)
    # Some folders have it among the tokenizer's files only.
    processor.chat_template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if not processor.chat_template:
        raise CheckpointError(
            f"{path} has no chat template, so viscot cannot speak to its model; {_TEMPLATE_CURE}."
        )
    processor.tokenizer.padding_side = "left"
    return processor


def load_image_processor(path: Path) -> Any:
    """The image part of a checkpoint's processor alone; raises as ``load_processor`` does."""
    with _readable(path):
        from transformers import AutoImageProcessor

        # The backend is pinned: torchvision's pixels differ by up to 0.015 from Pillow's.
        return AutoImageProcessor.from_pretrained(
            path, backend="pil", local_files_only=True, trust_remote_code=False
        )


def _asked_of_images(processor: Any) -> dict[str, Any]:
    """What a processor's class asks of its image part with every image."""
    asked = getattr(type(processor), "images_kwargs", None)
    if asked is None:  # transformers before 5.23
        kinds = getattr(type(processor), "valid_processor_kwargs", None)
        asked = getattr(kinds, "_defaults", {}).get("images_kwargs", {})
    return dict(asked)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong while a processor's files are read, as a sentence."""
    try:
        yield
    except _FAULTS as error:
        if misfit := torch_builds.misfit_behind(error):
            raise EngineError(misfit) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        named = next((name for name in _PACKAGES if name in str(error).lower()), None)
        if named is not None and find_spec(named) is None:
            raise EngineError(
                f"The processor of {path} needs the package {named}, which is not here; install it with: "
                f"{torch_builds.install_models()}"
            ) from error
        if isinstance(error, ImportError | RuntimeError):
            raise EngineError(
                f"The processor of {path} needs a package that cannot be used here ({reason}); install it "
                f"again with: {torch_builds.install_models()}"
            ) from error
        for what, files in _FILES.items():
            if not any((path / file).exists() for file in files):
                raise CheckpointError(
                    f"{path} lacks the file of its {what} ({' or '.join(files[:2])}); pull it again."
                ) from error
        if unknown := _unknown_class(path):
            raise CheckpointError(unknown) from error
        raise CheckpointError(f"{path} has no readable processor ({reason}); pull it again.") from error


def _unknown_class(path: Path) -> str | None:
    """A sentence where a processor's file names a class that transformers does not have."""
    import transformers

    for file, key in _CLASSES:
        if not (path / file).is_file():
            continue
        about = read_json(path / file)
        name = about.get(key)
        if not isinstance(name, str) or hasattr(transformers, name.removesuffix("Fast")):
            continue
        told = f"{path / file} names the {key} '{name}', which transformers {transformers.__version__} "
        if name in _RENAMED:
            return f"{told}has under another name; write {_RENAMED[name]} there."
        own = ", and viscot does not run code that comes with a model" if about.get("auto_map") else ""
        return f"{told}does not know{own}; a newer transformers may: pip install -U transformers."
    return None


def limits_of(image_processor: Any, backbone: Backbone) -> ImageLimits:
    """Between how many tokens the image processor of a backbone with a ``step`` resizes to."""
    step = backbone.step or 1
    size, area = image_processor.size, step**2 * backbone.frames
    return ImageLimits(max(1, size["shortest_edge"] // area), max(1, size["longest_edge"] // area), step)


def set_limits(image_processor: Any, limits: ImageLimits, backbone: Backbone) -> None:
    """Let an image processor resize to other limits."""
    area = limits.step**2 * backbone.frames
    image_processor.size = {"shortest_edge": limits.least * area, "longest_edge": limits.most * area}


class GenericProcessor:
    """A transformers processor of any model, as the engine wants it; ``limits`` are those it resizes to."""

    def __init__(
        self, hf: Any, config: Any, path: Path, limits: ImageLimits | None = None, *, thinking: bool = False
    ) -> None:
        self.hf = hf
        self._path = path
        text = config.get_text_config()
        self.context = int(text.max_position_embeddings)
        self.stop_ids = frozenset(_stop_ids(hf.tokenizer, path))
        pad = hf.tokenizer.pad_token_id
        self.pad_id = int(pad if pad is not None else min(self.stop_ids))
        self.suppress_tokens = _slots(config)
        self.image_id = _image_id(config)
        # Some models read which tokens are an image's; how the input is called differs.
        made, own = hf(text=["x"]), hf.tokenizer("x")["input_ids"]
        self.kinds_name = next((n for n in ("mm_token_type_ids", "token_type_ids") if n in made), None)
        # Molmo 2's first token is written by the processor, not by its tokenizer.
        self._before = made["input_ids"][0][: len(made["input_ids"][0]) - len(own)]
        self._template = str(hf.chat_template)
        template = hashlib.sha256(self._template.encode()).hexdigest()[:12]
        pixels = hashlib.sha256(hf.image_processor.to_json_string().encode()).hexdigest()[:12]
        # Molmo 2 has no processor for Pillow: its pixels are torchvision's.
        by = getattr(hf.image_processor, "backend", "pil")
        self.identity = {"template": f"own-{template}", "pixels": f"{by}-{pixels}"}
        if limits is not None:
            self.identity["image_tokens"] = f"{limits.least}-{limits.most} of {limits.step} x {limits.step}"
        self.typical_prompt = 2 * 1280 + 256
        self.thinks = thinking
        # A template without the switch may still have thoughts: then its model always thinks.
        if thinking and not any(word in self._template for word in (_SWITCH, *OPENING)):
            raise UsageError(NO_THOUGHTS)
        if thinking:
            self.identity["thinking"] = "on"
        # Marks that are special tokens would be left out with the others, and a thought read as the answer.
        special = dict(zip(hf.tokenizer.all_special_tokens, hf.tokenizer.all_special_ids, strict=True))
        self._marks = {int(special[mark]): mark for mark in (*OPENING, *CLOSING) if mark in special}

    def require_slots(self) -> None:
        """Raise a CheckpointError where the chat template has no place for an image, or cannot be used."""
        asked = [Message("user", f"{IMAGE}\nWhat?")]
        try:
            self._text(asked, True)
        except ValueError as error:
            raise CheckpointError(f"{self._path}: {error}; {_TEMPLATE_CURE}.") from error
        try:
            ids = self.render(asked, [(64, 64)], generate=True).ids
        except ValueError:  # the processor counts the marks of images
            ids = []
        if self.image_id not in ids and (self.image_id != -1 or not ids):
            raise CheckpointError(
                f"{self._path}: its chat template has no place for an image; {_TEMPLATE_CURE}."
            )

    def render(
        self, messages: Sequence[Message], sizes: Sequence[Size], *, generate: bool = False
    ) -> Rendered:
        """Ids as the processor expands them for images of these sizes; nothing is supervised.

        (Blank images stand in for the real ones: how many tokens an image takes depends on its size alone.)
        """
        slots = sum(message.text.count(IMAGE) for message in messages if message.role == "user")
        if slots != len(sizes):
            raise ValueError(f"the prompt has {slots} <image> marks for {len(sizes)} images")
        images = [blank(size) for size in sizes]
        texts = [self._text(messages, generate)]
        out = self.hf(text=texts, images=[images] if images else None, **self._first_token(texts))
        ids = [int(i) for i in out["input_ids"][0]]
        return Rendered(ids, [IGNORE] * len(ids), len(sizes), seen=self._seen(out))

    def _seen(self, inputs: Any) -> tuple[Size, ...]:
        """The size of each image as its grid of patches says it; () where images are cut into tiles."""
        grids, side = inputs.get("image_grid_thw"), getattr(self.hf.image_processor, "patch_size", None)
        if grids is None or side is None:
            return ()
        return tuple((int(across) * side, int(down) * side) for _, down, across in grids)

    def slot_ids(self, messages: Sequence[Message]) -> list[int]:
        """The chat template's own ids, its image marks as they stand."""
        text = self._text(messages, True)
        own = self.hf.tokenizer(text, **self._first_token([text]))["input_ids"]
        return [int(i) for i in (*self._before, *own)]

    def shown(self, image: Image.Image) -> Image.Image:
        """The image itself: vLLM has the same processor."""
        return image

    def prompt(self, messages: Sequence[Message]) -> str:
        """The chat template's text that the model continues, with the template's own image marks."""
        try:
            return self._text(messages, True)
        except ValueError as error:
            raise CheckpointError(f"{self._path}: {error}.") from error

    def batch(
        self, conversations: Sequence[Sequence[Message]], images: Sequence[Sequence[Image.Image]]
    ) -> dict[str, Any]:
        """Left-padded tensors for conversations that the model is to continue, a row each."""
        texts = [self._text(messages, True) for messages in conversations]
        shown = [list(row) for row in images]
        options = {"padding": True, "return_tensors": "pt", **self._first_token(texts)}
        return dict(self.hf(text=texts, images=shown if any(shown) else None, **options))

    def text(self, ids: Sequence[int]) -> str:
        """Words of generated ids, special tokens left out, but for the marks of thoughts."""
        decode = partial(self.hf.tokenizer.decode, skip_special_tokens=True)
        pieces, start = list[str](), 0
        for place, token in enumerate(ids):
            if token in self._marks:
                pieces += [str(decode(list(ids[start:place]))), self._marks[token]]
                start = place + 1
        return "".join([*pieces, str(decode(list(ids[start:])))])

    def settled_text(self, ids: Sequence[int]) -> str:
        """The beginning of ``text(ids)`` that stays: without the half of a letter at its end."""
        return self.text(ids).rstrip(_NO_LETTER)

    def _first_token(self, texts: Sequence[str]) -> dict[str, bool]:
        """Keeps a tokenizer from writing its first token (BOS) where the template has written it (Gemma 3).

        transformers does the same where it tokenizes a template's text itself.
        """
        first = self.hf.tokenizer.bos_token
        return {"add_special_tokens": False} if first and texts[0].startswith(first) else {}

    def _text(self, messages: Sequence[Message], generate: bool) -> str:
        turns = [{"role": message.role, "content": _parts(message)} for message in messages]
        apply = partial(
            self.hf.apply_chat_template,
            turns,
            tokenize=False,
            add_generation_prompt=generate,
            **({_SWITCH: self.thinks} if _SWITCH in self._template else {}),
        )
        try:
            return str(call_within(TEMPLATE_SECONDS, apply))
        except TimeoutError as error:
            raise CheckpointError(
                f"{self._path}: its chat template took over {TEMPLATE_SECONDS:g} s; give another checkpoint."
            ) from error
        except (TemplateError, TypeError, LookupError, AttributeError) as error:
            # Some refuse an order of turns, some are written for messages without parts.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ValueError(f"its chat template cannot write this conversation: {reason}") from error


def _parts(message: Message) -> list[dict[str, str]]:
    """A message's content as templates want it; a line break after an image is the template's to write."""
    if message.role == "assistant":
        return [{"type": "text", "text": message.text}]
    first, *rest = message.text.split(IMAGE)
    parts: list[dict[str, str]] = [{"type": "text", "text": first}] if first else []
    for text in rest:
        parts.append({"type": "image"})
        if words := text.removeprefix("\n"):
            parts.append({"type": "text", "text": words})
    # SmolVLM's template asks for the kind of the first part, also of an empty message (paper Table 6's turn).
    return parts or [{"type": "text", "text": ""}]


@lru_cache(maxsize=64)
def blank(size: Size) -> Image.Image:
    """A black image of that size, which stands in for another where its pixels do not matter."""
    return Image.new("RGB", size)


def _stop_ids(tokenizer: Any, path: Path) -> set[int]:
    """Ids that end a turn: the tokenizer's and the generation config's (a number or a list)."""
    from transformers import GenerationConfig

    found: set[int] = set() if tokenizer.eos_token_id is None else {int(tokenizer.eos_token_id)}
    if (path / "generation_config.json").exists():
        declared = GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id
        found |= {int(i) for i in (declared if isinstance(declared, list) else [declared]) if i is not None}
    if not found:
        raise CheckpointError(f"{path} names no token that ends a turn (eos_token); add it.")
    return found


_IMAGE_IDS = ("image_token_id", "image_token_index", "image_patch_id")
_VIDEO_IDS = ("video_token_id", "video_token_index")


def _slots(config: Any) -> list[int]:
    """Ids that stand for images and videos: a model may not say them."""
    names = (*_IMAGE_IDS, *_VIDEO_IDS)
    return sorted({int(i) for name in names if isinstance(i := getattr(config, name, None), int)})


def _image_id(config: Any) -> int:
    """The id whose places an image's features take; -1 where the config names none."""
    return next((int(i) for name in _IMAGE_IDS if isinstance(i := getattr(config, name, None), int)), -1)
