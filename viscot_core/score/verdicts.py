"""A judge's verdicts on the answers of a run: one append-only file per judge in the run folder.

The first line of ``scores.<judge>.jsonl`` names the judge; every further line is one verdict. A later line
about the same item replaces an earlier one. A verdict contains a digest of the texts it was given for, so
a file of another run, or verdicts on answers that have changed, are detected and never averaged.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from viscot_core.errors import DataError, UsageError
from viscot_core.lines import set_broken_line_aside
from viscot_core.runs.records import Key, Prediction


class State(StrEnum):
    """The state of an answer with a judge; only ``scored`` answers enter a mean."""

    SCORED = "scored"
    UNSCORED = "unscored"
    """The judge replied, but the reply contains no single score."""
    TRUNCATED = "truncated"
    """The token limit cut the judge's reply before its score."""
    PENDING = "pending"
    """Not asked yet, or asked without a reply (the next run asks again)."""
    FAILED = "failed"
    """The judge refuses this item (a content filter, a rejected request)."""


class Pair(NamedTuple):
    """What a judge sees. Equal pairs are judged once."""

    question: str
    reference: str
    answer: str
    options: tuple[str, ...] = ()
    """Of a multiple choice, in the order in which they were asked."""
    benchmark: str = ""

    def digest(self) -> str:
        """16 hex digits that identify these texts."""
        # Model output may hold half a surrogate pair, which plain UTF-8 refuses to encode.
        texts = (self.question, self.reference, self.answer, *self.options)
        return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """A judge's result for one pair; ``score`` is in 0..1, and None unless the state is scored."""

    state: State
    score: float | None = None
    reason: str | None = None
    reply: str | None = None
    clipped: bool = False
    """The judge gave a value outside 0..1; it was set to the nearer end."""


@dataclass(frozen=True)
class JudgeIdentity:
    """Everything that changes a score. Files are comparable only if all of it but the date agrees.

    ``extra_sha256`` is the digest of the user's own fields of each request (they may hold a secret), None
    without any.
    """

    name: str
    model: str
    prompt_sha256: str | None
    temperature: float | None
    created: str
    extra_sha256: str | None = None

    @classmethod
    def now(
        cls,
        name: str,
        model: str,
        prompt_sha256: str | None,
        temperature: float | None,
        extra_sha256: str | None = None,
    ) -> Self:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(name, model, prompt_sha256, temperature, created, extra_sha256)

    def same_judge(self, other: JudgeIdentity, *, anywhere: bool = False) -> bool:
        """Whether everything but the date is equal; ``anywhere``: a server's address may differ too."""
        mine, its = (
            replace(judge, created="", model=judge.model.rpartition("#")[2] if anywhere else judge.model)
            for judge in (self, other)
        )
        return mine == its

    def to_row(self) -> dict[str, Any]:
        """As files have it: without ``extra_sha256`` where there are no such fields."""
        row = asdict(self)
        if self.extra_sha256 is None:
            del row["extra_sha256"]
        return row

    def describe(self) -> str:
        """``openai:gpt-4o-mini, prompt 3f2a91c0, temperature 0``: for tables and errors.

        A model of a server is named with its address: ``openai:http://HOST/v1#judge``.
        """
        kind, is_model, _ = self.name.partition(":")
        words = [f"{kind}:{self.model}" if is_model else self.name]
        if self.prompt_sha256:
            words.append(f"prompt {self.prompt_sha256[:8]}")
        if self.temperature is not None:
            words.append(f"temperature {self.temperature:g}")
        if self.extra_sha256:
            words.append(f"extra body {self.extra_sha256[:8]}")
        return ", ".join(words)


@dataclass(frozen=True)
class Verdict:
    """One line of a scores file: an item and the judge's outcome."""

    strategy: str
    dataset: str
    question_id: str | int
    outcome: Outcome
    pair: str | None = None
    """``Pair.digest`` of the judged texts; None in files written by other tools."""

    @property
    def key(self) -> Key:
        return (self.strategy, self.dataset, str(self.question_id))

    def is_about(self, pair: Pair | None) -> bool:
        """Whether it may have been given for these texts; files of other tools do not say."""
        return pair is not None and self.pair in (None, pair.digest())

    def line(self) -> str:
        row: dict[str, Any] = {
            "strategy": self.strategy,
            "dataset": self.dataset,
            "question_id": self.question_id,
            "state": self.outcome.state.value,
            "score": self.outcome.score,
            "reason": self.outcome.reason,
        }
        if self.outcome.reply is not None:
            row["reply"] = self.outcome.reply
        if self.outcome.clipped:
            row["clipped"] = True
        if self.pair is not None:
            row["pair"] = self.pair
        return json.dumps(row, ensure_ascii=False)


@dataclass(frozen=True)
class Scores:
    """The content of a scores file: the judge and the last verdict on each item."""

    judge: JudgeIdentity
    verdicts: dict[Key, Verdict]
    path: Path


def scores_path(run: Path, judge: str) -> Path:
    """``RUN/scores.<judge>.jsonl``; characters that do not belong in a file name become dashes."""
    slug = "".join(c if c.isalnum() or c in "._-" else "-" for c in judge).strip("-.")
    return run / f"scores.{slug}.jsonl"


