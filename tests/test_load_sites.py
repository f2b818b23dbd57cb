"""Everything that reads a file which could hold code does so without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

OWN_PICKLES = {"viscot_core/runs/rank.py", "viscot_core/runs/evaluate.py"}
"""A benchmark's job for its ranks: made and read by one call, in an environment that only its user reads."""


def calls(repo: Path) -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Every call of the packages: file, dotted name, keyword arguments."""
    for package in ("viscot_core", "viscot_cli"):
        for path in sorted((repo / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    words = {word.arg: word.value for word in node.keywords if word.arg}
                    yield str(path.relative_to(repo)), ast.unparse(node.func), words


def is_constant(value: ast.expr | None, wanted: object) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


def test_no_file_runs_code(repo: Path) -> None:
    found = 0
    for path, name, words in calls(repo):
        where = f"{path}: {name}"
        if name == "torch.load":
            found += 1
            assert is_constant(words.get("weights_only"), True), where
        elif name.split(".")[-1] == "from_pretrained" and name.startswith("Auto"):
            found += 1
            assert is_constant(words.get("trust_remote_code"), False), where
        elif name in ("np.load", "numpy.load"):
            found += 1
            assert "allow_pickle" not in words, where
        elif name.startswith(("pickle.", "marshal.", "shelve.", "dill.", "cloudpickle.")):
            assert path in OWN_PICKLES, where
        assert name not in ("eval", "exec", "yaml.unsafe_load", "yaml.full_load"), where
        if "trust_remote_code" in words:
            assert is_constant(words["trust_remote_code"], False), where
    assert found >= 10


def test_a_name_that_offers_code_of_its_own_is_refused(tmp_path: Path) -> None:
    """An `hf:` judge: the folder's own Python file is neither run nor asked about."""
    from viscot_core.errors import ViscotError
    from viscot_core.score.base import JudgeOptions
    from viscot_core.score.local import LocalJudge

    touched = tmp_path / "touched"
    judge = tmp_path / "judge"
    judge.mkdir()
    (judge / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}'
    )
    (judge / "own.py").write_text(f"open({str(touched)!r}, 'w')\n")
    with pytest.raises(ViscotError):
        LocalJudge.from_options(str(judge), JudgeOptions())
    assert not touched.exists()
