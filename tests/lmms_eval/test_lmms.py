"""The task package and the model class for lmms-eval; the last tests run lmms-eval itself, where it is."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from made_bench import FakeEngine, write_root

from viscot_core.boxes.registry import CODECS
from viscot_core.engines.base import Generation
from viscot_core.engines.open import EngineOptions
from viscot_core.errors import EngineError, UsageError
from viscot_core.lmms_eval import CHAIN, PACKAGED, TASKS, utils
from viscot_core.lmms_eval.command import GeneralOptions
from viscot_core.lmms_eval.general import bench_general
from viscot_core.runs.evaluate import evaluate
from viscot_core.runs.records import RunInfo, read_predictions
from viscot_core.score.base import JudgeOptions
from viscot_core.score.judges import make_judge
from viscot_core.score.lmms import chain_results, import_scores, mean_of_datasets, process_results
from viscot_core.score.scoring import score_run
from viscot_core.score.verdicts import read_scores, scores_path
from viscot_core.tasks.suites import SUITES
from viscot_core.tasks.visual_cot.task import VisualCot, load_visual_cot

STRATEGIES = ("cot", "direct")
ENGINE = EngineOptions(device="cpu", dtype="fp32")
HAS_LMMS = find_spec("lmms_eval") is not None
needs_lmms = pytest.mark.skipif(not HAS_LMMS, reason="lmms-eval is not here: make general")
slow_with_lmms = pytest.mark.slow if HAS_LMMS else lambda test: test
"""lmms-eval alone takes ten seconds to import; a stand-in takes none."""


def docs(root: Path) -> list[dict[str, Any]]:
    return [utils._row(item) for item in load_visual_cot(root).items]


class Loader(yaml.SafeLoader):
    """lmms-eval's YAML: ``!function MODULE.NAME`` is that function."""


def _function(_: yaml.Loader, node: yaml.ScalarNode) -> Callable[..., Any]:
    module, _, name = str(node.value).rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


Loader.add_constructor("!function", _function)


def config(task: str) -> dict[str, Any]:
    given = yaml.load((TASKS / f"{task}.yaml").read_text(), Loader)
    shared = yaml.load((TASKS / given["include"]).read_text(), Loader)
    return {**shared, **given}


# -- the package


@pytest.mark.parametrize("task", PACKAGED)
def test_a_task_names_functions_and_files_that_exist(task: str) -> None:
    task_config = config(task)
    for name in ("doc_to_text", "doc_to_visual", "process_results", "process_docs"):
        assert callable(task_config[name])
    assert (TASKS / task_config["dataset_kwargs"]["data_files"]["test"]).exists()
    formats = [kwargs.get("box_format") for kwargs in task_config["lmms_eval_specific_kwargs"].values()]
    assert set(formats) <= {None, *CODECS}
    metrics = {metric["metric"] for metric in task_config["metric_list"]}
    assert metrics == {"exact", "acc50", "synth", *SUITES["all"]}


def test_the_entry_point_names_the_class(repo: Path) -> None:
    import tomllib

    entries = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entries["lmms_eval.models"] == {"viscot": "viscot_core.lmms_eval:manifest"}
    assert find_spec("viscot_core.lmms_eval.model") is not None


def test_the_data_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(utils.DATA, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(Dataset=None))
    with pytest.raises(UsageError, match="Set VISCOT_DATA"):
        utils.rows(None)  # type: ignore[arg-type]


def test_other_models_read_the_papers_direct_prompt(root: Path) -> None:
    kwargs = config("visual_cot")["lmms_eval_specific_kwargs"]
    (doc, *_) = docs(root)
    assert utils.doc_to_text(doc, kwargs["default"]) == "What is at Place 0? "
    assert utils.doc_to_text(doc, kwargs["viscot"]) == "What is at Place 0?"
    assert utils.doc_to_visual(doc)[0].size == (doc["width"], doc["height"])


def test_the_chain_for_any_model_is_two_messages(root: Path) -> None:
    (doc, *_) = docs(root)
    first = utils.chain_to_text(doc, {"box_format": "viscot"})
    assert isinstance(first, str)
    assert first.startswith("what is at place 0?. Please provide the bounding box")
    box = "[0.100, 0.200, 0.300, 0.400]"
    images, text, stop, said, _ = utils.chain_to_text(doc, None, [box], 1)
    assert images is not None
    assert text is not None
    assert images[0].size == (doc["width"], doc["height"])
    assert len(images) == 2
    assert box in text
    assert "<image>" not in text
    assert not stop
    images, text, stop, said, _ = utils.chain_to_text(doc, None, [*said, "thing 0"], 2)
    assert (images, text, stop) == (None, None, True)
    scores = chain_results(doc, said)
    assert scores["exact"]["score"] == scores["made"]["score"] == 1
    assert scores["acc50"]["score"] == 0
    assert scores["acc50"]["box"] == (0.1, 0.2, 0.3, 0.4)


