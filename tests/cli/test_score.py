"""``viscot score`` from the outside: exit codes, files, one-sentence errors."""

from pathlib import Path

from made_runs import prediction, sample_run, write_run


def test_exact(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = sample_run(tmp_path / "run", items=4)
    ran = cli("score", run, "--judge", "exact")
    assert ran.code == 0
    assert "12 scored" in ran.out
    assert cli("score", run, "--judge", "exact").out.count("(0 new)") == 1


def test_an_unknown_judge_names_the_nearest(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ran = cli("score", sample_run(tmp_path / "run"), "--judge", "exakt")
    assert ran.code == 2
    assert "exact" in ran.err


def test_no_run_folder(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ran = cli("score", tmp_path / "nothing", "--judge", "exact")
    assert ran.code == 2
    assert "Traceback" not in ran.err


def test_a_failed_prediction_makes_it_partly_done(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = [prediction(), prediction(question_id=2, status="failed", error="x", answer=None)]
    ran = cli("score", write_run(tmp_path / "run", rows))
    assert ran.code == 3
    assert "1 predictions failed" in ran.out
