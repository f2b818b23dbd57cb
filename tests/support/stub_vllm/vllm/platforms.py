"""The device that this vLLM is built for."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

_TOLD = json.loads(os.environ.get("STUB_VLLM", "{}"))
current_platform = SimpleNamespace(device_type=_TOLD.get("device", "cpu"))
