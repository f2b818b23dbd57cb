"""What viscot knows of public models: names, families, sizes, licenses, each with the page that says it.

An empty field is not known. Sizes are those that the hub states or the files have (two bytes a parameter in
bf16), not those in the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from viscot_core.families.manifest import TurnTokens

BUNDLED = "viscot-tiny"
BUNDLED_ZOOM = "viscot-tiny-zoom"
LLAMA2 = "Llama 2 Community License (Vicuna v1.5)"
APACHE = "Apache-2.0"
_KEPT = 0.45
"""Billions of parameters of tower and head, which quantised models keep in 16 bit."""


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One known model.

    Attributes:
        name: what users call it; ``hub`` is its id there.
        parameters: in billions; None where no page says it.
        side: of the square image that it reads, pixels; None where sizes vary.
        turn_tokens: as its training tokenized turn starts.
        kind: viscot's own, a LLaVA, a tower that cannot answer, or any other chat model.
        family: as the list is filtered by (``families/generic/backbones.py``).
        thinks: whether its template can let it think before it answers.
        gated: whether the hub wants its license accepted first.
        stored_gb: size of the weights where they are not in bf16.
        source: the page with these facts.
    """

    name: str
    hub: str | None
    parameters: float | None
    side: int | None
    license: str | None
    turn_tokens: TurnTokens
    kind: Literal["viscot", "llava", "tower", "chat"]
    family: str
    source: str
    thinks: bool = False
    gated: bool = False
    stored_gb: float | None = None

    @property
    def disk_gb(self) -> float | None:
        """Size of the weights, GB (10**9 bytes)."""
        if self.stored_gb is not None or self.parameters is None:
            return self.stored_gb
        return round(self.parameters * 2, 1)

    def gpu_gb(self, bits: int) -> float | None:
        """Memory to answer one question, GB, on a GPU or in RAM, at 32, 16, 8 or 4 bits a weight.

        An estimate: parameters x bits / 8, of which tower and head (0.45 B) take 16 bits at least; a tenth
        more for what lies beside them; and 1 GB of activations and KV cache (0.1 GB below a billion). None
        where the size is not known.
        """
        if self.parameters is None:
            return None
        kept = min(_KEPT, self.parameters) if bits < 16 else 0.0
        weights = (self.parameters - kept) * bits / 8 + kept * 2
        return round(weights * 1.1 + (1.0 if self.parameters > 1 else 0.1), 1)


def _released(size: str, parameters: float, side: int) -> ZooModel:
    name, hub = f"VisCoT-{size}-{side}", f"deepcs233/VisCoT-{size}-{side}"
    return ZooModel(name, hub, parameters, side, LLAMA2, "v4.31", "viscot", "llava", _page(hub))


def _llava(size: str, parameters: float) -> ZooModel:
    name, hub = f"llava-v1.5-{size}", f"liuhaotian/llava-v1.5-{size}"
    return ZooModel(name, hub, parameters, 336, LLAMA2, "v4.31", "llava", "llava", _page(hub))


def _tower(name: str, side: int) -> ZooModel:
    hub = f"openai/{name}"
    return ZooModel(name, hub, 0.304, side, "MIT", "plain", "tower", "clip", _page(hub), stored_gb=1.7)


def _page(hub: str) -> str:
    return f"https://huggingface.co/{hub}"


def _chat(
    hub: str,
    family: str,
    parameters: float | None,
    license: str | None = APACHE,
    source: str = "",
    *,
    thinks: bool = False,
    gated: bool = False,
    stored_gb: float | None = None,
) -> ZooModel:
    name = hub.partition("/")[2]
    page = f"https://huggingface.co/{source}" if source else _page(hub)
    return ZooModel(
        name, hub, parameters, None, license, "plain", "chat", family, page, thinks, gated, stored_gb
    )


