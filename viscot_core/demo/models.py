"""The models that the page offers: loaded one at a time, at the latest when they are asked, and kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from viscot_core.errors import EngineError, ViscotError
from viscot_core.hardware import free_memory
from viscot_core.policies.wording import Wording
from viscot_core.policies.zoom_settings import ZoomSettings
from viscot_core.serve.batching import Batcher

log = logging.getLogger(__name__)

_LOADING = threading.Lock()
"""Models are loaded one after another, whoever asks."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that answers: what runs its prompts, how it is spoken to, and its zoom loop if any."""

    batcher: Batcher
    wording: Wording
    zoom: ZoomSettings | None = None


class DemoModel:
    """A model of the page, which ``opens`` loads; ``label`` names it there.

    ``weigh`` counts the bytes that its weights take in memory; None where another machine holds them.
    ``in_ram`` tells that they lie in this machine's memory, not on a GPU. ``hint`` stands beside its answers.
    """

    def __init__(
        self,
        label: str,
        opens: Callable[[], Ready],
        *,
        weigh: Callable[[], int] | None = None,
        in_ram: bool = False,
        hint: str = "",
    ) -> None:
        self.label = label
        self.hint = hint
        self._opens = opens
        self._weigh = weigh
        self._weights = None if weigh is None else weigh()
        self._in_ram = in_ram
        self._ready: Ready | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it can answer at once."""
        return self._ready is not None

    @property
    def memory(self) -> str:
        """What its weights take, in words."""
        return "" if self._weights is None else f"{_gigabytes(self._weights)} of weights"

    def ready(self) -> Ready:
        """The model, loaded if it is not; one that could not be loaded is tried again.

        Raises:
            ViscotError: it cannot be loaded; the other models are not touched.
        """
        try:
            return self.load()
        except ViscotError:
            raise
        except Exception as error:  # a library's own error: the page and the other models go on
            log.exception("%s could not be loaded.", self.label)
            why = f"{type(error).__name__}: {error}"
            raise EngineError(f"{self.label} could not be loaded ({why}).") from error

    def load(self) -> Ready:
        """As ``ready``; an error of a library is raised as it is, for who explains those."""
        if self._ready is not None:  # another model's loading is not waited for
            return self._ready
        with _LOADING:
            if self._ready is None:
                self._require_memory()
                self._ready = self._opens()
            return self._ready

    def _require_memory(self) -> None:
        """Without memory the system would end the whole program; a GPU says itself that it is full."""
        if not self._in_ram or self._weigh is None:
            return
        self._weights = self._weigh()  # fp32 or bf16 is chosen by the memory that is free now
        if self._weights > (free := free_memory()):
            raise EngineError(
                f"{self.label} takes {self.memory}, and {_gigabytes(free)} of memory are free; "
                "try --dtype bf16, --load-in 4bit, a smaller model or fewer models."
            )

    def close(self) -> None:
        """Let it answer what it was asked, then stop it."""
        if self._ready is not None:
            self._ready.batcher.close()


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count < 10**10 else f"{count / 1e9:,.0f} GB"
