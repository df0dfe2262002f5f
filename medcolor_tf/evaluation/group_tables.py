"""Comparisons of groups as JSON, CSV and text for the terminal."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from medcolor_tf.evaluation.decisions import spell_number
from medcolor_tf.evaluation.groups import GAP, MEASURES, SIGNIFICANT, TITLES, GroupResult


def to_json(results: Sequence[GroupResult]) -> list[dict]:
    """Returns results as JSON takes them; what is undefined is None."""
    return [
        {
            **{
                name: getattr(result, name)
                for name in ("by", "group", "observation", "images", "patients", "positive")
            },
            "negative": result.negative,
            "few": result.few,
            "measures": {
                name: {key: _plain(value) for key, value in vars(found).items()}
                for name, found in result.measures.items()
            },
            **{
                name: _plain(getattr(result, name))
                for name in ("slope", "slope_interval", "intercept", "intercept_interval")
            },
        }
        for result in results
    ]


def to_csv(rows: Sequence[Mapping]) -> str:
    """Returns :func:`to_json`'s rows as CSV, a line per group, observation and measure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ("by", "group", "observation", "images", "patients", "positive", "negative", "few")
    numbers = ("value", "low", "high", "rest", "difference", "difference_low", "difference_high")
    writer.writerow([*heads, "measure", *numbers, "p", "adjusted_p"])
    for row in rows:
        start = [row[name] for name in heads]
        for name, found in row["measures"].items():
            cells = (
                *(found["value"], *found["interval"], found["rest"], found["difference"]),
                *(*found["difference_interval"], found["pvalue"], found["adjusted"]),
            )
            writer.writerow([*start, name, *("" if c is None else f"{c:.6g}" for c in cells)])
        for name in ("slope", "intercept"):
            if row[name] is not None:
                cells = [f"{c:.6g}" for c in (row[name], *row[f"{name}_interval"])]
                writer.writerow([*start, f"calibration_{name}", *cells, *[""] * 6])
        if row["few"]:
            writer.writerow([*start, *[""] * 10])
    return text.getvalue()


def table(rows: Sequence[Mapping], counted: str = "images") -> str:
    """Returns :func:`to_json`'s rows as text for the terminal.

    Each measure with its interval, then the difference from all other images, ``*`` where it is
    significant.

    Args:
        rows: of :func:`to_json`.
        counted: what is compared, such as "studies".
    """
    lines = []
    for by in dict.fromkeys(row["by"] for row in rows):
        of_grouping = [row for row in rows if row["by"] == by]
        cells = [(by, "observation", counted, "positive", *TITLES.values())]
        for row in of_grouping:
            start = row["group"], row["observation"], f"{row['images']:,}", f"{row['positive']:,}"
            shown = [_cell(row["measures"].get(name), name) for name in MEASURES]
            cells.append((*start, *([row["few"], "", "", ""] if row["few"] else shown)))
        shown = [c for c in cells if not c[4].startswith("too few")]
        widths = [max(len(line[i]) for line in (cells if i < 4 else shown)) for i in range(8)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        lines.append("")
    tests = [m for row in rows for m in row["measures"].values() if m["pvalue"] is not None]
    differ = [m for m in tests if m["adjusted"] < SIGNIFICANT]
    lines.append(
        "each measure: [95% interval] (difference from all other images); * that difference has "
        f"p < {SIGNIFICANT} after Benjamini-Hochberg over all tests: {len(differ)} of {len(tests)}"
    )
    return "\n".join(lines)


def _cell(found: Mapping | None, name: str) -> str:
    if found is None:
        return "-"
    sign = "+" if name == GAP else ""
    low, high = ("-" if end is None else spell_number(end, 3, sign) for end in found["interval"])
    cell = f"{spell_number(found['value'], 3, sign)} [{low}, {high}]"
    if found["difference"] is None:
        return cell
    differs = found["adjusted"] is not None and found["adjusted"] < SIGNIFICANT
    return f"{cell} ({spell_number(found['difference'], 3, '+')}{'*' if differs else ''})"


def _plain(value):
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(value)
    return [_plain(float(end)) for end in value]
