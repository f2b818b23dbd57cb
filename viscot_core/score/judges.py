"""Judges by name: ``exact`` and its offline kin, ``openai:MODEL`` over HTTP, ``hf:PATH`` on this machine."""

from __future__ import annotations

from viscot_core.errors import UsageError, nearest
from viscot_core.score.base import Judge, JudgeOptions
from viscot_core.score.offline import MEASURES, OfflineJudge


def check_judge(spec: str) -> None:
    """Raise UsageError where a spec names no judge; nothing is loaded and no key is read."""
    kind, _, model = spec.partition(":")
    if spec in MEASURES or (kind in ("openai", "hf") and model):
        return
    known = [*MEASURES, "openai:MODEL", "hf:PATH_OR_NAME"]
    raise UsageError(f"There is no judge '{spec}'; choose one of {', '.join(known)}.{nearest(spec, known)}")


def make_judge(spec: str, options: JudgeOptions) -> Judge:
    """The judge a spec names, with its model or its key. Raises UsageError where it cannot be had."""
    check_judge(spec)
    kind, _, model = spec.partition(":")
    if kind == "openai":
        from viscot_core.score.openai import OpenAIJudge

        return OpenAIJudge.from_options(model, options)
    if kind == "hf":
        from viscot_core.score.local import LocalJudge

        return LocalJudge.from_options(model, options)
    return OfflineJudge(spec)
