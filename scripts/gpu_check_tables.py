"""Rows and tables of `gpu_check.py`: figures relative to the device's limits, and their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]

KERNEL_KEYS = ("op", "variant", "dtype", "shape", "passes")
TABLES = {
    "tests": ("file", "passed", "failed", "skipped", "seconds"),
    "kernels": (
        *(*KERNEL_KEYS, "form", "ms", "graph_ms", "gb_s", "bandwidth_pct", "tflop_s"),
        *("matrix_pct", "floor_pct", "peak_mb", "error", "grad_error"),
    ),
    "ppo": (
        *("core", "envs", "graphs", "steps_s", "collect_pct", "update_pct", "peak_mb", "waits"),
        *("first_s", "goal", "seconds", "steps", "result"),
    ),
    "rivals": ("library", "core", "envs", "steps_s", "first_s"),
}
SHORT = {"float32": "f32", "bfloat16": "bf16"}


def kernel_row(row: Row, rates: Mapping[str, float]) -> Row:
    """A row with fractions of the measured limits.

    The floor is the larger of the times that the bytes and the operations take at these limits.
    """
    seconds = best_ms(row) / 1e3
    made = {
        **row,
        "gb_s": row["bytes"] / seconds / 1e9,
        "tflop_s": row["flops"] / seconds / 1e12,
    }
    copy, matrix = rates.get("copy"), rates.get(row["dtype"])
    if copy and matrix:
        by_bytes, by_flops = row["bytes"] / copy, row["flops"] / matrix
        made |= {"bandwidth_pct": 100 * by_bytes / seconds, "matrix_pct": 100 * by_flops / seconds}
        made["floor_pct"] = 100 * max(by_bytes, by_flops) / seconds
    return made


def best_ms(row: Row) -> float:
    """The time without launches, if it is known."""
    return float(row.get("graph_ms", row["ms"]))


def ppo_row(row: Row) -> Row:
    """A row with the percentages of collecting and updating."""
    if "collect_s" not in row:
        return row
    whole = row["collect_s"] + row["update_s"]
    share = 100 * row["collect_s"] / whole
    return {**row, "collect_pct": share, "update_pct": 100 - share}


def rival_row(row: Row) -> Row:
    """A row as it is."""
    return row


def text(value: Any) -> str:
    """A cell: numbers with three digits, thousands with commas."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value != value:
        return "nan"
    if value == 0 or 1e-2 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.0e}"


def columns(section: str, rows: Sequence[Row]) -> list[str]:
    """The columns of a section that are not empty."""
    return [key for key in TABLES[section] if any(key in row for row in rows)]


def markdown(section: str, rows: Sequence[Row]) -> list[str]:
    """A table in Markdown, as one block."""
    keys = columns(section, rows)
    lines = [keys, ["---"] * len(keys)]
    lines += [[text(row.get(key, "")) for key in keys] for row in rows]
    return ["\n".join("| " + " | ".join(line) + " |" for line in lines)]


def table_text(section: str, rows: Sequence[Row]) -> list[str]:
    """A table for a terminal."""
    keys = columns(section, rows)
    cells = [keys, *([text(row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(keys))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def kernel_lines(rows: Sequence[Row]) -> list[str]:
    """A line per case: our times, fractions and errors, and the fastest other form."""
    cases: dict[tuple[str, ...], dict[tuple[str, str], Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in KERNEL_KEYS[:-1])
        cases.setdefault(key, {})[row["form"], row["passes"]] = row
    if not cases:
        return []
    lines = [
        "KERNELS: ms forward and forward+backward (in a CUDA graph) | % of bandwidth and of the "
        "floor, forward+backward | errors of result and gradients | fastest other form, its time / "
        "ours"
    ]
    for (op, variant, dtype, shape), forms in cases.items():
        words = [f"{op} {variant} {SHORT.get(dtype, dtype)} {shape}"]
        ours = [forms.get(("rlmem", passes)) for passes in ("forward", "both")]
        words += [f"{times(ours[0])} {times(ours[1])}", fractions(ours[1]), errors(ours[0])]
        words += [fastest(forms, passes) for passes in ("forward", "both")]
        lines.append(" | ".join(filter(None, words)))
    return lines


def times(row: Row | None) -> str:
    """Milliseconds of a row, and in a graph if known."""
    if row is None:
        return "-"
    return text(row["ms"]) + (f" ({text(row['graph_ms'])})" if "graph_ms" in row else "")


def fractions(row: Row | None) -> str:
    """Percentages of the bandwidth and of the floor."""
    if row is None or "floor_pct" not in row:
        return ""
    return f"{row['bandwidth_pct']:.0f}% {row['floor_pct']:.0f}%"


def errors(row: Row | None) -> str:
    """Errors of result and gradients."""
    return "" if row is None else f"{row['error']:.0e} {row['grad_error']:.0e}"


def fastest(forms: Mapping[tuple[str, str], Row], passes: str) -> str:
    """The fastest form of others, and how many times our time it takes."""
    others = {
        name: row["ms"]
        for (name, which), row in forms.items()
        if which == passes and name != "rlmem"
    }
    ours = forms.get(("rlmem", passes))
    if not others or ours is None:
        return ""
    name = min(others, key=lambda other: others[other])
    return f"{name} {others[name] / ours['ms']:.2g}x"
