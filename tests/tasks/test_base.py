"""What the tasks share: how a box that was named is measured against the annotated one."""

from __future__ import annotations

from pathlib import Path

import pytest

from viscot_core.boxes.geometry import CENTER, Box, Frame
from viscot_core.boxes.registry import codec
from viscot_core.engines.base import Traits
from viscot_core.errors import UsageError
from viscot_core.policies.base import Look
from viscot_core.tasks.base import Item, check_attention, check_strategies, overlap
from viscot_core.tasks.registry import TASKS
from viscot_core.tasks.visual_cot.strategies import STRATEGIES
from viscot_core.tasks.visual_cot.task import VisualCot

SIZE = (640, 480)
TRUTH = Box(0.25, 0.25, 0.75, 0.75, Frame.SQUARE).to_original(SIZE)
ITEM = Item("made", 1, "a.jpg", Path("a.jpg"), SIZE, "q", TRUTH)


@pytest.mark.parametrize(
    ("family", "reply", "found"),
    [
        ("viscot", "[0.250, 0.250, 0.750, 0.750]", 1.0),
        ("viscot", "I see no box.", 0.0),
        ("molmo", '<point x="60.0" y="50.0" alt="x">x</point>', None),
        ("molmo", "I see no point.", None),
    ],
)
def test_an_unreadable_box_overlaps_nothing_and_a_family_that_points_has_no_overlap(
    family: str, reply: str, found: float | None
) -> None:
    spoken = codec(family)
    parsed = spoken.parse(reply, SIZE)
    measured = overlap(Look(parsed.box, reply, SIZE, parsed.status), ITEM, points=spoken.points)
    assert measured == (None if found is None else pytest.approx(found))


def test_a_given_box_has_an_overlap_whatever_the_family_writes() -> None:
    given = Look(CENTER, "", SIZE, named_by="given")
    assert overlap(given, ITEM, points=True) == pytest.approx(1)
    assert overlap(given, Item("made", 1, "a.jpg", Path("a.jpg"), SIZE, "q"), points=False) is None


def test_names_are_checked() -> None:
    assert check_strategies(["cot", "direct", "cot"], STRATEGIES) == ("cot", "direct")
    with pytest.raises(UsageError, match="Did you mean 'gt-box'"):
        check_strategies(["gtbox"], STRATEGIES)
    with pytest.raises(UsageError, match="No strategy"):
        check_strategies([], STRATEGIES)


def test_every_task_stands_in_the_table_under_its_own_kind() -> None:
    assert {kind for kind, task in TASKS.items() if kind == task.kind} == {
        *("benchmarks", "cot", "refcoco", "vqa")
    }
    for task in TASKS.values():
        for name, strategy in task.all_strategies.items():
            assert strategy.name == name
            assert strategy.policy({}).start  # an old run's settings are enough to make the policy


def test_a_strategy_that_reads_attention_needs_an_engine_that_tells_it() -> None:
    task, other = (VisualCot(Path(), (name,)) for name in ("attention", "tree"))
    check_attention(other, Traits(), {})
    check_attention(task, Traits(attention=True), {"attention_layer": 40})  # which it has is not known yet
    told = Traits(attention=True, attention_layers=(3, 7))
    check_attention(task, told, {"attention_layer": 7})
    check_attention(task, told, {})
    with pytest.raises(UsageError, match="only --engine transformers can tell"):
        check_attention(task, Traits(), {})
    with pytest.raises(UsageError, match=r"layers \(3, 7\), not 4"):
        check_attention(task, told, {"attention_layer": 4})


def test_a_layer_is_on_record_where_it_is_chosen_and_refused_where_none_is_read() -> None:
    asked = VisualCot(Path(), ("attention", "cot"), attention_layer=3).settings(None)
    assert asked["attention_layer"] == 3
    assert "attention_layer" not in VisualCot(Path(), ("attention",)).settings(None)
    with pytest.raises(UsageError, match="--attention-layer is for the strategies attention"):
        VisualCot(Path(), ("tree",), attention_layer=3).settings(None)
