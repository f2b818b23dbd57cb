"""Peak of each kind of GPU: what hours and MFU are computed from. An unknown card has none, and no guess."""

from __future__ import annotations

import re

PEAK_TFLOPS: dict[str, float] = {
    # Blackwell: HGX B200 and GB200 NVL72 data sheets (half of the sparse figure); RTX Blackwell whitepaper.
    "gb200": 2500.0,
    "b200": 2250.0,
    "rtx 5090": 209.5,
    # Hopper: H100, H200 and GH200 data sheets; H800 differs in its links, H20 is NVIDIA's figure for China.
    "h200 nvl": 835.5,
    "h200": 989.0,
    "gh200": 989.0,
    "h100 pcie": 756.0,
    "h100 nvl": 835.5,
    "h100": 989.0,
    "h800": 989.0,
    "h20": 148.0,
    # Ada: L4, L40 and L40S data sheets; Ada GPU architecture whitepaper.
    "l40s": 362.0,
    "l40": 181.0,
    "l4": 121.0,
    "rtx 6000 ada": 364.0,
    "rtx 4090": 165.2,
    # Ampere: A100, A40, A30 and A10 data sheets; GA102 whitepaper. A800 differs from A100 in its links.
    "a100": 312.0,
    "a800": 312.0,
    "a40": 149.7,
    "a30": 165.0,
    "a10": 125.0,
    "a6000": 154.8,
    "rtx 3090": 71.0,
    # Turing and Volta have no bf16: fp16 of the T4 and V100 data sheets.
    "t4": 65.0,
    "v100 pcie": 112.0,
    "v100": 125.0,
}
"""Dense matrix peak with 16-bit inputs and fp32 accumulation, TFLOPS, by words of the card's name."""
_NEUTRAL = re.compile(
    r"nvidia|tesla|quadro|geforce|rtx|generation|graphics|gpu|sxm\d?|pcie|nvl|hbm\w*|\d+ ?gb?|\d{1,3}g"
)


def peak_tflops(gpu: str) -> float | None:
    """Peak of the GPU of that name; None for a kind that is not in the table, also a variant of one."""
    words = re.findall(r"[a-z0-9]+", gpu.lower())
    for known, peak in PEAK_TFLOPS.items():
        wanted = known.split()
        # "geforce 3090" and "3090" name the same card as "rtx 3090".
        needed = [word for word in wanted if word != "rtx"]
        if set(needed) <= set(words):
            rest = [word for word in words if word not in wanted and not _NEUTRAL.fullmatch(word)]
            # What is left (Ti, Laptop, MIG, D) makes it another card.
            return None if rest else peak
    return None
