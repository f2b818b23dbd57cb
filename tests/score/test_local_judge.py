"""The local judge around a made-up text model: rendering, batching, reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import sample_run

from viscot_core.errors import UsageError
from viscot_core.score.base import JudgeOptions
from viscot_core.score.judges import make_judge
from viscot_core.score.local import MAX_NEW_TOKENS, LocalJudge, weights_digest
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import Outcome, Pair, State, read_scores


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with the golden tokenizer, saved as transformers saves it."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(shared / "golden" / "tiny_tokenizer")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    path = tmp_path_factory.mktemp("judge") / "tiny-judge"
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_random_model_scores_nothing_and_invents_nothing(folder: Path, tmp_path: Path) -> None:
    run = sample_run(tmp_path / "run", items=3)
    judge = make_judge(f"hf:{folder}", JudgeOptions(device="cpu", batch_size=4))
    report = score_run(run, judge)
    assert sum(report.states[s] for s in (State.SCORED, State.UNSCORED, State.TRUNCATED)) == report.items
    scores = read_scores(report.path)
    assert scores.judge.name == "hf:tiny-judge"
    assert scores.judge.model.startswith("tiny-judge@")
    assert str(folder) not in report.path.read_text()


def test_batches_give_what_single_prompts_give(folder: Path) -> None:
    pairs = [Pair(f"What is on card {i}?" * (i + 1), str(i), "x") for i in range(5)]

    def outcomes(batch_size: int) -> dict[Pair, Outcome]:
        judge = make_judge(f"hf:{folder}", JudgeOptions(device="cpu", batch_size=batch_size))
        found: dict[Pair, Outcome] = {}
        judge.judge(pairs, found.__setitem__)
        return found

    assert outcomes(1) == outcomes(5)


class Says:
    """A model that always continues with the same words."""

    def __init__(self, tokenizer: Any, words: str, *, end: bool = True) -> None:
        import torch

        self.ids = tokenizer(words, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] * end
        self.device = torch.device("cpu")
        self.generation_config = type("Config", (), {"eos_token_id": tokenizer.eos_token_id})()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def generate(self, input_ids: Any, attention_mask: Any, **settings: Any) -> Any:
        import torch

        assert settings["do_sample"] is False
        new = torch.tensor([self.ids[: settings["max_new_tokens"]]] * len(input_ids))
        return torch.cat([input_ids, new], dim=1)


@pytest.fixture
def tokenizer(shared: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "golden" / "tiny_tokenizer")


def judged(tokenizer: Any, words: str, *, end: bool = True) -> Outcome:
    judge = LocalJudge("says", tokenizer, Says(tokenizer, words, end=end))
    found: list[Outcome] = []
    judge.judge([Pair("q", "r", "a")], lambda pair, outcome: found.append(outcome))
    return found[0]


def test_its_words_are_read_like_any_judges(tokenizer: Any) -> None:
    assert judged(tokenizer, " 0.5").score == 0.5
    assert judged(tokenizer, "score: 1.").score == 1
    assert judged(tokenizer, "no").state is State.UNSCORED


def test_a_reply_that_was_cut_counts_only_its_whole_lines(tokenizer: Any) -> None:
    endless = " 0" * MAX_NEW_TOKENS
    assert judged(tokenizer, endless, end=False).state is State.TRUNCATED


def test_a_thought_is_no_verdict(tokenizer: Any) -> None:
    """The scores that a thought weighs are not the score it ends in."""
    assert judged(tokenizer, "<think>score: 0 or score: 1?</think>score: 0.5").score == 0.5
    endless = "<think>score: 0\n" + "score: 0\n" * MAX_NEW_TOKENS
    assert judged(tokenizer, endless, end=False).state is State.TRUNCATED


def test_changed_weights_are_another_judge() -> None:
    import torch

    a = torch.nn.Linear(200, 3)
    before = weights_digest(a)
    assert before == weights_digest(a)
    with torch.no_grad():
        a.bias += 1
    assert weights_digest(a) != before


def test_what_does_not_load_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not load as a text model"):
        make_judge(f"hf:{tmp_path}", JudgeOptions(device="cpu"))
