"""Lines of the Markdown table from what was measured."""

from collections.abc import Collection, Sequence

import numpy as np

STOCK = "stock Keras"
OURS = "medcolor_tf"
HEAD = (
    "| work | variant | images/s | to the best of PyTorch (range) | to stock Keras (range) "
    "| processor ms an image | peak GiB |",
    "|---|---|--:|--:|--:|--:|--:|",
)


def table_lines(title: str, row: Sequence, rivals: Collection[str]) -> list[str]:
    """Formats a line a variant.

    Args:
        title: of the row.
        row: variants with name, rates and processor (a number a round, the same rounds), and peak.
        rivals: names of the variants whose best, by median rate, the others are compared with.
    """
    named = {variant.name: variant for variant in row}
    others = [variant for variant in row if variant.name in rivals]
    best = max(others, key=lambda variant: np.median(variant.rates), default=None)
    lines = []
    for variant in row:
        is_best = variant is best and len(others) > 1
        cells = [
            title if not lines else "",
            variant.name + (" (best)" if is_best else ""),
            _number(np.median(variant.rates)),
            "" if variant is best else ratio(variant, best),
            ratio(variant, named.get(STOCK)) if variant.name == OURS else "",
            _number(np.median(variant.processor)),
            f"{variant.peak / 2**30:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def ratio(variant, other) -> str:
    """Returns "median (lowest to highest)" of the ratios of rates, round by round; "" for None."""
    if other is None:
        return ""
    ratios = np.array(variant.rates) / np.array(other.rates)
    return f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def _number(value: float) -> str:
    """Three digits, never in powers of ten."""
    return f"{value:,.{max(0, 2 - int(np.floor(np.log10(max(value, 0.01)))))}f}"
