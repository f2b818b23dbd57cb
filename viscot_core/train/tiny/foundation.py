"""The foundation stage: what CLIP's pre-training gives a large model.

A tower trained from nothing on chains alone does not learn to read within hours. Here tower and projector
learn together under throw-away linear heads that must tell, from each projected patch, what lies under it:
colour, digit, the object's box, the object's number. The heads sit *after* the projector, so that what they
need survives it; they are dropped afterwards and are in no shipped file.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from viscot_core.boxes.geometry import MIN_CROP_SIDE, Box, Frame, Window, crop_window
from viscot_core.data.annotations import split_crop
from viscot_core.data.encode import Batch
from viscot_core.data.scenes import COLORS, Scene, Thing, draw_thing, jitter_color
from viscot_core.errors import UsageError
from viscot_core.families.inputs import IGNORE
from viscot_core.families.llava import training
from viscot_core.families.llava.pixels import normalise, square_pixels
from viscot_core.train.objectives.base import Objective, StageRows, TrainStep
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.recipe.tiny_specs import FoundationSpec
from viscot_core.train.tiny.own_data import (
    PixelCache,
    bucketed_order,
    pixels_of,
    read_conversations,
    read_scenes,
)

NOTHING = len(COLORS)
"""Colour class of a patch that no object covers."""
READABLE_PX = 9.0
"""Font size in the view from which digits are asked of the tower."""


class Foundation(Objective):
    """Tower and projector learn what lies under each patch; the language model does not run."""

    reads_text: ClassVar[bool] = False

    def open_rows(self) -> StageRows:
        run, spec = self.run, self.stage.foundation
        assert spec is not None
        scenes = read_scenes(run.root / "scenes.jsonl")
        conversations = read_conversations([run.root / name for name in self.stage.data_files])
        names = sorted({name for row in conversations for name in row.image})
        side = run.processor.image_side
        assert side is not None
        pixels = pixels_of(run.recipe, run.root, run.images, side)
        if not scenes:
            raise UsageError(
                "A foundation stage needs scenes.jsonl in the data root; make it with `viscot data synth`."
            )
        share = spec.sheet_share
        # Solves sheets / (names + sheets) = share.
        sheets = math.floor(len(names) * share / (1 - share)) if share < 1 else len(names)
        return FoundationDataset(
            pixels, names, scenes, sheets=sheets, grid=training.patches_along(run.model.config)
        )

    def counts(self, batch: Mapping[str, torch.Tensor]) -> None:
        return None

    def loss(
        self, model: Any, batch: dict[str, torch.Tensor], step: TrainStep
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean of the batches' means: every view has as many patches."""
        out = {name: value / step.batches for name, value in model(**batch).items()}
        return out.pop("loss"), out

    def attach(self, model: Any, rows: StageRows, split: Split, seed: int) -> Any:
        spec = self.stage.foundation
        assert spec is not None
        torch.manual_seed(seed)
        headed = FoundationModel(model, spec)
        if spec.whiten_projector:
            sample = [rows[i] for i in rows.order(split, seed)[:256].tolist()]
            whiten_projector(model, rows.collate(sample)["pixel_values"])
        return headed

    def detach(self, module: Any) -> Any:
        return module.inner if isinstance(module, FoundationModel) else module

    def extra(self, module: Any) -> nn.Module:
        heads: nn.Module = module.heads
        return heads


