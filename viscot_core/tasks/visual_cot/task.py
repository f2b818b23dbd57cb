"""The Visual CoT benchmark (section 5): ``benchmark/*.json`` with the boxes of ``benchmark_det/*.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from viscot_core.boxes.formats import Codec
from viscot_core.boxes.geometry import CropPolicy
from viscot_core.conversation import BOX_REQUEST, IMAGE
from viscot_core.data.annotations import Conversation, DetectionRow, Rows, split_crop
from viscot_core.errors import DataError, UsageError, check_choice
from viscot_core.policies.base import Answer
from viscot_core.policies.two_turn import MOST_LOOKS
from viscot_core.policies.wording import PROTOCOLS
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.tasks.base import (
    MAX_NEW_TOKENS,
    Benchmark,
    Facts,
    Item,
    Settings,
    Strategy,
    box_facts,
    check_strategies,
)
from viscot_core.tasks.image_files import find_image
from viscot_core.tasks.loading import Selection, digest_of, put
from viscot_core.tasks.shared_strategies import attention_settings
from viscot_core.tasks.suites import chosen_tasks
from viscot_core.tasks.visual_cot.strategies import STRATEGIES


@dataclass(frozen=True)
class VisualCot:
    """Questions of a data root under any of the strategies; ``suite`` and ``tasks`` name data sets.

    Raises:
        UsageError: an unknown strategy or protocol; a crop policy where only the zoom loop looks.
    """

    kind: ClassVar[str] = "cot"
    all_strategies: ClassVar[Mapping[str, Strategy]] = STRATEGIES

    data: Path
    strategies: tuple[str, ...] = ("cot",)
    suite: str | None = None
    tasks: tuple[str, ...] = ()
    select: Selection = field(default_factory=Selection)
    crop_policy: CropPolicy = CropPolicy.PAPER
    protocol: str = "paper"
    max_new_tokens: int = MAX_NEW_TOKENS
    zoom: ZoomSettings = field(default_factory=ZoomSettings)
    attention_layer: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategies", check_strategies(self.strategies, STRATEGIES))
        check_choice("--protocol", self.protocol, PROTOCOLS)
        if self.crop_policy is not CropPolicy.PAPER and all(STRATEGIES[s].loops for s in self.strategies):
            raise UsageError(
                f"--crop-policy is for two turns; the dialect {self.zoom.dialect} has a crop of its own: "
                "remove --crop-policy."
            )

    def load(self) -> Benchmark:
        """As ``load_visual_cot``."""
        return load_visual_cot(self.data, suite=self.suite, tasks=self.tasks, select=self.select)

    def settings(self, codec: Codec | None) -> dict[str, Any]:
        """Everything that changes an answer and is known before a model is loaded."""
        return {
            "crop_policy": self.crop_policy.value,
            "protocol": self.protocol,
            "box_format": codec.name if codec else None,
            # Absent for viscot's own models, whose words name one box.
            **({"most_looks": MOST_LOOKS} if codec and codec.name != "viscot" else {}),
            "seed": self.select.seed,
            "max_new_tokens": self.max_new_tokens,
            **({"zoom": self.zoom.record()} if "zoom" in self.strategies else {}),
            **attention_settings(self.attention_layer, [STRATEGIES[name] for name in self.strategies]),
        }

    @staticmethod
    def metrics(item: Item, answer: Answer, settings: Settings) -> Facts:
        """The answer, its region and the IoU; the text is scored by a judge (``score``)."""
        return {"answer": answer.text, **box_facts(item, answer, settings)}


def load_visual_cot(
    root: Path,
    *,
    suite: str | None = None,
    tasks: Sequence[str] = (),
    select: Selection | None = None,
) -> Benchmark:
    """The benchmark of a data root.

    Without ``suite`` and ``tasks``: the paper's data sets, or, in a root that has none of them, all it has.

    Raises:
        UsageError: an unknown suite or task, or no benchmark there.
        DataError: damaged or duplicate rows, or images missing (unless they may be left out).
    """
    select = select or Selection()
    found = {path.stem: path for path in sorted((root / "benchmark").glob("*.json"))}
    names = chosen_tasks(root, found, suite, tasks)
    items: list[Item] = []
    hashes: dict[str, str] = {}
    for name in names:
        items += select.sample(_items(root, name, found[name]))
        hashes[name] = digest_of(found[name], _regions_file(root, name))
    return select.benchmark(items, hashes, {name: found[name].stem for name in names})


def _regions_file(root: Path, name: str) -> Path:
    return root / "benchmark_det" / f"{name}.jsonl"


def _items(root: Path, name: str, path: Path) -> list[Item]:
    boxes = _regions_file(root, name)
    if not boxes.is_file():
        raise DataError(f"{boxes} is missing; it holds the boxes of {path.name}: fetch it again.")
    regions: dict[str, DetectionRow] = {}
    for region in Rows(boxes, DetectionRow):
        put(regions, region.question_id, region, boxes)
    rows: dict[str, Conversation] = {}
    for row in Rows(path, Conversation):
        put(rows, row.id, row, path)
    # Both ways: a question without its box, or a box without its question, means files of two versions.
    alone = [key for key in [*rows, *regions] if (key in rows) != (key in regions)]
    if alone:
        raise DataError(
            f"{path} and {boxes} hold different questions ({len(alone)} ids are in one of them only, "
            f"the first is {alone[0]}); fetch both again."
        )
    return [_item(root, name, path, row, regions[key]) for key, row in rows.items()]


def _item(root: Path, name: str, path: Path, row: Conversation, region: DetectionRow) -> Item:
    assert row.id is not None
    if len(row.turns) != 4 or not row.image:
        raise DataError(f"{path}: question {row.id} does not have an image, a box and an answer.")
    # The file holds the finished prompt of the training data; a policy writes its own around the bare
    # question.
    question = row.turns[0].text.removeprefix(f"{IMAGE}\n").removesuffix(f" {BOX_REQUEST}")
    image = split_crop(row.image[0])[0]
    return Item(
        dataset=name,
        question_id=row.id,
        image=image,
        path=find_image(root, image),
        size=region.size,
        question=question,
        box=region.box,
        box_text=row.turns[1].text,
        reference=row.turns[3].text,
    )
