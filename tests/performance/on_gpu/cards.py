"""GPUs by their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its maker's data sheet: dense 16-bit matrix peak (1e12 FLOP/s), memory in GB/s and GB."""

    tflops: float
    bandwidth: float
    memory: float


CARDS: dict[str, Card] = {
    # Sheets print the peak with 2:4 sparsity for Hopper, Ada and Blackwell; half of it is the dense one.
    # resources.nvidia.com/en-us-gpu-resources/h100-datasheet-24306: 1,979 (sparse) SXM, 1,513 PCIe, 1,671 NVL
    "H100 PCIe": Card(756.5, 2000, 80),
    "H100 NVL": Card(835.5, 3900, 94),
    "H100": Card(989.4, 3350, 80),
    # resources.nvidia.com/en-us-data-center-overview-mc/en-us-data-center-overview/hpc-datasheet-sc23-h200
    "H200": Card(989.4, 4800, 141),
    "GH200": Card(989.4, 4000, 96),
    # H800, H20: as sold in China; H20 148 dense
    "H800": Card(989.4, 3350, 80),
    "H20": Card(148.0, 4000, 96),
    # HGX B200: 2.25 PFLOP/s dense, 8 TB/s, 180 GB usable; GB200 2.5 PFLOP/s
    "GB200": Card(2500.0, 8000, 186),
    "B200": Card(2250.0, 8000, 180),
    # nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/
    # nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
    "A100-SXM4-40GB": Card(312.0, 1555, 40),
    "A100-PCIE-40GB": Card(312.0, 1555, 40),
    "A100 80GB PCIe": Card(312.0, 1935, 80),
    "A100": Card(312.0, 2039, 80),
    # Ada (sheets print dense and sparse): L40S 362 / 733, L40 181 / 362, L4 121 / 242, RTX 6000 Ada 364 / 728
    "L40S": Card(362.0, 864, 48),
    "L40": Card(181.0, 864, 48),
    "L4": Card(121.0, 300, 24),
    "RTX 6000 Ada": Card(364.0, 960, 48),
    # Ampere: A40 149.7, A10 125, RTX A6000 154.8, all dense
    "A40": Card(149.7, 696, 48),
    "A10": Card(125.0, 600, 24),
    "A6000": Card(154.8, 768, 48),
    # GeForce, with fp32 accumulation (whitepapers' tables): 3090 71, 4090 165.2, 5090 209.5
    "RTX 3090": Card(71.0, 936, 24),
    "RTX 4090": Card(165.2, 1008, 24),
    "RTX 5090": Card(209.5, 1792, 32),
    # no bf16: fp16. V100 SXM2 125, T4 65
    "V100": Card(125.0, 900, 32),
    "T4": Card(65.0, 320, 16),
}
"""Cards by a part of the name that torch gives them."""


def card_named(name: str) -> Card | None:
    """The card whose entry is part of ``name`` ("NVIDIA H100 80GB HBM3"); the longest entry wins.

    An entry counts as whole words only: an A1000 is no A100.
    """
    words = f" {name.lower().replace('-', ' ')} "
    found = [key for key in CARDS if f" {key.lower().replace('-', ' ')} " in words]
    return CARDS[max(found, key=len)] if found else None