class FoundationModel(nn.Module):
    """Tower and projector of a model under linear patch heads; ``forward`` returns the summed loss."""

    def __init__(self, model: Any, spec: FoundationSpec) -> None:
        super().__init__()
        self.inner = model
        self.spec = spec
        width = int(model.config.text_config.hidden_size)
        sizes = {"color": NOTHING + 1, "glyph": 11, "tens": 10, "units": 10, "box": 4}
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, pixel_values: torch.Tensor, **truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss and its parts, scalars.

        ``pixel_values [B, 3, H, W]``; ``color, glyph, tens, units [B, n]`` and ``box [B, n, 4]`` (0..1 of the
        view) for the ``n`` patches of each view.
        """
        patches = training.projected_patches(self.inner, pixel_values)  # [B, n, width]
        losses = {
            name: _asked_mean(self.heads[name](patches).flatten(0, 1), truth[name].flatten())
            for name in ("color", "glyph", "tens", "units")
        }
        covered = truth["color"] != NOTHING  # a patch that no object covers has no box to tell
        predicted = self.heads["box"](patches).float().sigmoid()
        apart = (predicted[covered] - truth["box"][covered]).abs()
        losses["box"] = apart.sum() / max(apart.numel(), 1)
        spec = self.spec
        loss = (
            spec.color_weight * losses["color"]
            + spec.glyph_weight * (losses["glyph"] + losses["tens"] + losses["units"])
            + spec.box_weight * 10 * losses["box"]
        )
        return {"loss": loss, **{f"loss_{name}": value.detach() for name, value in losses.items()}}


def _asked_mean(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the patches that are asked, 0 where none is: no number may be readable.

    ``logits [patches, classes]``, ``truth [patches]`` (``IGNORE`` where a patch is not asked) -> a scalar.
    """
    losses = F.cross_entropy(logits.float(), truth, ignore_index=IGNORE, reduction="sum")
    return losses / (truth != IGNORE).sum().clamp(min=1)


@torch.no_grad()
def whiten_projector(model: Any, pixel_values: torch.Tensor) -> None:
    """Start the projector's first layer from whitened tower features of ``pixel_values [B, 3, H, W]``.

    CLIP hands over un-normalised hidden states with a few loud directions; a usual initialisation lets the
    projector lose the quiet ones (colour among them). With mean m and covariance C = V diag(l) V', the layer
    becomes x -> Q W (x - m), where W = V diag(l + floor)^-1/2 V' makes every direction equally loud and Q is
    a random rotation. The floor, 1e-4 of the loudest, keeps what is only noise from being blown up.
    """
    features = training.tower_patches(model, pixel_values).flatten(0, 1).double()  # [B * n, tower width]
    mean = features.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(features.T))
    floor = values.max() * 1e-4
    whitening = vectors @ torch.diag((values + floor).rsqrt()) @ vectors.T
    layer = training.first_projector_layer(model)
    mixing = torch.nn.init.orthogonal_(torch.empty_like(layer.weight)).double()
    layer.weight.copy_(mixing @ whitening)
    layer.bias.copy_(-(mixing @ whitening @ mean))


# -- what lies under a patch ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PatchTruth:
    """Per patch of a view, row-major: ``color int[n]``, ``glyph int[n]`` (10: none), ``tens`` and ``units``
    of the object's number ``int[n]`` (IGNORE where absent or unreadable), ``box float[n, 4]`` 0..1."""

    color: NDArray[np.int64]
    glyph: NDArray[np.int64]
    tens: NDArray[np.int64]
    units: NDArray[np.int64]
    box: NDArray[np.float32]


def patch_truth(scene: Scene, window: Window, grid: int, view_side: int) -> PatchTruth:
    """What lies under each of ``grid x grid`` patches of the view that shows ``window`` of the scene."""
    left, top, right, bottom = window
    size = (right - left, bottom - top)
    count = grid * grid
    truth = PatchTruth(
        np.full(count, NOTHING), np.full(count, 10), np.full(count, IGNORE), np.full(count, IGNORE),
        np.zeros((count, 4), np.float32),
    )  # fmt: skip
    centres = (np.arange(grid) + 0.5) / grid
    readable = scene.font_size * view_side / max(size) >= READABLE_PX
    for thing in scene.things:
        box = view_box(thing.box, window)
        rows = (centres > box.y0) & (centres < box.y1)
        columns = (centres > box.x0) & (centres < box.x1)
        # Row-major, as the tower orders its patches: rows x columns -> [n].
        under = np.outer(rows, columns).ravel()
        truth.color[under] = list(COLORS).index(thing.color)
        truth.box[under] = box.clip((1, 1)).coords
        text = view_box(thing.text_box, window)
        inside = min(text.coords) >= 0 and max(text.coords) <= 1
        if readable and inside:
            truth.tens[under] = int(thing.text[0])
            truth.units[under] = int(thing.text[1])
            _mark_glyphs(truth.glyph, thing, text, grid)
        elif not readable:
            truth.glyph[under] = IGNORE
    return truth


