"""Writes the report of studies: ``python -m medcolor_tf.report RUNS --out=DIR``."""

import sys

from medcolor_tf import commandline
from medcolor_tf.reporting.config import ReportConfig

DESCRIPTION = """
Writes one self-contained HTML page (DIR/index.html), the same as Markdown (DIR/report.md), its
tables as CSV and LaTeX (DIR/tables.tex) and its figures as SVG and PNG: the paper's tables with its
own values beside ours where a study is the paper's, tests between strategies, Figures 4 to 6, ROC
and precision-recall curves, calibration, operating points, learning curves, methods in sentences,
what CLAIM and TRIPOD+AI ask, and the command and options behind every value.

  python -m medcolor_tf.report runs/phantom --out=report

The first table of each data set is printed as well. RUNS are folders of studies or runs, searched
through. Runs that failed or are missing are listed; runs of different data sets or labels are kept
apart.
"""


def _report(config: ReportConfig) -> None:
    from medcolor_tf.reporting.render import make_report

    page, tables = make_report(config)
    print(f"report: {page}\n\n{tables}")


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(ReportConfig, _report, DESCRIPTION, argv)


if __name__ == "__main__":
    sys.exit(main())