_QWEN2 = "collections/Qwen/qwen2-vl"
_QWEN25 = "collections/Qwen/qwen25-vl"
_QWEN3 = "collections/Qwen/qwen3-vl"
_QWEN35 = "collections/Qwen/qwen35"
_INTERN = "collections/internlm/internvl35"
_BUNDLED = [
    ZooModel(name, None, 0.0043, 112, APACHE, "plain", "viscot", "llava", "its model card", stored_gb=0.009)
    for name in (BUNDLED, BUNDLED_ZOOM)
]

ZOO: dict[str, ZooModel] = {
    model.name: model
    for model in (
        # Sizes of the LLaVA models are computed from their shapes.
        *_BUNDLED,
        _released("7b", 7.06, 224),
        _released("7b", 7.06, 336),
        _released("13b", 13.35, 224),
        _released("13b", 13.35, 336),
        _llava("7b", 6.76),
        _llava("13b", 13.05),
        # The hub's config of the second says idefics3; those of SmolVLM2 are stored in fp32.
        _chat("HuggingFaceM4/Idefics3-8B-Llama3", "idefics3", 8.46),
        _chat("HuggingFaceTB/SmolVLM-256M-Instruct", "idefics3", 0.256),
        _chat("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "smolvlm", 0.257, stored_gb=1.03),
        _chat("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "smolvlm", 0.507, stored_gb=2.03),
        _chat("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm", 2.25, stored_gb=8.99),
        _chat("Qwen/Qwen2-VL-2B-Instruct", "qwen2-vl", 2.2, source=_QWEN2),
        _chat("Qwen/Qwen2-VL-7B-Instruct", "qwen2-vl", 8, source=_QWEN2),
        _chat("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2.5-vl", 3.75, "Qwen Research", _QWEN25),
        _chat("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl", 8, source=_QWEN25),
        _chat("Qwen/Qwen3-VL-2B-Instruct", "qwen3-vl", 2, source=_QWEN3),
        _chat("Qwen/Qwen3-VL-4B-Instruct", "qwen3-vl", 4, source=_QWEN3),
        _chat("Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl", 8.77, source="OpenExplorer/Qwen3-VL-8B-Instruct"),
        _chat("Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3-vl", 31, None, _QWEN3),
        _chat("Qwen/Qwen3.5-4B", "qwen3.5", 5, None, _QWEN35, thinks=True),
        _chat("Qwen/Qwen3.5-9B", "qwen3.5", 9.65, thinks=True),
        _chat("Qwen/Qwen3.5-27B", "qwen3.5", 28, None, _QWEN35, thinks=True),
        _chat("OpenGVLab/InternVL3_5-1B-HF", "internvl", 1.1, source=_INTERN),
        _chat("OpenGVLab/InternVL3_5-4B-HF", "internvl", 5, source=_INTERN),
        _chat("OpenGVLab/InternVL3_5-8B-HF", "internvl", 8.5, source=_INTERN),
        _chat("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava-onevision", None),
        _chat("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava-onevision", None),
        _chat("google/gemma-3-4b-it", "gemma3", 4, "Gemma", gated=True),
        _chat("google/gemma-3-12b-it", "gemma3", 12, "Gemma", gated=True),
        _chat("google/gemma-4-E2B-it", "gemma4", 5.1, source="collections/google/gemma-4", thinks=True),
        _chat("google/gemma-4-E4B-it", "gemma4", 8, source="collections/google/gemma-4", thinks=True),
        _chat("google/gemma-4-31B-it", "gemma4", 33, source="collections/google/gemma-4", thinks=True),
        _chat("zai-org/GLM-4.6V-Flash", "glm-4v", 10, "MIT", thinks=True),
        _chat("allenai/Molmo2-4B", "molmo2", 5),
        _chat("allenai/Molmo2-8B", "molmo2", 9),
        _tower("clip-vit-large-patch14", 224),
        _tower("clip-vit-large-patch14-336", 336),
    )
}
"""Everything with a short name."""
