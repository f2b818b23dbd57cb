"""Judges by name: ``exact`` and its offline kin, ``openai:MODEL`` over HTTP, ``hf:PATH`` on this machine."""

from __future__ import annotations

from viscot_core.errors import UsageError, nearest
from viscot_core.score.base import Judge, JudgeOptions
from viscot_core.score.offline import MEASURES, OfflineJudge


def make_judge(spec: str, options: JudgeOptions) -> Judge:
    """The judge a spec names. Raises UsageError for an unknown one."""
    kind, _, model = spec.partition(":")
    if spec in MEASURES:
        return OfflineJudge(spec)
    if kind == "openai" and model:
        from viscot_core.score.openai import OpenAIJudge

        return OpenAIJudge.from_options(model, options)
    if kind == "hf" and model:
        from viscot_core.score.local import LocalJudge

        return LocalJudge.from_options(model, options)
    known = [*MEASURES, "openai:MODEL", "hf:PATH_OR_NAME"]
    raise UsageError(f"There is no judge '{spec}'; choose one of {', '.join(known)}.{nearest(spec, known)}")
