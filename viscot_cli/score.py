"""``viscot score RUN --judge J``: a judge scores the answers of a run; the same command continues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from viscot_cli import console
from viscot_cli.model_options import MAX_TRUNCATED, ExtraBody, MaxTruncated, SameEngine
from viscot_core.score.choices import PromptStyle

if TYPE_CHECKING:
    from viscot_core.openai_api.budget import Usage
    from viscot_core.score.base import Judge
    from viscot_core.score.scoring import ScoreReport


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder: the --out of 'viscot bench'.")],
    judge: Annotated[
        str,
        typer.Option(help="exact, anls, vqa, contains, relaxed, letter, yes-no; openai:MODEL; hf:PATH."),
    ] = "exact",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="A 'bench run' instead of by --judge: shuffled (viscot's own rule), or another's, bug for "
            "bug: first-is-right, lmms-eval, vlmevalkit, deepeyes."
        ),
    ] = None,
    second_reader: Annotated[
        str | None,
        typer.Option(
            help="With --protocol: a judge (openai:MODEL, hf:PATH) for the answers that the rule cannot "
            "read. It gets some of the others too, and how often both agree is told."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Write to scores.NAME.jsonl instead of the judge's name.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server; default: OPENAI_BASE_URL.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Number of calls at the same time.")] = 32,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only estimate the calls, tokens and cost; ask nothing.")
    ] = False,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, help="Stop before the cost exceeds this many US dollars; needs a known price."),
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="Your own price table (YAML).")] = None,
    prompt: Annotated[
        PromptStyle,
        typer.Option(
            help="paper: the reference's prompt, only risky answers quoted; guarded: every answer quoted."
        ),
    ] = PromptStyle.PAPER,
    json_mode: Annotated[
        bool, typer.Option("--json-mode", help="Ask for a JSON verdict and accept nothing else.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Temperature of the judge model.")] = 0.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest reply of the judge, its thought included [256; hf: judges 64]."),
    ] = None,
    max_truncated: MaxTruncated = MAX_TRUNCATED,
    extra_body: ExtraBody = None,
    same_engine: SameEngine = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds until a call without a whole reply is cancelled.")
    ] = 60.0,
    attempts: Annotated[int, typer.Option(min=1, help="Attempts per answer before it stays pending.")] = 6,
    retry_unscored: Annotated[
        bool,
        typer.Option("--retry-unscored", help="Ask again if the judge's reply had no score or was cut off."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask again even if the cache has a reply.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of cached replies that runs share. OpenAI's are always cached, in VISCOT_CACHE, "
            "another server's only here: its address does not identify the weights."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per batch, for hf: judges.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1, for hf: judges.")] = "auto",
) -> None:
    """Score the answers of RUN and append the scores to RUN/scores.<judge>.jsonl.

    Only answers without a score are sent to the judge. An API judge needs OPENAI_API_KEY. Exit code 3:
    some answers are pending or failed; run the same command again.
    """
    from viscot_core.errors import PartlyDone, UsageError
    from viscot_core.openai_api.options import extra_body_of
    from viscot_core.score.base import JudgeOptions
    from viscot_core.score.judges import make_judge
    from viscot_core.score.scoring import score_run
    from viscot_core.score.second_reader import SecondReader

    options = JudgeOptions(
        base_url=base_url,
        concurrency=concurrency,
        max_cost=max_cost,
        prices=prices,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout=timeout,
        attempts=attempts,
        style=prompt,
        json_mode=json_mode,
        extra_body=extra_body_of(extra_body),
        cache=cache,
        fresh=fresh,
        batch_size=batch_size,
        device=device,
        only_estimate=estimate,
    )
    made: Judge = make_judge(judge, options)
    if protocol is not None:
        if judge != "exact":
            raise UsageError("--protocol is a rule without a judge; give one of the two.")
        made = _by_protocol(run, protocol, make_judge(second_reader, options) if second_reader else None)
    elif second_reader:
        raise UsageError("--second-reader reads what a rule cannot; name the rule with --protocol.")
    if estimate or judge.startswith("openai:"):
        expected = _estimate(run, made, name, retry_unscored)
        if estimate:
            console.out(expected)
            return
        console.say(expected)
    with console.progress(f"scoring {run}") as advance:
        report = score_run(
            run,
            made,
            name=name,
            retry_unscored=retry_unscored,
            same_engine=same_engine,
            progress=advance,
        )
    _show(report)
    if isinstance(made, SecondReader):
        console.out(
            f"{second_reader} read {made.read} answers that the rule could not; of {made.checked} that both "
            f"read, they agree on {made.agreed}"
        )
    _show_usage(getattr(made, "usage", None))
    if not report.complete:
        raise PartlyDone(f"Not every answer of {run} has a score; run the same command again to continue.")
    if report.truncated > max_truncated:
        raise PartlyDone(
            f"{report.truncated:.1%} of the judge's replies were cut off, more than --max-truncated "
            f"{max_truncated:g}; give a larger --max-tokens, and --retry-unscored to ask about those again."
        )


def _by_protocol(run: Path, protocol: str, reader: Judge | None) -> Judge:
    """The rule, with the second reader behind it; warns where its scores would mean nothing."""
    from viscot_core.runs.records import read_run
    from viscot_core.score.protocols import ProtocolJudge, warning_of
    from viscot_core.score.second_reader import SecondReader

    rule = ProtocolJudge(protocol)
    if warning := warning_of(protocol, read_run(run).settings.get("order")):
        console.say(f"Warning: {warning}")
    return rule if reader is None else SecondReader(rule, reader)


def _estimate(run: Path, judge: object, name: str | None, retry_unscored: bool) -> str:
    """A sentence about calls, tokens and cost; UsageError for a judge that costs nothing."""
    from viscot_core.errors import UsageError
    from viscot_core.score.openai import OpenAIJudge
    from viscot_core.score.scoring import pairs_to_ask

    if not isinstance(judge, OpenAIJudge):
        raise UsageError("--estimate is for API judges; offline and hf: judges cost nothing.")
    found = judge.estimate(pairs_to_ask(run, judge, name=name, retry_unscored=retry_unscored))
    asked = f"{found.pairs} different answers to judge, {found.cached} of them in the cache"
    tokens = f"{found.calls} calls, about {found.tokens_in} tokens in and {found.tokens_out} out"
    price = judge.price
    if found.cost is None or price is None:
        cost = f"the price of '{judge.model}' is unknown, and so is the cost; add it with --prices FILE"
    else:
        read = " ".join(word for word in (price.date, f"({price.source})" if price.source else "") if word)
        cost = f"about ${found.cost:.4f} with {judge.model}" + (f", at the price of {read}" if read else "")
    return f"{asked}\n{tokens}: {cost}"


def _show(report: ScoreReport) -> None:
    if not report.items and not report.unanswered:
        console.out("This run has no answers to judge; 'viscot stats' shows its boxes.")
        return
    states = ", ".join(f"{count} {state}" for state, count in report.states.items() if count)
    console.out(f"{report.path}: {report.items} answers: {states or 'none'} ({report.new} new)")
    if report.clipped:
        console.out(f"{report.clipped} scores were outside 0..1 and were set to the nearer end")
    if report.unanswered:
        console.out(f"{report.unanswered} predictions failed and have no answer: run 'viscot bench' again")
    if report.cut_off:
        console.out(
            f"{report.cut_off} answers were cut off before their first word: bench with more --max-new-tokens"
        )
    for reason, count in list(report.reasons.items())[:5]:
        console.out(f"  {count} x {reason}")


def _show_usage(usage: Usage | None) -> None:
    if usage is None:
        return
    cost = "at an unknown price" if usage.cost is None else f"${usage.cost:.4f}"
    unanswered = usage.requests - usage.calls  # a refusal is billed too
    without = f" ({unanswered} without a usable reply)" if unanswered else ""
    console.out(
        f"{usage.requests} calls{without}, {usage.cached} from the cache, {usage.retries} retries, "
        f"{usage.tokens_in} tokens in, {usage.tokens_out} out, {cost}"
    )
    if usage.models:
        console.out(f"The server names its model {', '.join(sorted(usage.models))}")
    if usage.capped:
        console.out("--max-cost is reached: the other answers stay pending")
