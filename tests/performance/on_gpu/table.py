"""What was found, as one table."""

from __future__ import annotations

from typing import Any


def table(record: dict[str, Any]) -> str:
    """What was found, one line each."""
    about = [
        record.get("device"),
        record["size"],
        record.get("versions"),
        f"measured {record.get('measured')}",
    ]
    lines = [", ".join(map(str, [*about, f"{record.get('wall_s')} s"]))]
    goals = {
        "a": "goal 22 items/s (first 10)",
        "b": "goal 150/s",
        "c": "goal 1.5 at 16 rows",
        "e": "goal MFU 0.50",
    }
    for section, found in record["sections"].items():
        lines.append(f"-- {section} ({record['seconds'].get(section)} s) {goals.get(section, '')}")
        for name, value in found.items():
            if section == "g" and (name == "doctor" or name.startswith("e ")):
                continue  # long, or in e's lines
            lines.append(f"{name:58} {_line(value)}")
    lines += [f"!! {section}: {error}" for section, error in record["errors"].items()]
    return "\n".join(lines)


def _line(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)[:200]
    first = ("per_second", "of_limit", "ms", "floor_ms", "ratio", "tokens_s", "mfu", "peak_gib",
             "estimate_gib", "estimate_ratio", "max_abs", "same_top", "same_texts", "batch", "loss",
             "micro_batch", "of", "viscot_items_s", "transformers_items_s")  # fmt: skip
    shown = {k: value[k] for k in first if k in value} or {
        k: v for k, v in value.items() if not isinstance(v, list)
    }
    for extra in ("spans", "profile", "error", "skipped"):
        if extra in value:
            shown[extra] = value[extra]
    return " ".join(f"{k}={_flat(v)}" for k, v in shown.items())


def _flat(value: Any) -> str:
    if isinstance(value, dict) and "device" in value:
        return str(value["device"])  # of the memory's peaks the whole device's
    if isinstance(value, dict):
        return "{" + " ".join(f"{k.replace(' ', '_')}:{_flat(v)}" for k, v in value.items()) + "}"
    return str(value)
