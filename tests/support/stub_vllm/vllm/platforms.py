"""The device that this vLLM is built for."""

from __future__ import annotations

from types import SimpleNamespace

current_platform = SimpleNamespace(device_type="cpu")
