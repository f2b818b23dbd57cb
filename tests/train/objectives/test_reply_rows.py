"""Preferences and reinforcement: log-probabilities of replies, what is learned, and a run that goes on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import made_families
import pytest
import torch
from made_job import held_out_data
from made_replies import REINFORCE, pairs_in, recipe_for
from PIL import Image

from viscot_core.conversation import IMAGE, Message
from viscot_core.errors import DataError, UsageError
from viscot_core.families.inputs import IGNORE
from viscot_core.families.table import training_of
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.policies.base import Answer, Question
from viscot_core.policies.dialects.known import DIALECTS
from viscot_core.runs.opening import open_items
from viscot_core.score.offline import OfflineJudge
from viscot_core.train import worker
from viscot_core.train.loop.mixture_dataset import BadRow
from viscot_core.train.objectives.attempts import Tried, advantages, dealt_out, require_tokens, seed_of
from viscot_core.train.objectives.base import TrainStep
from viscot_core.train.objectives.dpo import Dpo
from viscot_core.train.objectives.grpo import IDLE_BATCHES, Grpo, figures_of
from viscot_core.train.objectives.reply_rows import TooLong, reply_batch, reply_row, summed_by_row
from viscot_core.train.plan.plan_types import Split
from viscot_core.train.preferences.pairs import write_pairs
from viscot_core.train.recipe.schema import Recipe
from viscot_core.train.rewards.named import Earned
from viscot_core.train.state.initial import start


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = held_out_data(tmp_path_factory.mktemp("data") / "made", train=6, held_out=2)
    write_pairs(root / "prefs.jsonl", pairs_in(root))
    return root


def logged(out: Path) -> list[dict[str, float]]:
    rows = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [row for row in rows if "loss" in row]


def test_advantages_are_the_distance_from_the_groups_mean() -> None:
    assert advantages([1.0, 0.0], scaled=False).tolist() == [0.5, -0.5]
    assert advantages([1.0, None, 0.0], scaled=True).tolist() == pytest.approx([1.0, 0.0, -1.0], abs=1e-3)
    assert advantages([0.7, 0.7, 0.7], scaled=True).tolist() == [0.0, 0.0, 0.0]
    assert advantages([0.7, None], scaled=True).tolist() == [0.0, 0.0]
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3) != seed_of(1, 2, 4)


def test_the_log_has_the_same_names_whatever_a_batch_holds() -> None:
    """Processes add their figures up name by name: one that could ask nothing must not lack any."""
    figures = figures_of([[], []], 8, ["iou", "answer:anls"])
    assert {"reward", "reward_iou", "reward_answer:anls", "flat", "unasked", "looks"} <= figures.keys()
    assert figures["unasked"] == (8, 8) and figures["reward"] == (0, 0)


def test_dealt_out_rewards_teach_nothing_on_average_and_groups_differ() -> None:
    """The control keeps the spread; what is unknown stays unknown; groups have orders of their own."""
    totals = [1.0, None, 0.5, 0.2, 0.0]
    orders = [dealt_out(totals, seed_of(7, place)) for place in range(600)]
    assert all(order.pop(1) is None for order in orders)
    assert all(sorted(map(float, order)) == [0, 0.2, 0.5, 1] for order in orders)
    assert len({tuple(order) for order in orders}) == 24, "every order comes up"
    means = [sum(float(order[at]) for order in orders) / len(orders) for at in range(4)]
    assert means == pytest.approx([0.425] * 4, abs=0.05)
    assert dealt_out(totals, 3) == dealt_out(totals, 3)


def test_log_probabilities_of_a_batch_are_those_of_each_row_alone(data: Path, tmp_path: Path) -> None:
    """One image and two, short replies and long ones, in one padded batch."""
    recipe = recipe_for("dpo", data)
    run = start(tmp_path, recipe, recipe.stages[0])
    run.model.eval()
    objective = Dpo(run, recipe.stages[0])
    rows = [row for number in range(4) for row in objective.open_rows()[number]]
    assert {row.sample.encoded.n_images for row in rows} == {1, 2}
    processor = run.processor_for(recipe.stages[0])

    def measured(some: list[Any]) -> torch.Tensor:
        with torch.no_grad():
            values, places = objective.token_logprobs(run.model, reply_batch(processor, some))
        return summed_by_row(values, places, len(some))

    together, alone = measured(rows), torch.cat([measured([row]) for row in rows])
    assert torch.allclose(together, alone, atol=1e-5), (together - alone).abs().max()
    # Of another temperature: those of the logits over it.
    batch = reply_batch(processor, rows)
    with torch.no_grad():
        logits = objective.text_logits(objective.forward(run.model, batch, logits_to_keep=batch["said"]))
        warm, _ = objective.token_logprobs(run.model, batch, 1.7)
    wanted = (logits.flatten(0, -2) / 1.7).log_softmax(-1).gather(1, batch["targets"][:, None])[:, 0]
    assert torch.allclose(warm, wanted, atol=1e-5)
    # And those of plain cross-entropy over the reply's own tokens.
    for row, value in zip(rows, alone, strict=True):
        labels = [label for label in row.sample.encoded.labels if label >= 0]
        said = processor.text(labels).strip()
        assert said in ("7", "42") or said.startswith("[0."), "only the last reply is learned"
        assert float(value) < 0


def test_the_first_loss_of_dpo_is_log_two_and_the_reference_stays(data: Path, tmp_path: Path) -> None:
    recipe = recipe_for("dpo", data)
    run = start(tmp_path, recipe, recipe.stages[0])
    objective = Dpo(run, recipe.stages[0])
    rows = objective.open_rows()
    model = objective.attach(run.model, rows, None, 0)
    batch = rows.collate([rows[0], rows[1]])
    step = TrainStep(torch.tensor(2.0), 1, 1, 0, 1)
    loss, parts = objective.loss(model, batch, step)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    assert parts["margin"].tolist() == pytest.approx([0, 2], abs=1e-5)
    nothing, unknown = objective.loss(model, rows.collate([BadRow(0, "")]), step)
    assert nothing.item() == 0 and unknown.keys() == parts.keys()
    assert all(part.tolist() == [0, 0] for part in unknown.values()), "a bad row is no margin of 0"
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.002 * parameter.grad
    after, parts = objective.loss(model, batch, step)
    assert after.item() < loss.item() and parts["preferred"].tolist() == [2, 2]


def test_a_pair_that_is_too_long_is_a_bad_row_and_never_cut(data: Path, tmp_path: Path) -> None:
    recipe = recipe_for("dpo", data, max_length=100)
    run = start(tmp_path, recipe, recipe.stages[0])
    rows = Dpo(run, recipe.stages[0]).open_rows()
    assert "more than max_length 100" in rows[1].reason
    batch = rows.collate([rows[1]])
    assert (int(batch["bad"]), int(batch["pairs"])) == (1, 0)


def resumes(recipe: Recipe, folder: Path) -> list[dict[str, float]]:
    """A run; then the same from its checkpoint in the middle: equal losses."""
    run = worker.run(folder, recipe)
    (out,) = (run / "stages").iterdir()
    steps = logged(out)
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for leftover in ("model", "checkpoint-4"):
        shutil.rmtree(out / leftover)
    (out / "log.jsonl").unlink()
    worker.run(run, recipe)
    again = {row["step"]: row["loss"] for row in logged(out)}
    assert again == pytest.approx({row["step"]: row["loss"] for row in steps[2:]}, abs=1e-6)
    return steps


@pytest.mark.slow
def test_dpo_trains_and_resumes(data: Path, tmp_path: Path) -> None:
    steps = resumes(recipe_for("dpo", data), tmp_path / "run")
    assert all({"margin", "preferred", "reward_chosen"} <= row.keys() for row in steps)
    assert steps[-1]["loss"] < steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.slow
def test_grpo_trains_and_resumes(data: Path, tmp_path: Path) -> None:
    recipe = recipe_for("grpo", data, files=["chain.jsonl"], reinforce=REINFORCE)
    steps = resumes(recipe, tmp_path / "run")
    wanted = {"reward", "reward_iou", "reward_format", "flat", "kl", "looks", "too_long", "truncated"}
    assert all(wanted <= row.keys() for row in steps)
    assert steps[0]["flat"] < 1.0 and any(row["loss"] for row in steps)
    assert steps[0]["looks"] == 1.0 and 0 < steps[0]["reward_iou"] <= 1.0


def test_batches_that_teach_nothing_are_told_once(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No attempt has a total: the weights stay, and one sentence says so. The draws are the stage's own."""
    recipe = recipe_for("grpo", data, files=["chain.jsonl"], seed=5)
    run = start(tmp_path, recipe, recipe.stages[0])
    objective = Grpo(run, recipe.stages[0])
    rows = objective.open_rows()

    class Silent:
        processor = run.processor_for(recipe.stages[0])
        seeds: ClassVar[list[int]] = []

        def attempts(self, items: Sequence[Any], seed: int, own: Sequence[int]) -> list[list[Any]]:
            self.seeds.append(seed)
            return [[] for _ in items]

    objective._attempting = Silent()  # type: ignore[assignment]
    for _ in range(IDLE_BATCHES + 1):
        loss, _parts = objective.loss(
            run.model, rows.collate([rows[0]]), TrainStep(torch.tensor(1.0), 1, 1, 7, 9)
        )
        assert loss.item() == 0 and loss.requires_grad
    assert caplog.text.count("in 9 batches no attempt could be learned from") == 1, "the whole run has nine"
    assert set(Silent.seeds) == {seed_of(5, 7)}


