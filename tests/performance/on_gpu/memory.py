"""Section g: peak memory beside what the project estimates."""

from __future__ import annotations

from on_gpu.bench import Bench
from on_gpu.viscot_side import GIB, answering_estimate, doctor_lines


def section_g(b: Bench) -> None:
    """The peaks that the other sections saw, beside the project's estimates."""
    if "load" not in b.record:
        b.loaded  # noqa: B018 - its peak is wanted
    sections = b.record["sections"]
    load = b.record.get("load")
    if load:
        need = answering_estimate(load["parameters"])
        weights = load["parameters"] * (2 if b.cuda else 4) / GIB
        found = {"peak_gib": load["peak_gib"], "weights_gib": round(weights, 2), "doctor_gib": round(need, 2)}
        b.note("g", "load", found)
    for section in ("a", "b"):
        for name, found in sections.get(section, {}).items():
            if isinstance(found, dict) and "peak_gib" in found:
                b.note("g", f"{section} {name}", {"peak_gib": found["peak_gib"], "batch": found["batch"]})
    for name, found in sections.get("e", {}).items():
        if isinstance(found, dict) and "estimate_gib" in found:
            ratio = found["estimate_ratio"]
            b.note("g", f"e {name}", {
                "peak_gib": found["peak_gib"], "estimate_gib": found["estimate_gib"], "ratio": ratio,
                "within_10_percent": None if ratio is None else abs(ratio - 1) <= 0.1,
            })  # fmt: skip
    b.note("g", "doctor", doctor_lines())