def view_box(box: Window, window: Window) -> Box:
    """A box of the scene (pixels) in the 0..1 frame of the view that shows ``window``."""
    left, top, right, bottom = window
    moved = Box(box[0] - left, box[1] - top, box[2] - left, box[3] - top, Frame.ORIGINAL)
    return moved.to_square((right - left, bottom - top))


def _mark_glyphs(glyph: NDArray[np.int64], thing: Thing, text: Box, grid: int) -> None:
    """The patch under each digit's middle; two digits in one patch leave it unasked."""
    row = int((text.y0 + text.y1) / 2 * grid)
    first = int((text.x0 + text.width * 0.25) * grid)
    second = int((text.x0 + text.width * 0.75) * grid)
    if first == second:
        glyph[row * grid + first] = IGNORE
        return
    glyph[row * grid + first] = int(thing.text[0])
    glyph[row * grid + second] = int(thing.text[1])


def make_sheet(seed: int, side: int = MIN_CROP_SIDE) -> tuple[Image.Image, Scene]:
    """A ``side x side`` image full of coloured fields with numbers, in a crop's scale, and its truth."""
    rng = random.Random(f"sheet-{seed}")
    image = Image.new("RGB", (side, side), jitter_color(rng, (150, 150, 150), 40))
    pen = ImageDraw.Draw(image)
    font_size = rng.randint(side // 9, side // 5)
    columns, rows = (3, 4) if font_size < side / 7 else (2, 3)
    cell_w, cell_h = side / columns, side / rows
    things: list[Thing] = []
    for row in range(rows):
        for column in range(columns):
            width = rng.uniform(0.82, 0.98) * cell_w
            height = rng.uniform(0.75, 0.98) * cell_h
            x = column * cell_w + rng.uniform(0, cell_w - width)
            y = row * cell_h + rng.uniform(0, cell_h - height)
            box = (int(x), int(y), int(x + width), int(y + height))
            things.append(_sheet_field(rng, box, font_size))
            draw_thing(pen, things[-1], jitter_color(rng, COLORS[things[-1].color]), font_size)
    return image, Scene(seed, (side, side), font_size, tuple(things))


def _sheet_field(rng: random.Random, box: Window, font_size: int) -> Thing:
    width, height = round(font_size * 1.2), round(font_size * 0.8)
    slack_x = max(0, (box[2] - box[0] - width) // 2 - 2)
    slack_y = max(0, (box[3] - box[1] - height) // 2 - 2)
    x = (box[0] + box[2] - width) // 2 + rng.randint(-slack_x, slack_x)
    y = (box[1] + box[3] - height) // 2 + rng.randint(-slack_y, slack_y)
    text = str(rng.randint(10, 99))
    return Thing("card", rng.choice(list(COLORS)), text, box, (x, y, x + width, y + height))


class FoundationDataset(Dataset[tuple[NDArray[np.uint8], PatchTruth]]):
    """Views of scenes and sheets full of numbers, ``sheet_share`` of them sheets."""

    def __init__(
        self, pixels: PixelCache, names: Sequence[str], scenes: dict[str, Scene], *, sheets: int, grid: int
    ) -> None:
        self._pixels, self._names, self._scenes, self._grid = pixels, list(names), scenes, grid
        self._sheets = sheets

    def __len__(self) -> int:
        return len(self._names) + self._sheets

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], PatchTruth]:
        side = self._pixels.side
        if index >= len(self._names):
            image, scene = make_sheet(index)
            return square_pixels(image, side), patch_truth(scene, (0, 0, *scene.size), self._grid, side)
        name = self._names[index]
        path, box = split_crop(name)
        scene = self._scenes[path]
        window = (0, 0, *scene.size) if box is None else crop_window(box, scene.size)
        return self._pixels[name], patch_truth(scene, window, self._grid, side)

    def order(self, split: Split, seed: int) -> NDArray[np.int64]:
        """Whole steps, whatever the number of processes."""
        return bucketed_order([0] * len(self), split.total, seed)

    def collate(self, rows: list[tuple[NDArray[np.uint8], PatchTruth]]) -> Batch:
        batch = {"pixel_values": torch.from_numpy(np.stack([normalise(pixels) for pixels, _ in rows]))}
        for name in ("color", "glyph", "tens", "units", "box"):
            batch[name] = torch.from_numpy(np.stack([getattr(truth, name) for _, truth in rows]))
        return batch