def test_a_dialect_whose_calls_the_tokens_cannot_write_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = recipe_for("grpo", data, files=["chain.jsonl"])
    processor = start(tmp_path, recipe, recipe.stages[0]).processor_for(recipe.stages[0])
    for name in DIALECTS:
        require_tokens(processor, name)

    class WithoutBraces:
        """The same tokens without those of ``{`` and ``[``."""

        render = staticmethod(processor.render)

        def text(self, ids: Sequence[int]) -> str:
            return processor.text(ids).replace("{", "").replace("[", "")

    with pytest.raises(UsageError, match="no tokens for calls of the dialect qwen3-vl"):
        require_tokens(WithoutBraces(), "qwen3-vl")  # type: ignore[arg-type]


FAMILIES = sorted(name for name in made_families.FAMILIES if name not in ("gemma4", "molmo2"))
"""Those that train, beside LLaVA."""


@pytest.mark.parametrize("name", ["llava", *FAMILIES])
def test_what_is_learned_is_what_was_sampled(name: str, data: Path, tmp_path: Path) -> None:
    """The loss reads the engine's prompt and the tokens drawn after it: their log-probabilities agree."""
    checkpoint = None
    if name != "llava":
        pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")
        checkpoint = str(made_families.make(name, tmp_path / "model"))
    recipe = recipe_for("grpo", data, checkpoint, files=["chain.jsonl"], max_length=4096)
    stage = recipe.stages[0]
    run = start(tmp_path, recipe, stage)
    run.model.eval()
    from viscot_core.train.objectives.attempts import Attempting
    from viscot_core.train.recipe.schema import ReinforceSpec
    from viscot_core.train.rewards.named import rewards_of

    objective = Grpo(run, stage)
    rows = objective.open_rows()
    spec = ReinforceSpec(group=3, temperature=1.2, max_new_tokens=40)
    attempting = Attempting(run, stage, spec, rewards_of("iou"))
    (group,) = attempting.attempts(open_items([rows.items[0]]), 5, [0])
    assert len({tried.said[0][1] for tried in group}) > 1, "they are different draws"
    for tried in group:
        learned = attempting.rows(tried, 0)
        assert [row.sample.encoded.n_images for row in learned] == [1, 2]
        for row, (step, _) in zip(learned, tried.said, strict=True):
            sizes = [view.image.size for view in step.images]
            prompt = attempting.processor.render(step.messages, sizes, generate=True)
            assert row.sample.encoded.ids == [*prompt.ids, *step.ids]
            assert [label for label in row.sample.encoded.labels if label >= 0] == [*step.ids]
        with torch.no_grad():
            values, places = objective.token_logprobs(run.model, reply_batch(attempting.processor, learned))
        for number, probability in enumerate(tried.answer.probabilities):
            mean = float(values[places == number].mean())
            assert probability is not None and math.exp(mean) == pytest.approx(probability, abs=1e-4)


