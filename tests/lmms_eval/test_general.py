"""bench general: lmms-eval is started task by task, and its figures and answers become a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_lmms import make_python

from viscot_core.engines.open import EngineOptions
from viscot_core.errors import DataError, EngineError, UsageError
from viscot_core.files import cache_folder
from viscot_core.lmms_eval.command import GeneralOptions, command_line
from viscot_core.lmms_eval.exports import ModelForLmms, without_bos
from viscot_core.lmms_eval.general import bench_general
from viscot_core.lmms_eval.launch import warnings
from viscot_core.lmms_eval.logs import read_logs
from viscot_core.lmms_eval.utils import chain_to_text
from viscot_core.models.checkpoint import open_checkpoint
from viscot_core.models.exported import exported
from viscot_core.models.zoo import BUNDLED_FOLDER
from viscot_core.report.report_data import ReportOptions, build_report
from viscot_core.report.scored_run import read_scored_run
from viscot_core.runs.records import read_predictions, read_run
from viscot_core.score.lmms import import_scores
from viscot_core.score.verdicts import State, read_scores, scores_path


@pytest.fixture
def made(tmp_path: Path, golden: Path) -> GeneralOptions:
    """Options for the tiny golden checkpoint and the stand-in of lmms-eval."""
    python, _ = make_python(tmp_path)
    engine = EngineOptions(str(golden / "tiny_llava"), device="cpu", dtype="fp32")
    return GeneralOptions(tmp_path / "run", ("pope", "gqa"), engine, backend="viscot", python=python)


def calls(options: GeneralOptions) -> list[list[str]]:
    file = Path(options.python).parent / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def changed(options: GeneralOptions, **changes: object) -> GeneralOptions:
    return GeneralOptions(**{**options.__dict__, **changes})


def test_figures_and_answers_come_into_the_run_folder(made: GeneralOptions) -> None:
    seen: list[tuple[str, int, int]] = []
    info, tally = bench_general(made, lambda *step: seen.append(step))
    assert info.kind == "general"
    assert info.figures["direct"]["pope"] == {"pope_accuracy": 0.5, "pope_f1_score": 0.8}
    assert info.planned == {"direct": {"pope": 2, "gqa": 2}}
    assert info.environment["lmms-eval"] == "0.7.3"
    assert (tally.finished, tally.failed) == (3, 1)
    assert ("pope direct", 1, 2) in seen
    by_key = {p.key: p for p in read_predictions(made.out)}
    assert by_key["direct", "pope", "1"].answer == "Yes"
    assert by_key["direct", "pope", "1"].reference == "no"


def test_a_failed_request_is_failed_and_never_a_zero(made: GeneralOptions) -> None:
    """lmms-eval counts it as wrong; the run folder does not, and says how many."""
    info, _ = bench_general(made)
    assert any("1 requests of gqa direct failed" in warning for warning in info.warnings)
    (failed,) = [p for p in read_predictions(made.out) if not p.done]
    assert (failed.dataset, failed.error, failed.answer) == ("gqa", "the prompt does not fit", None)
    import_scores(made.out)
    stats = build_report([read_scored_run(made.out)], ReportOptions()).runs[0].stats
    assert stats.answers["direct"].groups["gqa"].mean == 1
    assert (stats.answers["direct"].groups["gqa"].n, stats.answers["direct"].groups["gqa"].of) == (1, 2)


def test_scores_are_taken_over_once(made: GeneralOptions) -> None:
    bench_general(changed(made, tasks=("pope", "mmbench_en_dev")))
    assert import_scores(made.out) == 3
    assert import_scores(made.out) == 0
    scores = read_scores(scores_path(made.out, "lmms-eval"))
    assert scores.judge.model == "lmms-eval 0.7.3"
    states = {key[1:]: verdict.outcome.state for key, verdict in scores.verdicts.items()}
    assert states["pope", "0"] is State.SCORED
    assert states["mmbench_en_dev", "0"] is State.UNSCORED
    assert len(read_logs(made.out)) == 3


def test_finished_tasks_are_not_run_again(made: GeneralOptions) -> None:
    bench_general(changed(made, tasks=("pope",)))
    bench_general(made)
    assert [call[call.index("--tasks") + 1] for call in calls(made)] == ["pope", "gqa"]
    assert len(read_predictions(made.out)) == 4


def test_the_command_line(made: GeneralOptions) -> None:
    bench_general(changed(made, tasks=("pope",), strategies=("direct", "cot"), limit=3))
    direct, cot = calls(made)
    assert direct[:4] == ["--model", "viscot", "--model_args", direct[3]]
    assert "strategy=direct,protocol=native" in direct[3]  # LLaVA's words, as in Table 8
    assert "strategy=cot,protocol=paper" in cot[3]
    assert direct[direct.index("--limit") + 1] == "3"
    assert "--log_samples" in direct


@pytest.mark.parametrize(
    "engine", [EngineOptions("x", load_in="4bit"), EngineOptions("x", box_format="gemini")]
)
def test_what_only_viscots_class_can_do_is_done_by_it(made: GeneralOptions, engine: EngineOptions) -> None:
    assert changed(made, backend=None).chosen_backend() == "llava_hf"
    assert changed(made, backend=None, engine=engine).chosen_backend() == "viscot"


def test_the_chain_of_any_model_counts_as_cot(
    made: GeneralOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lmms-eval asked in two turns has a box, and stands beside viscot's own cot."""
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "cache"))
    options = changed(made, tasks=("visual_cot_chain",), data=tmp_path, backend=None)
    info, _ = bench_general(options)
    assert info.figures == {"cot": {"visual_cot_chain": {"exact": 1, "acc50": 0}}}
    assert info.planned == {"cot": {"synth": 1}}
    (line,) = read_predictions(made.out)
    assert (line.key, line.answer, line.iou) == (("cot", "synth", "s1"), "42", 0)
    bench_general(options)
    assert len(calls(made)) == 1


