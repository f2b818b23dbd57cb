"""What the sections share: the arguments, the clock, the model, and the record they write into."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from on_gpu.capped import make_images
from on_gpu.cards import card_named
from on_gpu.made import IMAGE_SIZES, QUESTIONS, REFERRED, SIZES, make_model, make_tokenizer
from on_gpu.viscot_side import BOX, GIB, Asked, loaded_model, open_file, prompt


class OutOfTime(Exception):
    """A section's time is up."""


class Bench:
    """What the sections share: the arguments, the clock, the model, and the record they write into."""

    def __init__(self, given: argparse.Namespace, state: Path) -> None:
        import torch

        self.torch, self.given, self.state = torch, given, state
        self.size = SIZES[given.size]
        self.cuda = given.device.startswith("cuda")
        self.device = given.device
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.record: dict[str, Any] = json.loads(state.read_text())
        self.work = Path(tempfile.mkdtemp(prefix="viscot-gpu-"))
        self.tokenizer = make_tokenizer(self.size)
        self._loaded: Any = None
        self.train_tokens: Any = None
        self._until = math.inf

    # the record

    def save(self) -> None:
        text = json.dumps(self.record, indent=1)
        partial = self.state.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(self.state)

    def note(self, section: str, name: str, value: Any) -> None:
        self.record["sections"].setdefault(section, {})[name] = value
        self.save()
        print(f"  {section} {name}: {json.dumps(value)}", flush=True)

    def tried(self, section: str, name: str, work: Callable[[], Any]) -> None:
        """Note what ``work`` gives, or why it gives nothing; the section goes on."""
        try:
            value = work()
        except OutOfTime:
            raise
        except Exception as error:
            value = {"error": short(error)}
            traceback.print_exc()
        self.note(section, name, value)
        self.clean()

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """What is done here is not counted as the section's time: loading, warming up, making data."""
        start, running = time.monotonic(), self.record.get("running")
        signal.setitimer(signal.ITIMER_REAL, 0)
        if running:
            running["limit"] += 120
            self.save()
        try:
            yield
        finally:
            spent = time.monotonic() - start
            self._until += spent
            self._ring_at(self._until)
            if running:
                running["limit"] += spent - 120
                self.save()

    def left(self) -> float:
        """Seconds of the section's time that are left."""
        return self._until - time.monotonic()

    def enough(self, seconds: float) -> bool:
        return self.left() > seconds

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        def ring(*_: object) -> None:
            raise OutOfTime(f"stopped after {seconds:.0f} s")

        signal.signal(signal.SIGALRM, ring)
        self._until = time.monotonic() + seconds
        self._ring_at(self._until)
        try:
            yield
        finally:
            self._until = math.inf
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring_at(self, until: float) -> None:
        if until < math.inf:
            last = self.record["ends"] - time.time()  # of the whole run
            signal.setitimer(signal.ITIMER_REAL, max(0.1, min(until - time.monotonic(), last)))

    # the device

    def sync(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize()

    def forget_peak(self) -> None:
        self.clean()
        if self.cuda:
            self.torch.cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, float]:
        """Peak GiB in tensors, reserved by torch, and of the device: that and what its context takes."""
        if not self.cuda:
            return {"allocated": 0.0, "reserved": 0.0, "device": 0.0}
        cuda = self.torch.cuda
        reserved = cuda.max_memory_reserved()
        free, total = cuda.mem_get_info()
        context = total - free - cuda.memory_reserved()
        found = {"allocated": cuda.max_memory_allocated(), "reserved": reserved, "device": reserved + context}
        return {name: round(size / GIB, 2) for name, size in found.items()}

    def clean(self) -> None:
        gc.collect()
        if self.cuda:
            self.torch.cuda.empty_cache()

    def clocked(self, work: Callable[[], Any]) -> float:
        self.sync()
        start = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - start

    def timed(self, work: Callable[[], Any], times: int = 3) -> float:
        """The middle of several times, after one that does not count."""
        work()
        return sorted(self.clocked(work) for _ in range(times))[times // 2]

    @property
    def loaded(self) -> Any:
        if self._loaded is None:
            self.forget_peak()
            start = time.perf_counter()
            model = make_model(self.size, self.tokenizer, self.device, self.dtype)
            self.sync()
            self.record["load"] = {
                "seconds": round(time.perf_counter() - start, 1),
                "parameters": sum(p.numel() for p in model.parameters()),
                "peak_gib": self.peak(),
            }
            self.save()
            self._loaded = loaded_model(model, self.tokenizer)
        return self._loaded

    def unload(self) -> None:
        self._loaded = None
        self.clean()

    @property
    def measured(self) -> dict[str, float]:
        """This machine's own limits: products in TFLOP/s, copies in TB/s (bytes read and written)."""
        if "measured" not in self.record:
            torch, (side, mib) = self.torch, self.size.probe
            a, b = (torch.randn(side, side, device=self.device, dtype=self.dtype) for _ in range(2))
            product = self.timed(lambda: [a @ b for _ in range(10)]) / 10
            source = torch.randn(mib << 18, device=self.device)
            target = torch.empty_like(source)
            copy = self.timed(lambda: [target.copy_(source) for _ in range(10)]) / 10
            self.record["measured"] = {
                "tflops": round(2 * side**3 / product / 1e12, 3),
                "copy_tb_s": round(2 * source.nbytes / copy / 1e12, 4),
            }
            del a, b, source, target
            self.clean()
            self.save()
        return self.record["measured"]

    def card_tflops(self) -> float:
        card = card_named(self.record["device"])
        return float(card.tflops) if card else self.measured["tflops"]

    def lengths(self) -> dict[str, int]:
        """Tokens of the prompts' parts, for the counted limits."""
        image = self._blank()
        _, first, _ = prompt(self.loaded, "detect", QUESTIONS[0], BOX, image, "x")
        _, second, _ = prompt(self.loaded, "answer", QUESTIONS[0], BOX, image, "x")
        _, refer, _ = prompt(self.loaded, "refer", REFERRED.format(1), BOX, image, "x")
        tokens = self.loaded.processor.tokens
        before, shown = first.index(tokens.image_id), tokens.image_tokens
        return {
            "before": before,
            "question": len(first) - before - shown,
            "request": len(second) - before - 2 * shown,
            "refer": len(refer) - before - shown,
        }

    @staticmethod
    def _blank() -> Any:
        from PIL import Image

        return Image.new("RGB", IMAGE_SIZES[0])

    def prompts(self, kind: str, count: int, images: int | None = None) -> list[Asked]:
        """``count`` prompts about as many images, or about ``images``."""
        folder = self.work / "prompts"
        paths = sorted(folder.iterdir()) if folder.exists() else make_images(folder, IMAGE_SIZES[0], 8, "p")
        opened = [open_file(path) for path in paths]
        found = []
        for number in range(count):
            shown = number % (images or count)
            words = QUESTIONS[number % 3] if kind != "refer" else REFERRED.format(number % 10)
            found.append(prompt(self.loaded, kind, words, BOX, opened[shown % 8], f"image {shown}"))
        return found


def short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