def test_draws_are_of_the_question_and_not_of_its_place(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two questions fill a step of eight: all attempts draw numbers of their own, however it is divided."""
    from viscot_core.train.objectives.attempts import Attempting

    recipe = recipe_for("grpo", data, files=["chain.jsonl"], reinforce=REINFORCE)
    run = start(tmp_path, recipe, recipe.stages[0])
    seen: list[tuple[str, int]] = []

    def ask(self: Any, policies: Any, questions: Sequence[Question], sampling: Any) -> list[Any]:
        seen.extend((question.text, sampling.draw(question.draw or 0).seed) for question in questions)
        return [Answer("", question.size, (), "cot", error="enough") for question in questions]

    monkeypatch.setattr(Attempting, "_ask", ask)

    def drawn(per_device: int, step: int) -> list[tuple[str, int]]:
        """What the batches of one step draw, whichever process has them."""
        objective = Grpo(run, recipe.stages[0])
        rows: Any = objective.open_rows()
        del rows.items[2:]
        order = rows.order(Split(per_device, 8 // per_device, 1), 3).tolist()
        seen.clear()
        for at in range(0, 8, per_device):
            batch = rows.collate([rows[number] for number in order[at : at + per_device]])
            assert set(batch["rows"].tolist()) <= {0, 1}
            objective.loss(run.model, batch, TrainStep(None, 1, 8 // per_device, step, 9))
        return sorted(seen)

    whole = drawn(8, 0)
    assert len(whole) == 8 * 3 == len({seed for _, seed in whole}), "no two attempts of a step draw the same"
    assert drawn(2, 0) == drawn(1, 0) == whole
    assert not {seed for _, seed in whole} & {seed for _, seed in drawn(8, 1)}, "the next step draws others"


def test_a_judge_is_made_when_the_first_group_is_asked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a recipe loads no judge and wants no key; before anything is drawn, one that lacks says so."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    made: list[str] = []

    def local(name: str, options: Any) -> OfflineJudge:
        made.append(name)
        return OfflineJudge("exact")

    monkeypatch.setattr("viscot_core.score.local.LocalJudge.from_options", local)
    batches = []
    for reward in ("answer:hf:/models/judge", "answer:openai:gpt-4o-mini"):
        spec = {**REINFORCE, "rewards": {reward: 1.0}}
        recipe = recipe_for("grpo", data, files=["chain.jsonl"], reinforce=spec)
        run = start(tmp_path, recipe, recipe.stages[0])
        objective = Grpo(run, recipe.stages[0])
        rows = objective.open_rows()
        batches.append((run, objective, rows.collate([rows[0]])))
    assert not made
    step = TrainStep(None, 1, 1, 0, 9)
    (run, local_one, batch), (_, remote, _) = batches
    for _ in range(2):
        local_one.loss(run.model, batch, step)
    assert made == ["/models/judge"], "once"
    monkeypatch.setattr(remote, "_attempting", None)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        remote.loss(run.model, batch, step)
    with pytest.raises(UsageError, match="There is no judge 'openai:'"):
        recipe_for("grpo", data, reinforce={**REINFORCE, "rewards": {"answer:openai:": 1.0}})


def test_what_has_no_row_is_counted_apart_from_what_is_too_long(data: Path, tmp_path: Path) -> None:
    recipe = recipe_for("grpo", data, files=["chain.jsonl"])
    objective = Grpo(start(tmp_path, recipe, recipe.stages[0]), recipe.stages[0])
    faults = [DataError("it cannot be written"), TooLong("it is long"), DataError("nor this one")]

    def rows(tried: Any, number: int) -> None:
        raise faults[number_of[id(tried)]]

    answer = Answer("", (1, 1), (), "cot")
    group = [Tried((), answer, Earned({}, total)) for total in (0.0, 0.1, 1.0)]
    number_of = {id(tried): number for number, tried in enumerate(group)}
    objective._attempting = SimpleNamespace(rows=rows)  # type: ignore[assignment]
    learned = objective._learned([group], [0])
    assert (learned.rows, learned.attempts, learned.too_long, learned.unrendered) == ([], 3, 1, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_empty_reply_is_a_row_of_its_end(name: str, tmp_path: Path) -> None:
    """No row of a training file may have one; what a model said must be a row, or nothing punishes it."""
    pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")
    checkpoint = open_checkpoint(made_families.make(name, tmp_path))
    processor = training_of(checkpoint, name).processor(checkpoint)
    image = Image.new("RGB", (64, 64))
    asked = [Message("user", f"{IMAGE}\nWhat?", learned=False)]
    prompt = processor.render(asked, [image.size], generate=True).ids
    end = min(processor.stop_ids)
    row = reply_row(
        processor, [*asked, Message("assistant", "")], [image], number=0, max_length=2048, said=[end]
    )
    assert row.sample.encoded.ids == [*prompt, end]
    assert row.sample.encoded.labels == [IGNORE] * len(prompt) + [end]


def test_the_row_of_a_reply_has_the_tokens_that_were_drawn(data: Path, tmp_path: Path) -> None:
    """An empty reply is the end token alone, its text has a space before it: every reply became empty."""
    recipe = recipe_for("grpo", data, files=["chain.jsonl"])
    processor = start(tmp_path, recipe, recipe.stages[0]).processor_for(recipe.stages[0])
    image = Image.new("RGB", (64, 64))
    asked = [Message("user", f"{IMAGE}\nWhat?", learned=False)]
    prompt = processor.render(asked, [image.size], generate=True).ids
    end = [processor.render([*asked, Message("assistant", "9")], [image.size]).labels[-1]]
    for text, said in (("", end), ("9", [*processor.tokens.hf.encode("9", add_special_tokens=False), *end])):
        turns = [*asked, Message("assistant", text)]
        row = reply_row(processor, turns, [image], number=0, max_length=512, said=said)
        assert row.sample.encoded.ids == [*prompt, *said]
        assert [label for label in row.sample.encoded.labels if label >= 0] == said
