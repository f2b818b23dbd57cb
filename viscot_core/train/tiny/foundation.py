"""The foundation stage: what CLIP's pre-training gives a large model.

A tower trained from nothing on chains alone does not learn to read within hours. Here tower and projector
learn together under throw-away linear heads that must tell, from each projected patch, what lies under it:
colour, digit, the object's box, the object's number. The heads sit *after* the projector, so that what they
need survives it; they are dropped afterwards and are in no shipped file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from viscot_core.boxes.geometry import crop_window
from viscot_core.data.annotations import split_crop
from viscot_core.data.encode import Batch
from viscot_core.data.scenes import Scene
from viscot_core.errors import UsageError
from viscot_core.families.base import IGNORE
from viscot_core.families.llava.pixels import normalise, square_pixels
from viscot_core.train.objectives.base import Objective, StageRows, Step
from viscot_core.train.plan.steps import Split
from viscot_core.train.recipe.schema import FoundationSpec
from viscot_core.train.tiny.patch_truth import NOTHING, PatchTruth, make_sheet, patch_truth
from viscot_core.train.tiny.pixel_cache import PixelCache
from viscot_core.train.tiny.whole_files import (
    bucketed_order,
    patches_along,
    pixels_of,
    read_conversations,
    read_scenes,
)


class Foundation(Objective):
    """Tower and projector learn what lies under each patch; the language model does not run."""

    reads_text: ClassVar[bool] = False

    def open_rows(self) -> StageRows:
        run, spec = self.run, self.stage.foundation
        assert spec is not None
        scenes = read_scenes(run.root / "scenes.jsonl")
        conversations = read_conversations([run.root / name for name in self.stage.data_files])
        names = sorted({name for row in conversations for name in row.image})
        pixels = pixels_of(run)
        if not scenes:
            raise UsageError(
                "A foundation stage needs scenes.jsonl in the data root; make it with `viscot data synth`."
            )
        share = spec.sheet_share
        sheets = math.floor(len(names) * share / (1 - share)) if share < 1 else len(names)
        return FoundationRows(pixels, names, scenes, sheets=sheets, grid=patches_along(run))

    def counts(self, batch: Mapping[str, torch.Tensor]) -> None:
        return None

    def loss(
        self, model: Any, batch: dict[str, torch.Tensor], step: Step
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
        return module.llava if isinstance(module, FoundationModel) else module

    def extra(self, module: Any) -> nn.Module:
        heads: nn.Module = module.heads
        return heads


class FoundationRows(Dataset[tuple[NDArray[np.uint8], PatchTruth]]):
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


class FoundationModel(nn.Module):
    """Tower and projector of a LLaVA model under linear patch heads; ``forward`` returns the summed loss."""

    def __init__(self, llava: Any, spec: FoundationSpec) -> None:
        super().__init__()
        self.llava = llava
        self.spec = spec
        width = llava.config.text_config.hidden_size
        self.heads = nn.ModuleDict(
            {
                "color": nn.Linear(width, NOTHING + 1),
                "glyph": nn.Linear(width, 11),
                "tens": nn.Linear(width, 10),
                "units": nn.Linear(width, 10),
                "box": nn.Linear(width, 4),
            }
        )

    def forward(self, pixel_values: torch.Tensor, **truth: torch.Tensor) -> dict[str, torch.Tensor]:
        """``pixel_values [B, 3, H, W]``; ``color, glyph, tens, units [B, n]``; ``box [B, n, 4]``."""
        features = self.llava.model.get_image_features(pixel_values).pooler_output
        patches = torch.stack(tuple(features))
        losses = {
            name: _asked_mean(self.heads[name](patches).flatten(0, 1), truth[name].flatten())
            for name in ("color", "glyph", "tens", "units")
        }
        covered = truth["color"] != NOTHING
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
    """Mean cross-entropy over the patches that are asked, 0 where none is: no number may be readable."""
    losses = F.cross_entropy(logits.float(), truth, ignore_index=IGNORE, reduction="sum")
    return losses / (truth != IGNORE).sum().clamp(min=1)


@torch.no_grad()
def whiten_projector(llava: Any, pixel_values: torch.Tensor) -> None:
    """Start the projector's first layer from whitened tower features.

    CLIP hands over un-normalised hidden states with a few loud directions; a usual initialisation lets the
    projector lose the quiet ones (colour among them).
    """
    hidden = llava.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    features = hidden[llava.config.vision_feature_layer][:, 1:].flatten(0, 1).double()
    mean = features.mean(0)
    covariance = torch.cov(features.T)
    values, vectors = torch.linalg.eigh(covariance)
    floor = values.max() * 1e-4
    whitening = vectors @ torch.diag((values + floor).rsqrt()) @ vectors.T
    layer = llava.model.multi_modal_projector.linear_1
    mixing = torch.nn.init.orthogonal_(torch.empty_like(layer.weight)).double()
    layer.weight.copy_(mixing @ whitening)
    layer.bias.copy_(-(mixing @ whitening @ mean))