def score_files(run: Path) -> dict[str, Path]:
    """The scores files of a run, by the judge's part of the file name."""
    return {
        p.name.removeprefix("scores.").removesuffix(".jsonl"): p for p in sorted(run.glob("scores.*.jsonl"))
    }


def read_scores(path: Path) -> Scores:
    """Read a scores file; a last line cut short by an interruption is ignored (``ScoreLog`` sets it aside).

    Raises:
        DataError: there is no header, or a complete line is not a verdict.
    """
    lines, _ = _whole_lines(path)
    if not lines:
        raise DataError(f"{path} has no header line with the judge; delete it and run 'viscot score' again.")
    judge = _header(path, lines[0])
    verdicts: dict[Key, Verdict] = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            verdict = _verdict(path, number, line)
            # The last line about an item counts: a pending one may be followed by its score.
            verdicts[verdict.key] = verdict
    return Scores(judge, verdicts, path)


def _whole_lines(path: Path) -> tuple[list[bytes], bytes]:
    """The complete lines, and the bytes after the last line break (b"" if the file is complete)."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    return lines, rest


def _header(path: Path, line: bytes) -> JudgeIdentity:
    try:
        judge = json.loads(line)["judge"]
        return JudgeIdentity(
            judge["name"],
            judge["model"],
            judge["prompt_sha256"],
            judge["temperature"],
            judge["created"],
            judge.get("extra_sha256"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}:1 is not a header line with the judge; delete the file and score again."
        ) from error


def _verdict(path: Path, number: int, line: bytes) -> Verdict:
    try:
        row = json.loads(line)
        state = State(row["state"])
        score = None if row["score"] is None else float(row["score"])
        if (state is State.SCORED) != (score is not None and 0 <= score <= 1):
            raise ValueError(f"state {state} with score {score}")
        outcome = Outcome(state, score, row["reason"], row.get("reply"), bool(row.get("clipped")))
        return Verdict(
            str(row["strategy"]), str(row["dataset"]), row["question_id"], outcome, row.get("pair")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}:{number} is not a verdict ({error}); delete that line, and the item is asked again."
        ) from error


def pair_of(prediction: Prediction) -> Pair | None:
    """The texts a judge sees; None if there is no answer or no reference answer."""
    if not prediction.done or prediction.reference is None or prediction.answer is None:
        return None
    # Cut before the first word of the answer, mostly in a thought: nothing was said that could be wrong.
    if prediction.status == "truncated" and not prediction.answer.strip():
        return None
    options, benchmark = prediction.options or (), prediction.benchmark or ""
    return Pair(prediction.question, prediction.reference, prediction.answer, options, benchmark)


def check_belongs(scores: Scores, predictions: Iterable[Prediction]) -> None:
    """Refuse the scores of another run: verdicts on items or answers that this run does not have.

    Raises:
        DataError: says how many verdicts do not fit.
    """
    pairs = {p.key: pair_of(p) for p in predictions}
    strange = sum(not verdict.is_about(pairs.get(key)) for key, verdict in scores.verdicts.items())
    if strange:
        raise DataError(
            f"{scores.path} does not belong to this run: {strange} of its {len(scores.verdicts)} verdicts "
            "are about other items or other answers; move that file away and run 'viscot score' again."
        )


class ScoreLog:
    """Appends verdicts to a scores file and flushes each: a kill loses at most the line being written.

    An existing file must be of the same judge; a broken last line is moved to ``<file>.broken``. A second
    process is refused. Use it as a context manager; ``.scores`` is what the file contained before.
    ``same_engine``: the judge's server may have another address than in the file.
    """

    def __init__(self, path: Path, judge: JudgeIdentity, *, same_engine: bool = False) -> None:
        self.path, self._same_engine = path, same_engine
        try:
            # For appending: nothing of the file is lost if the lock turns out to be taken.
            self._file = path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
        except OSError as error:
            self._file.close()
            raise UsageError(f"Another process is writing {self.path}; wait until it is done.") from error
        try:
            self.scores = self._begin(judge)
        except BaseException:
            self._close()
            raise

    def _begin(self, judge: JudgeIdentity) -> Scores:
        """Repair the file and return what it contains; an empty file gets its header."""
        if self.path.stat().st_size:
            set_broken_line_aside(self.path, self.path.with_name(f"{self.path.name}.broken"))
        if not self.path.stat().st_size:
            self._file.write(json.dumps({"judge": judge.to_row()}, ensure_ascii=False) + "\n")
            self._file.flush()
            return Scores(judge, {}, self.path)
        scores = read_scores(self.path)
        if not scores.judge.same_judge(judge, anywhere=self._same_engine):
            moved = scores.judge.same_judge(judge, anywhere=True)
            hint = " If it is the same server, add --same-engine." if moved else ""
            raise UsageError(
                f"{self.path} was written by another judge ({scores.judge.describe()}, now "
                f"{judge.describe()}); write these scores to another file with --name.{hint}"
            )
        return scores

    def append(self, verdicts: Sequence[Verdict]) -> None:
        self._file.write("".join(v.line() + "\n" for v in verdicts))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Close the file. An empty one (the disk was full) is deleted while it is still locked."""
        if not self.path.stat().st_size:
            self.path.unlink()
        self._file.close()
