"""A report's figures: SVG text from matplotlib, rows of images as PNG bytes.

The same input gives the same bytes. Nothing is told by colour alone: lines differ in dashes and,
where their points are few, in markers; bars are hatched. Every figure is drawn for being shown at
its own size, with type of at least 9 points. NaN is a gap.
"""

from medcolor_tf.reporting.figures.bars import label_counts
from medcolor_tf.reporting.figures.lines import Line, curves, learning_curves
from medcolor_tf.reporting.figures.mosaic import montage
from medcolor_tf.reporting.figures.sizes import SizeLine, size_curves, size_differences

__all__ = [
    "Line",
    "SizeLine",
    "curves",
    "label_counts",
    "learning_curves",
    "montage",
    "size_curves",
    "size_differences",
]
