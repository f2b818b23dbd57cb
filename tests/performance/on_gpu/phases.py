"""Where the time of a run goes: vision, prefill, decode and what lies between, on the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

MARKS = {"vision": 1001, "prefill": 1003, "decode": 1005, "end": 1007, "whole": 1009}
"""Bytes of the tiny copies that mark a span in a profiler's trace of the device alone (the host is not
slowed by its own profile)."""


class Phases:
    """Spans of vision, prefill and decode on the device's own clock, by hooks on the model's parts.

    What no span covers: ``before vision`` (images are decoded, cropped, resized; the next prompts are made)
    and ``gaps`` (the host between two passes). With ``marks`` the spans are seen in a profile too.
    """

    def __init__(self, model: Any, *, marks: bool = False) -> None:
        import torch

        self._torch, self._model = torch, model
        device = next(model.parameters()).device
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []
        self._open: tuple[str, Any] | None = None
        self._last = "prefill"
        self._handles: list[Any] = []
        self._bytes = torch.zeros(2, 2048, dtype=torch.uint8, device=device) if marks else None

    def __enter__(self) -> Phases:
        parts = self._model.model
        text = parts.language_model

        def begins_text(_: Any, args: Any, kwargs: Any) -> None:
            given = next(
                t for t in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args) if t is not None
            )
            self._begin("decode" if given.shape[1] == 1 else "prefill")

        self._handles = [
            parts.vision_tower.embeddings.register_forward_pre_hook(lambda *_: self._begin("vision")),
            parts.multi_modal_projector.register_forward_hook(lambda *_: self._end()),
            text.register_forward_pre_hook(begins_text, with_kwargs=True),
            text.register_forward_hook(lambda *_: self._end()),
            self._model.lm_head.register_forward_pre_hook(lambda *_: self._begin(self._last)),
            self._model.lm_head.register_forward_hook(lambda *_: self._end()),
        ]
        if self._cuda:  # a captured decoding step calls no module
            own = self._replay = self._torch.cuda.CUDAGraph.replay

            def replay(graph: Any) -> None:
                self._begin("decode")
                own(graph)
                self._end()

            self._torch.cuda.CUDAGraph.replay = replay
        self._copy("whole")
        self._start = self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = self._mark()
        self._copy("whole")
        for handle in self._handles:
            handle.remove()
        if self._cuda:
            self._torch.cuda.CUDAGraph.replay = self._replay
            self._torch.cuda.synchronize()

    def _copy(self, kind: str) -> None:
        if self._bytes is not None:
            self._bytes[0, : MARKS[kind]].copy_(self._bytes[1, : MARKS[kind]])

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _capturing(self) -> bool:
        return self._cuda and bool(self._torch.cuda.is_current_stream_capturing())

    def _begin(self, kind: str) -> None:
        if self._capturing():
            return
        self._end()
        self._copy(kind)
        self._open = (kind, self._mark())
        if kind != "vision":
            self._last = kind

    def _end(self) -> None:
        if self._open is None or self._capturing():
            return
        self._spans.append((*self._open, self._mark()))
        self._copy("end")
        self._open = None

    def shares(self) -> dict[str, float]:
        """Share of the wall time by phase; spans include the gaps inside them."""

        def seconds(a: Any, b: Any) -> float:
            return float(a.elapsed_time(b)) / 1000 if self._cuda else float(b - a)

        total = seconds(self._start, self._stop)
        found = dict.fromkeys(("vision", "prefill", "decode", "before vision", "gaps"), 0.0)
        at = self._start
        for kind, start, stop in self._spans:
            found["before vision" if kind == "vision" else "gaps"] += max(0.0, seconds(at, start))
            found[kind] += seconds(start, stop)
            at = stop
        found["gaps"] += max(0.0, seconds(at, self._stop))
        return {name: round(value / total, 4) for name, value in found.items()} | {"seconds": round(total, 3)}


def busy_shares(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """From a trace with ``Phases``' marks: share of the time in which the device works, and of its waits.

    Work outside a span (the choice of a token, say) belongs to the span before it; what is idle before a
    vision span waits for images.
    """
    kinds = {size: kind for kind, size in MARKS.items()}
    works = []
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            copied = event.get("args", {}).get("bytes", 0) if event["cat"] == "gpu_memcpy" else 0
            works.append((float(event["ts"]), float(event["dur"]), kinds.get(copied)))
    works.sort(key=lambda work: work[:2])
    whole = [number for number, work in enumerate(works) if work[2] == "whole"]
    if len(whole) == 2:
        works = works[whole[0] : whole[1] + 1]
    if not works:
        return {}
    busy: dict[str, float] = {}
    idle: dict[str, float] = {}
    waited, at, kind, inside = 0.0, works[0][0], "other", False
    for ts, dur, mark in works:
        gap, own = max(0.0, ts - at), max(0.0, ts + dur - max(at, ts))
        at = max(at, ts + dur)
        if inside:
            idle[f"inside {kind}"] = idle.get(f"inside {kind}", 0.0) + gap
        else:
            waited += gap
        if mark in ("vision", "prefill", "decode"):
            where = "before vision" if mark == "vision" else "between"
            idle[where], waited = idle.get(where, 0.0) + waited, 0.0
            kind, inside = mark, True
        elif mark == "end":
            inside = False
        elif mark is None:
            busy[kind] = busy.get(kind, 0.0) + own
    idle["between"] = idle.get("between", 0.0) + waited
    wall = at - works[0][0]
    found = {f"busy {name}": value / wall for name, value in busy.items()}
    found |= {f"idle {name}": value / wall for name, value in idle.items()}
    found["busy"] = sum(busy.values()) / wall
    return {name: round(value, 4) for name, value in found.items()} | {
        "seconds": round(wall / 1e6, 3),
        "kernels": len(works),
    }
