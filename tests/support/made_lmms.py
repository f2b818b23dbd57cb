"""A stand-in for lmms-eval in tests: a "Python" that answers as an installed one would, task by task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

SCRIPT = """
import json, pathlib, sys
args = dict(zip(sys.argv[1:], sys.argv[2:]))
task, out = args["--tasks"], pathlib.Path(args["--output_path"])
with open({calls!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if task == "unheard":
    sys.exit("Error during evaluation: Tasks not found: unheard. Try `lmms-eval --tasks list`.")
if task == "gone":
    print("ConnectionError: Couldn't reach 'lmms-lab/GONE' on the Hub (OfflineModeIsEnabled)")
    print("Error during evaluation: RetryError[<ConnectionError>]. Please set `--verbosity=DEBUG`")
    sys.exit(0)
tasks = json.loads(pathlib.Path({tasks!r}).read_text())
folder = out / "exports__model"
folder.mkdir(parents=True)
print("Model Responding:  50%|##   | 1/2 [00:01<00:01]", end="\\r", flush=True)
results = {{"results": {{task: tasks[task]["figures"]}}}}
(folder / "20260101_results.json").write_text(json.dumps(results))
lines = "".join(json.dumps(row) + "\\n" for row in tasks[task]["samples"])
(folder / f"20260101_samples_{{task}}.jsonl").write_text(lines)
for row in tasks[task].get("looks", []):
    print("2026-01-01 | ERROR | " + task + " " + str(row["doc_id"]) + " failed: " + row["error"])
looks = "".join(json.dumps(row) + "\\n" for row in tasks[task].get("looks", []))
(out / "looks.jsonl").write_text(looks)
"""


def sample(number: int, answer: str, target: str, **metrics: object) -> dict[str, object]:
    """One line of lmms-eval's sample log."""
    return {
        "doc_id": number,
        "target": target,
        "filtered_resps": answer,
        "input": f"Question {number}?",
        **metrics,
    }


CHAIN_ROW = {
    "dataset": "synth",
    "question_id": "s1",
    "question": "What number?",
    "image": "s/1.jpg",
    "size": [640, 480],
    "box_gt": [0.5, 0.5, 0.7, 0.7],
}
CHAIN_LOOK = {"box_status": "ok", "box": [0.1, 0.2, 0.3, 0.4], "crop": [0, 0, 224, 224]}

TASKS = {
    "pope": {
        "figures": {
            "alias": "pope",
            "pope_accuracy,none": 0.5,
            "pope_accuracy_stderr,none": 0.1,
            "pope_f1_score,none": 0.8,
        },
        "samples": [
            sample(0, "Yes", "yes", pope_accuracy={"question_id": 7, "score": 1.0}),
            sample(1, "Yes", "no", pope_accuracy={"question_id": 7, "score": 0.0}),
        ],
    },
    "gqa": {
        "figures": {"exact_match,none": 0.5, "exact_match_stderr,none": "N/A"},
        "samples": [sample(0, "red", "red", exact_match=1.0), sample(1, "", "blue", exact_match=0.0)],
        "looks": [{"task": "gqa", "doc_id": 1, "error": "the prompt does not fit"}],
    },
    "textvqa_val": {
        "figures": {"exact_match,none": 0.5},
        "samples": [sample(0, "shop", "shop", exact_match=0.5)],
    },
    "visual_cot_chain": {
        "figures": {"exact,none": 1.0, "acc50,none": 0.0},
        "samples": [
            sample(
                0,
                json.dumps({"box_text": "[0.1, 0.2, 0.3, 0.4]", "box_format": "viscot", "answer": "42"}),
                "42",
                exact={**CHAIN_ROW, "score": 1.0},
                acc50={**CHAIN_ROW, **CHAIN_LOOK, "score": 0.0},
            )
        ],
    },
    "mmbench_en_dev": {
        "figures": {"gpt_eval_score,none": 60.5},
        "samples": [sample(0, "A", "B", gpt_eval_score={"index": 3, "answer": "B"})],
    },
}


def make_python(folder: Path, installed: dict[str, str] | None = None) -> tuple[str, Path]:
    """The stand-in, and the file that gets the arguments of every run, a JSON line each."""
    calls = folder / "calls.jsonl"
    (folder / "tasks.json").write_text(json.dumps(TASKS))
    script = folder / "fake_lmms.py"
    script.write_text(SCRIPT.format(calls=str(calls), tasks=str(folder / "tasks.json")))
    versions = json.dumps({"lmms-eval": "0.7.3", "viscot": "0.1"} if installed is None else installed)
    python = folder / "python"
    run = f'exec {sys.executable} {script} "$@"'
    python.write_text(f"#!/bin/sh\nif [ $1 = -c ]; then echo '{versions}'; else shift 2; {run}; fi\n")
    python.chmod(0o755)
    return str(python), calls
