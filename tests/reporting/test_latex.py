"""tables.tex: what is printed is what the tables say, and LaTeX takes it."""

import re
import shutil
import subprocess

import pytest

from medcolor_tf.reporting.contents import Cell, Report, Section, Table
from medcolor_tf.reporting.latex import MOST_ROWS, latex_text, to_latex
from tests.reporting.conftest import EVIL

DOCUMENT = r"""\documentclass{article}
\usepackage{array,booktabs,graphicx,longtable}
\begin{document}
\input{tables.tex}
\end{document}
"""
# What each of our commands prints; a command that is not here fails the test.
PRINTED = {
    **{rf"\{character}": character for character in "{}$&#_%"},
    **{f"{{{character}}}": character for character in "[]*"},
    **{f"${character}$": character for character in "<>-"},
    **{r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"},
    **{r"\textasciigrave{}": "`", r"\textbar{}": "|", r"$\pm$": "±", r"$\theta$": "θ"},
    **{r"-{}-": "--", r"$\le$": "≤", r"\ldots{}": "…"},
}
ANY = re.compile("|".join(map(re.escape, sorted(PRINTED, key=len, reverse=True))))


def printed(latex):
    """What LaTeX prints; fails where a special character is left."""
    rest = ANY.sub("", latex)
    assert not re.search(r"[\\{}$&#_%^~`|<>\[\]]", rest), rest
    return ANY.sub(lambda match: PRINTED[match[0]], latex)


def rows_of(latex, name):
    """The rows of a table by cells, its header first."""
    body = latex.split(rf"\label{{tab:{name}}}")[1]
    body = re.split(r"\\end\{(?:tabular|longtable)\}", body)[0]
    lines = [line[: -len(r" \\")] for line in body.splitlines() if line.endswith(r" \\")]
    return [re.split(r"(?<!\\) & ", line) for line in lines]


def report_of(*tables):
    return Report("Report", "", (Section("Results", "data-1", tables),))


@pytest.mark.parametrize(
    "text",
    [
        *(EVIL, r"C:\new\{x}", "50 % of #1 & $2", "a_b^c~d", "[max_lr=0.5]", "* [x]", "--out=x"),
        *("79.7 ± 17.6", "< 0.001", "θM, θA", "PixelShuffle (gray init)", "1-2", "≤ 3 …"),
    ],
)
def test_text_prints_as_it_is(text):
    assert printed(latex_text(text)) == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-0.8 to +25.2", "$-$0.8 to +25.2"),
        ("-18.3 to -.5", "$-$18.3 to $-$.5"),
        ("(-1)", "($-$1)"),
        ("a-1 and 0-2", "a-1 and 0-2"),
        ("a\x00b\udce9\n c", "a?b? c"),
    ],
)
def test_signs_and_what_is_no_text(text, expected):
    assert latex_text(text) == expected


def test_every_table_is_there_with_all_its_cells(full_report):
    latex = to_latex(full_report)
    wide = full_report.sections[0].contents[3]
    header, first, evil, folded, *rest = rows_of(latex, "table1")
    assert [printed(cell) for cell in header] == list(wide.header)
    assert first == [r"\multicolumn{12}{l}{\textit{Backbone: ResNet18}}"]
    assert evil == ["--", "Baseline", r"78.4 $\pm$ 0.5", *["--"] * 9]
    assert printed(folded[0]) == " ".join(EVIL.split())
    assert folded[2] == r"\textbf{89.6 $\pm$ 0.2}"
    assert len(rest) == 2
    assert r"\begin{tabular}{llrrrrrrrrrr}" in latex
    assert rows_of(latex, "folded")[1] == ["/a/b c", "many words", "0.5"]
    for begun in set(re.findall(r"\\begin\{(\w+)\}", latex)):
        assert latex.count(rf"\begin{{{begun}}}") == latex.count(rf"\end{{{begun}}}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert latex.count(f"\\{rule}") == 2


def test_a_table_of_many_rows_breaks_over_pages():
    rows = [(f"Row {n}", "words " * 20, "0.5") for n in range(MOST_ROWS + 1)]
    latex = to_latex(report_of(Table("many", "Many", ("Name", "Words", "p"), tuple(rows))))
    assert r"\begin{table}" not in latex
    widths = [float(width) for width in re.findall(r"p\{([\d.]+)\\linewidth\}", latex)]
    assert len(widths) == 3
    assert sum(widths) + 6 * 0.008 == pytest.approx(1, abs=0.002)
    assert widths[1] > 2 * widths[0]
    assert len(rows_of(latex, "many")) == len(rows) + 3  # the caption's end, and the header twice


def test_what_is_missing_is_no_result():
    table = Table("missing-runs", "Missing", ("Run",), (("a",),))
    report = Report("Report", "", (Section("What to know first", "first", (table,)),))
    assert r"\begin" not in to_latex(report)


@pytest.mark.slow
def test_pdflatex_takes_it(full_report, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex (Debian: texlive-latex-recommended)")
    many = Table("many", EVIL, ("Name", EVIL), ((EVIL, Cell("1", strong=True)),) * 80)
    tables = [c for c in full_report.sections[0].contents if isinstance(c, Table)]
    (tmp_path / "tables.tex").write_text(to_latex(report_of(*tables, many)), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(DOCUMENT)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 0
