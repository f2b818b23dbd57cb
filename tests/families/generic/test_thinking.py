"""Models that think: told to or not by their own chat template, their thought cut apart from the answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_families import make
from made_tile_families import make_idefics
from PIL import Image

from viscot_core.boxes.registry import codec
from viscot_core.conversation import Message
from viscot_core.engines.base import Request
from viscot_core.engines.transformers.engine import LocalEngine
from viscot_core.errors import UsageError
from viscot_core.families.generic.processor import GenericProcessor
from viscot_core.images.view import view_of
from viscot_core.models.load import load_model
from viscot_core.policies.base import Question
from viscot_core.policies.direct import Direct
from viscot_core.policies.wording import Wording
from viscot_core.rollout import run

pytest.importorskip("torchvision", reason="most processors have a video part; make test installs it")

# Not noise, which differs from run to run: what a random model says of it may end its thought.
VIEW = view_of(Image.linear_gradient("L").resize((90, 60)).convert("RGB"))
ASKED = Request((Message("user", "<image>\nwhere is the red card?"),), (VIEW,), 2, logprobs=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3.5's class with its real chat template."""
    return make("qwen3.5", tmp_path_factory.mktemp("qwen3.5"))


def test_a_thought_that_the_prompt_opens(folder: Path) -> None:
    """The model only says the mark that closes it: without that one, there is no answer yet, and no box."""
    silent, thinks = (
        LocalEngine(load_model(folder, device="cpu", dtype="fp32", thinking=thinking))
        for thinking in (False, True)
    )
    assert silent.prompt(ASKED.messages).endswith("<think>\n\n</think>\n\n")
    assert thinks.prompt(ASKED.messages).endswith("<think>\n")
    (plain,), (thought,) = silent.generate([ASKED]), thinks.generate([ASKED])
    assert plain.tokens <= 2 and not plain.text.startswith("<think>")
    assert thought.text.startswith("<think>") and 2 < thought.tokens <= 32, "a thought has room of its own"
    assert thought.ids is not None and thought.logprobs is not None
    ended = thinks.processor.hf.tokenizer.eos_token_id in thought.ids  # type: ignore[attr-defined]
    assert thought.thought_tokens == thought.tokens - ended
    assert "thinking" not in silent.identity and thinks.identity["thinking"] == "on"
    (answer,) = run(
        Direct(Wording(codec("qwen3-vl"))), thinks, [Question("what?", (VIEW,), max_new_tokens=2)]
    )
    assert (answer.text, answer.truncated, answer.answer_probability) == ("", True, None)
    assert answer.thoughts[0]


def test_marks_that_are_special_tokens_stay(folder: Path) -> None:
    loaded = load_model(folder, device="cpu", dtype="fp32")
    hf = loaded.processor.hf  # type: ignore[attr-defined]
    hf.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    processor = GenericProcessor(hf, loaded.model.config, folder)
    words = hf.tokenizer("red card", add_special_tokens=False)["input_ids"]
    begin, end = hf.tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]"])
    eos = hf.tokenizer.eos_token_id
    assert processor.text([begin, *words, end, *words, eos]) == "[THINK]red card[/THINK]red card"
    assert processor.text([*words, eos]) == "red card"


def test_a_model_that_cannot_think_is_told_so(tmp_path: Path, golden: Path) -> None:
    for model in (make_idefics(tmp_path), golden / "tiny_llava"):
        with pytest.raises(UsageError, match="no switch for thinking"):
            load_model(model, device="cpu", dtype="fp32", thinking=True)