def test_figures_are_means_of_data_sets(root: Path) -> None:
    (doc, *_) = docs(root)
    right, wrong = process_results(doc, ["Thing 0."])["exact"], process_results(doc, ["x"])["exact"]
    assert (right["score"], wrong["score"]) == (1, 0)
    other = {**wrong, "dataset": "other"}
    assert mean_of_datasets([right, right, other, other, right]) == 0.5
    assert json.dumps(right)


# -- the class, over lmms-eval or, where that is not installed, over a stand-in of what it imports from there


def stand_ins() -> dict[str, Any]:
    """Modules with the names that ``model.py`` imports from lmms-eval and loguru."""
    names = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"Instance": object},
        "lmms_eval.api.model": {"lmms": type("lmms", (), {})},
        "loguru": {"logger": SimpleNamespace(error=lambda words: None)},
    }
    made = {name: ModuleType(name) for name in names}
    for name, values in names.items():
        vars(made[name]).update(values)
    return made


@pytest.fixture
def viscot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Makes the class over a fake engine, with the rows of a made root as the task ``made``."""
    if not HAS_LMMS:
        for name, module in stand_ins().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "viscot_core.lmms_eval.model", raising=False)
    model = importlib.import_module("viscot_core.lmms_eval.model")
    rows = docs(write_root(tmp_path / "made"))

    def make(engine: FakeEngine | None = None, **args: Any) -> Any:
        monkeypatch.setattr(model, "open_engine", lambda _, **__: engine or FakeEngine())
        made = model.Viscot(device="cpu", batch_size=2, **args)
        made.task_dict = {"made": {"test": rows}}
        return made

    return make


def request(number: int, text: str, visual: Callable[..., Any] = utils.doc_to_visual, **options: Any) -> Any:
    return SimpleNamespace(args=(text, options, visual, number, "made", "test"))


@slow_with_lmms
def test_cot_looks_twice_and_direct_once(viscot: Callable[..., Any], tmp_path: Path) -> None:
    engine = FakeEngine()
    made = viscot(engine, strategy="cot", looks=str(tmp_path / "looks.jsonl"))
    said = made.generate_until([request(n, f"What is at Place {n}?", max_new_tokens=16) for n in range(3)])
    assert len(said) == 3
    assert len(engine.prompts) == 6
    assert [r.max_new_tokens for r in engine.requests] == [128] * 3 + [16] * 3  # a box takes what it takes
    looks = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert [look["doc_id"] for look in looks] == [0, 1, 2]
    assert all(look["box_status"] == "ok" and look["error"] is None for look in looks)
    names = {"task", "doc_id", "error", "box_text", "box_status", "box", "crop", "size", "seconds"}
    assert all(look.keys() == names for look in looks)
    direct = FakeEngine()
    viscot(direct, strategy="direct", protocol="native").generate_until([request(0, "Is it?\nA word.")])
    assert direct.prompts[0].endswith("USER: <image>\nIs it?\nA word. ASSISTANT:")


@slow_with_lmms
def test_no_image_or_several_are_answered_at_once(viscot: Callable[..., Any]) -> None:
    engine = FakeEngine()
    twice = lambda doc: utils.doc_to_visual(doc) * 2  # noqa: E731
    viscot(engine).generate_until([request(0, "Hello?", lambda _: []), request(1, "Same?", twice)])
    assert [prompt.count("<image>") for prompt in engine.prompts] == [0, 2]


@slow_with_lmms
def test_a_failure_is_empty_recorded_and_alone(viscot: Callable[..., Any], tmp_path: Path) -> None:
    def gone(_: Any) -> Any:
        return utils.doc_to_visual({"path": str(tmp_path / "gone.png")})

    made = viscot(looks=str(tmp_path / "looks.jsonl"))
    said = made.generate_until([request(0, "What?", gone), request(1, "What?")])
    assert said[0] == ""
    assert said[1]
    errors = [json.loads(line)["error"] for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert "gone.png" in errors[0]
    assert errors[1] is None


@slow_with_lmms
def test_a_failed_first_turn_costs_no_second_call(viscot: Callable[..., Any], tmp_path: Path) -> None:
    engine = FakeEngine(lambda _: Generation("", 0, False, "the prompt does not fit"))
    made = viscot(engine, looks=str(tmp_path / "looks.jsonl"))
    assert made.generate_until([request(0, "What?")]) == [""]
    (look,) = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert (len(engine.prompts), look["error"], look.get("box")) == (1, "the prompt does not fit", None)


@slow_with_lmms
def test_stop_strings_end_an_answer(viscot: Callable[..., Any]) -> None:
    made = viscot(FakeEngine(lambda _: "red ASSISTANT: more"), strategy="direct")
    assert made.generate_until([request(0, "What?", until=["ASSISTANT:"])]) == ["red "]


@slow_with_lmms
def test_what_the_class_cannot_do_is_refused(viscot: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="Did you mean 'direct'"):
        viscot(strategy="direkt")
    with pytest.raises(EngineError, match="only answer tasks of the type generate_until"):
        viscot().loglikelihood([])
    with pytest.raises(EngineError, match="greedily"):
        viscot().generate_until([request(0, "What?", do_sample=True, temperature=0.7)])


# -- lmms-eval itself, from its own command line, offline


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports go where the test's other files go."""
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from viscot_core.data.synth import write_dataset

    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, train=4, val=12, seed=7)
    return folder