def test_other_classes_get_an_export_made_once(
    made: GeneralOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "cache"))
    bench_general(changed(made, backend=None))
    args = [dict(word.split("=", 1) for word in call[3].split(",")) for call in calls(made)]
    assert [call[1] for call in calls(made)] == ["llava_hf", "llava_hf"]
    assert args[0] == args[1]
    model = Path(args[0]["pretrained"])
    assert (model / "processor_config.json").exists()
    assert "bos_token" not in (model / "chat_template.jinja").read_text()
    assert args[0]["dtype"] == "float32"
    assert len(list((tmp_path / "cache" / "exports").iterdir())) == 2  # the export, and its view without BOS


def test_a_view_without_bos_is_made_once_and_only_where_it_is_needed(golden: Path, tmp_path: Path) -> None:
    made = exported(open_checkpoint(golden / "tiny_llava"), "sha256:" + "a" * 40, tmp_path)
    view = without_bos(made, tmp_path)
    assert without_bos(made, tmp_path) == view
    assert without_bos(view, tmp_path) == view
    assert without_bos(BUNDLED_FOLDER, tmp_path) == BUNDLED_FOLDER  # its tokenizer adds none of its own
    assert (view / "model.safetensors").resolve() == (made / "model.safetensors").resolve()


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"VISCOT_CACHE": "/own"}, "/own/exports"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/viscot/exports"),
        ({"HOME": "/home/me"}, "/home/me/.cache/viscot/exports"),
    ],
)
def test_exports_go_where_caches_go(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VISCOT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder("exports") == Path(folder)


def test_a_missing_data_set_leaves_its_task_open(made: GeneralOptions) -> None:
    info, tally = bench_general(changed(made, tasks=("gone", "pope")))
    assert "pope" in info.figures["direct"]
    (reason,) = tally.open
    assert "hf download --repo-type dataset lmms-lab/GONE" in reason
    with pytest.raises(DataError, match="lmms-lab/GONE"):
        bench_general(changed(made, tasks=("gone",), out=made.out.with_name("other")))


def test_an_unknown_task_is_refused(made: GeneralOptions) -> None:
    with pytest.raises(UsageError, match=r"no task 'unheard'.*--tasks list"):
        bench_general(changed(made, tasks=("unheard",)))


@pytest.mark.parametrize(
    ("installed", "words"),
    [({}, "pip install 'viscot\\[general\\]'"), ({"lmms-eval": "0.7.3"}, "no viscot; install it")],
)
def test_what_is_not_installed_is_said_with_its_command(
    made: GeneralOptions, tmp_path: Path, installed: dict[str, str], words: str
) -> None:
    (tmp_path / "bare").mkdir()
    python, _ = make_python(tmp_path / "bare", installed)
    with pytest.raises(EngineError, match=words):
        bench_general(changed(made, python=python))


def test_vllm_gets_what_it_takes(
    made: GeneralOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine refused `device`, and would have run a checkpoint's own code."""
    monkeypatch.setenv("VISCOT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cpu").mkdir()
    python, _ = make_python(tmp_path / "cpu", {"lmms-eval": "0.7.3", "viscot": "0.1", "vllm": "0.32.0"})
    options = changed(made, backend="vllm", python=python, tasks=("visual_cot_chain",), data=tmp_path)
    bench_general(options)
    (call,) = calls(options)
    assert "--device" not in call
    given = dict(word.split("=", 1) for word in call[3].split(","))
    assert given["trust_remote_code"] == "False" and given["mm_processor_kwargs"] == '{"backend":"pil"}'
    with pytest.raises(UsageError, match="leave out --device"):
        changed(options, engine=EngineOptions("x", device="cuda:1")).chosen_backend()
    other = ModelForLmms("folder", "digest", "cpu", "float32", family="qwen2.5-vl")
    line = " ".join(command_line(options, "vllm", other, "direct", "pope", tmp_path))
    assert "model=folder" in line and "mm_processor_kwargs" not in line, "its processor would fail on it"


def test_a_chain_is_read_without_the_blank_that_vllm_keeps() -> None:
    doc = {"question": "What?", "path": str(BUNDLED_FOLDER.parents[1] / "examples" / "wide.jpg")}
    *_, done, said, _ = chain_to_text(doc, None, [" [0.1, 0.2, 0.3, 0.4]", " 42\n"], 2)
    assert done and json.loads(said[0]) == {
        "box_text": "[0.1, 0.2, 0.3, 0.4]",
        "box_format": "viscot",
        "answer": "42",
    }


def test_vllm_that_is_missing_is_said_before_anything_runs(made: GeneralOptions) -> None:
    with pytest.raises(EngineError, match="no vllm; install it there with: pip install vllm"):
        bench_general(changed(made, backend="vllm"))
    assert not calls(made)


def test_a_letter_drawn_at_random_is_warned_of(tmp_path: Path) -> None:
    """MMBench's task guesses where it cannot ask OpenAI; it says so three times an answer."""
    log = tmp_path / "direct" / "mmbench_en_dev" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("INFO GPT API failed to answer. \n" * 6)
    (said,) = warnings(log)
    assert "about 2 answers of mmbench_en_dev direct at random" in said
    assert "mmbench_en_dev_static" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ()}, "Name the tasks"),
        ({"strategies": ("cots",)}, "Did you mean 'cot'"),
        ({"backend": "vlm"}, "Did you mean 'vllm'"),
        ({"backend": "llava_hf", "strategies": ("cot",)}, "--strategy cot needs --backend viscot"),
        (
            {"backend": "vllm", "engine": EngineOptions("x", load_in="4bit")},
            "--load-in needs --backend viscot",
        ),
        ({"backend": "vllm", "engine": EngineOptions("x", attn="flash")}, "leave out --attn"),
        ({"engine": EngineOptions("x", attn="fast")}, "--attn is one of sdpa, flash, eager"),
        ({"engine": EngineOptions("x", engine="vllm")}, "--backend vllm instead of --engine vllm"),
        ({"engine": EngineOptions("x", tensor_parallel=2)}, "no --tensor-parallel"),
        ({"tasks": ("visual_cot",)}, "--data DIR"),
        ({"tasks": ("visual_cot", "pope"), "data": Path()}, "together with other tasks"),
        ({"tasks": ("visual_cot_chain",), "data": Path()}, "--tasks visual_cot --strategy cot"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    made: GeneralOptions, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        bench_general(changed(made, **changes))
    assert not calls(made)


def test_a_folder_keeps_its_settings(made: GeneralOptions) -> None:
    bench_general(made)
    with pytest.raises(UsageError, match="limit: None -> 5"):
        bench_general(changed(made, limit=5))


def test_table_8_stands_beside_the_run(made: GeneralOptions) -> None:
    bench_general(changed(made, tasks=("pope", "gqa", "textvqa_val", "mmbench_en_dev")))
    import_scores(made.out)
    part = build_report([read_scored_run(made.out)], ReportOptions(compare="paper:VisCoT-7B@336")).runs[0]
    found = {(c.table, c.dataset): (round(c.yours, 6), c.theirs, c.ci95 is None) for c in part.paper}
    assert found == {
        (8, "POPE"): (80, 86.5, True),
        (8, "GQA"): (50, 62.0, True),
        (8, "TextVQA"): (50, 61, True),
        (8, "MMB"): (60.5, 67.3, True),
        (10, "TextVQA"): (50, 60.2, True),  # the paper's own two figures for one question differ
    }
    assert not any("judge" in note for note in part.paper_notes)
    assert "OCR words" in part.paper_notes[-1]  # what makes a column no fair comparison


def test_the_cli_prints_figures_and_says_what_is_open(cli, made: GeneralOptions) -> None:  # type: ignore[no-untyped-def]
    ran = cli(
        *("bench", "general", "--tasks", "pope,gone", "--model", made.engine.model, "--backend", "viscot"),
        *("--device", "cpu", "--out", made.out, "--python", made.python),
    )
    assert ran.code == 3, ran.err
    assert "pope_f1_score" in ran.out
    assert "lmms-lab/GONE" in ran.err
    assert read_run(made.out).kind == "general"
    shown = cli("stats", made.out, "--compare", "paper")
    assert "86.5" in shown.out, shown.err
