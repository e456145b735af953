"""Tables of what the GPU benchmark has recorded."""

from collections.abc import Iterable, Mapping
from typing import Any

# Of the card, when a process began.
_OF_A_MOMENT = "memory.used clocks.sm clocks.mem power.draw temperature.gpu".split()
_CEILINGS = ("bfloat16", "tf32", "float16", "float32")


def tables(records: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: versions and card, ceilings, then a line per measurement.

    Of a measurement that was made several times the last one counts.
    """
    records = list(records)
    lines = []
    for record in records:
        if "versions" in record:
            said = [*record["versions"].items(), *record["card"].items()]
            line = ", ".join(
                f"{key} {value}" for key, value in said if key not in _OF_A_MOMENT
            )
            if line not in lines:
                lines.append(line)
    last = {record["name"]: record for record in records if "name" in record}
    ceilings = last.get("ceilings", {}).get("figures", {})
    lines += ["", "| measurement | figures |", "|---|---|"]
    for name, record in last.items():
        if "error" in record:
            text = f"failed: {_plain(record['error'])}"
        else:
            figures = dict(record["figures"])
            of_ceiling = _of_ceiling(name, figures, ceilings)
            if of_ceiling is not None:
                figures["of_the_ceiling"] = of_ceiling
            text = ", ".join(f"{key} {_number(v)}" for key, v in figures.items())
        if "note" in record:
            text = f"{text} ({_plain(record['note'])})"
        lines.append(f"| {_plain(name)} | {text} |")
    return "\n".join(lines)


def _of_ceiling(name, figures, ceilings) -> float | None:
    """Operations by those of the fastest products of the type that the name has."""
    precision = next((word for word in name.split() if word in _CEILINGS), None)
    if precision is None or precision not in ceilings or "tflops" not in figures:
        return None
    return figures["tflops"] / ceilings[precision]


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return _plain(str(value))
    return f"{value:.4g}"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]
