"""The results of benchmarks as text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CHOOSING = {
    "builds": "choosing among 1,000 builds on disk, kernel loaded before",
    "mapping": "entering and leaving a mapping of 1 over one of 1,000",
    "ranges": "kernelize again, 100 layers, 1,000 overlapping capability ranges",
    "first load": "first load of a local kernel",
    "first load in a process": "the import and a process's first kernel, torch imported",
}


def verdict(row: dict[str, Any]) -> str:
    """Whether the target was met, in words."""
    return "" if "met" not in row else "met" if row["met"] else "not met"


def spread(figures: dict[str, float], unit: str = "", digits: int | None = None) -> str:
    """Median, minimum and maximum."""
    if digits is None:
        digits = 1 if unit else 2
    median, low, high = (f"{figures[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{median}{unit} ({low} to {high})"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def scale_table(rows: list[dict[str, Any]]) -> list[str]:
    """One line per tree and step."""
    head = ("layers", "device from", "step", "baseline ms", "ours ms", "times baseline")
    lines = [(*head, "HF kernels ms", "times baseline", "target", "")]
    for row in rows:
        target = f"at most {row['target_times']}" if "target_times" in row else ""
        lines.append(
            (
                f"{row['layers']:,}",
                row["device_from"],
                row["step"],
                *(f"{row[key]['median']:.2f}" for key in ("baseline_ms", "ours_ms")),
                spread(row["ours_times"]),
                f"{row['hf_kernels_ms']['median']:.2f}",
                spread(row["hf_kernels_times"]),
                target,
                verdict(row),
            )
        )
    return aligned(lines)


def describe(result: dict[str, Any], processes: int) -> str:
    """The result as a text table."""
    imported, called = result["import"], result["call"]
    heavy = ", ".join(imported["ours_imports_heavy"]) or "neither torch nor huggingface_hub"
    rows = [
        ("", "ours", "HF kernels", "target", ""),
        (
            "import",
            spread(imported["ours"], " ms"),
            spread(imported["hf_kernels"], " ms"),
            f"at most {imported['target_ms']:.1f} ms, a third of HF kernels'",
            verdict(imported),
        ),
        (
            "overhead per call",
            spread(called["ours"], " ns"),
            spread(called["hf_kernels"], " ns"),
            f"at most {called['target_ns']} ns",
            verdict(called),
        ),
    ]
    for name, row in result["choosing"].items():
        ours, theirs = (spread(row[who], " ms", 3) for who in ("ours", "hf_kernels"))
        target = f"at most {row['target_ms']:.2f} ms"
        rows.append((CHOOSING[name], ours, theirs, target, verdict(row)))
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    return "\n".join(
        [
            f"{about}; median (min to max) of {processes} processes each, in turn",
            "",
            "kernelize; changed: one layer added, one moved, one wrapped since the last",
            *scale_table(result["kernelize"]),
            "",
            *aligned(rows),
            f"importing ours imports {heavy}",
        ]
    )
