"""Several looks at each item: the best against the worst, and every item that gives no pair is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from zoom_talks import VIEW

from viscot_core.boxes.geometry import Box, Frame
from viscot_core.boxes.registry import codec
from viscot_core.engines.base import Generation, Sampling
from viscot_core.errors import DataError
from viscot_core.policies.two_turn import TwoTurn
from viscot_core.policies.wording import Wording
from viscot_core.tasks.base import Item
from viscot_core.train.preferences.looks import AT_ONCE, PairCounts, looks_at, pairs_of
from viscot_core.train.preferences.pairs import PreferencePair, read_pairs, write_pairs
from viscot_core.train.rewards.named import rewards_of

GOOD, POOR, BAD = (
    "[0.250, 0.250, 0.500, 0.500]",
    "[0.260, 0.260, 0.600, 0.600]",
    "[0.700, 0.700, 0.900, 0.900]",
)


def item(root: Path, **facts: object) -> Item:
    VIEW.image.save(root / "a.png")
    square = Box(0.25, 0.25, 0.5, 0.5).to_original(VIEW.image.size)
    known = {"box": square, "reference": "fox", **facts}
    return Item("made", 1, "a.png", root / "a.png", VIEW.image.size, "What is it?", **known)  # type: ignore[arg-type]


def pairs(
    items: list[Item], *replies: str | Generation, boxes: int = 3, rewards: str = "answer,iou"
) -> tuple[list[PreferencePair], PairCounts, ScriptedEngine]:
    engine = ScriptedEngine(*replies)
    counts = PairCounts()
    looks = looks_at(
        items, engine, TwoTurn(Wording(codec("viscot"))), rewards_of(rewards), boxes=boxes,
        sampling=Sampling(1.0, seed=3),
    )  # fmt: skip
    return list(pairs_of(looks, counts, margin=0.1)), counts, engine


def test_the_best_look_against_the_worst(tmp_path: Path) -> None:
    found, counts, engine = pairs([item(tmp_path)], POOR, GOOD, BAD, "fox", "fox", "dog")
    (pair,) = found
    assert (pair.chosen[0].content, pair.rejected[0].content) == (GOOD, BAD)
    assert pair.scores == {"chosen": pytest.approx(2.0), "rejected": 0.0}
    assert (counts.items, counts.pairs) == (1, 1)
    regions, answers = engine.calls
    # Looks are drawn (equal requests are so many draws), answers are greedy.
    assert [request.sampling and request.sampling.temperature for request in regions] == [1.0] * 3
    assert [request.sampling and request.sampling.greedy for request in answers] == [True] * 3
    assert all(len(request.images) == 2 for request in answers)
    # The prompt of the pair is what was asked.
    assert [m.content for m in pair.prompt] == [m.text for m in regions[0].messages]
    assert [turn.learned for turn in pair.turns("chosen")] == [False, True]


def test_no_answer_is_asked_where_no_reward_reads_it(tmp_path: Path) -> None:
    found, _, engine = pairs([item(tmp_path)], POOR, GOOD, BAD, rewards="iou")
    (pair,) = found
    assert (pair.chosen[0].content, pair.rejected[0].content) == (GOOD, BAD)
    assert [len(call) for call in engine.calls] == [3], "only the looks"
    _, _, engine = pairs([item(tmp_path)], POOR, GOOD, BAD, *["fox"] * 3, rewards="iou,format=0.1")
    assert [len(call) for call in engine.calls] == [3, 3]


def test_every_look_of_every_item_is_drawn_with_numbers_of_its_own(tmp_path: Path) -> None:
    """With the same ones at every item its looks are moved alike, and the pairs teach that move."""
    items = [item(tmp_path)] * (AT_ONCE + 1)
    _, _, engine = pairs(items, *[GOOD] * (3 * len(items)), rewards="iou")
    drawn = [request.draw for call in engine.calls for request in call]
    assert drawn == list(range(3 * len(items))), "in every call of the engine"


def test_equal_looks_give_no_pair_and_are_counted(tmp_path: Path) -> None:
    found, counts, _ = pairs([item(tmp_path)], GOOD, GOOD, GOOD, "fox")
    assert found == [] and (counts.equal, counts.pairs) == (1, 0)


def test_what_fails_is_counted_and_named(tmp_path: Path) -> None:
    gone = item(tmp_path)
    (tmp_path / "a.png").unlink()
    found, counts, _ = pairs([gone])
    assert found == [] and counts.failed == 1 and "a.png" in counts.reasons[0]
    broken = Generation("", 0, False, "out of memory")
    found, counts, _ = pairs([item(tmp_path)], GOOD, broken, BAD, "fox", "fox")
    assert found == [] and "out of memory" in counts.reasons[0]
    _, counts, _ = pairs([item(tmp_path, reference=None)], GOOD, BAD, POOR, "fox", "fox", "fox")
    assert counts.unknown == 1


def test_a_reply_that_was_cut_is_never_preferred(tmp_path: Path) -> None:
    cut = Generation("fox", 3, False, truncated=True)
    ((pair,), _, _) = pairs([item(tmp_path)], GOOD, POOR, BAD, cut, "fox", "dog")
    assert pair.chosen[0].content == POOR
    looks = [Generation(box, 20, False, truncated=True) for box in (GOOD, POOR, BAD)]
    found, counts, _ = pairs([item(tmp_path)], *looks, "fox", "fox", "dog")
    assert not found and counts.unknown == 1
    # The region's words go on behind the box until the limit cuts them; the answer after them is whole.
    rambling = Generation(f"{GOOD} because the", 20, False, truncated=True)
    ((pair,), _, _) = pairs([item(tmp_path)], rambling, POOR, BAD, "fox", "fox", "dog")
    assert pair.chosen[0].content == POOR


def test_a_file_there_and_back(tmp_path: Path) -> None:
    found, _, _ = pairs([item(tmp_path)], POOR, GOOD, BAD, "fox", "fox", "dog")
    assert write_pairs(tmp_path / "prefs.jsonl", found) == 1
    assert list(read_pairs(tmp_path / "prefs.jsonl")) == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": [], "chosen": [], "rejected": []}', "prompt"),
        (
            '{"images": ["a.png"], "prompt": [{"role": "user", "content": "x"}], '
            '"chosen": [{"role": "assistant", "content": "a"}], '
            '"rejected": [{"role": "assistant", "content": "b"}]}',
            "0 <image> slots for 1",
        ),
        ('{"prompt": [{"role": "user", "content": "x"}], "chosen": [{"role": "assistant", "content": "a"}],'
         ' "rejected": [{"role": "assistant", "content": "a"}]}', "the same"),
        ('{"prompt": [{"role": "user", "content": "x"}], "chosen": [{"role": "user", "content": "a"}],'
         ' "rejected": [{"role": "assistant", "content": "b"}]}', "of the assistant"),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "prefs.jsonl").write_text(f"{line}\n")
    with pytest.raises(DataError, match=said):
        list(read_pairs(tmp_path / "prefs.jsonl"))


def test_the_frame_of_the_annotation_is_pixels(tmp_path: Path) -> None:
    box = item(tmp_path).box
    assert box is not None and box.frame is Frame.ORIGINAL