@pytest.fixture(scope="module")
def ours(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What viscot's own runner says of the bundled model, judged."""
    out = tmp_path_factory.mktemp("ours")
    evaluate(VisualCot(data, STRATEGIES), ENGINE, out)
    score_run(out, make_judge("exact", JudgeOptions()))
    return out


def run(out: Path, data: Path, **more: Any) -> RunInfo:
    info, tally = bench_general(GeneralOptions(**{"out": out, "engine": ENGINE, "data": data, **more}))
    assert (tally.failed, dict(tally.open), info.warnings) == (0, {}, [])
    import_scores(out)
    return info


@needs_lmms
@pytest.mark.slow
def test_lmms_eval_gives_viscots_answers_and_scores(ours: Path, data: Path, tmp_path: Path) -> None:
    """The packaged task with ``--model viscot``: item by item what ``bench cot --judge exact`` says."""
    info = run(tmp_path, data, tasks=("visual_cot",), strategies=STRATEGIES, backend="viscot")
    assert len(by_key(tmp_path)) == 24
    assert by_key(tmp_path) == by_key(ours)
    exact = scores(ours, "exact")
    assert scores(tmp_path, "lmms-eval") == exact
    for strategy in STRATEGIES:
        given = [score for key, score in exact.items() if key[0] == strategy]
        assert info.figures[strategy]["visual_cot"]["exact"] == pytest.approx(sum(given) / len(given))


@needs_lmms
@pytest.mark.slow
def test_lmms_evals_own_class_gives_viscots_direct_answers(ours: Path, data: Path, tmp_path: Path) -> None:
    """The export in ``llava_hf``: prompts, pixels and so answers are those of ``--strategy direct``."""
    run(tmp_path, data, tasks=("visual_cot",), backend="llava_hf")
    answers = {key: line["answer"] for key, line in by_key(ours).items() if key[0] == "direct"}
    assert {key: line["answer"].strip() for key, line in by_key(tmp_path).items()} == answers


@needs_lmms
@pytest.mark.slow
def test_lmms_evals_own_class_walks_the_chain(data: Path, tmp_path: Path) -> None:
    """Two turns that lmms-eval drives: every item has a box, its crop and a score, and counts as cot."""
    info = run(tmp_path, data, tasks=(CHAIN,), backend="llava_hf", limit=3)
    lines = read_predictions(tmp_path)
    assert [line.strategy for line in lines] == ["cot"] * 3
    assert all(line.box_status and line.crop and line.answer is not None for line in lines)
    assert len(scores(tmp_path, "lmms-eval")) == 3
    assert {"exact", "acc50", "synth"} <= info.figures["cot"][CHAIN].keys()


def scores(folder: Path, judge: str) -> dict[tuple[str, str, str], float | None]:
    return {key: v.outcome.score for key, v in read_scores(scores_path(folder, judge)).verdicts.items()}


def by_key(folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Each item without the form of its number, its cost and its probabilities: lmms-eval tells neither."""
    other = {
        "seconds",
        "question_id",
        "calls",
        "tokens",
        "prompt_tokens",
        "box_probability",
        "answer_probability",
    }
    return {p.key: p.model_dump(exclude=other) for p in read_predictions(folder)}
