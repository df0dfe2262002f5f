"""A report's tables as LaTeX, for a paper: booktabs, every text escaped."""

import re
from collections.abc import Iterator, Sequence

from medcolor_tf.reporting.contents import Cell, Report, Table

HEAD = r"""% {}
%
% In the preamble: \usepackage{{array,booktabs,graphicx,longtable}}
% Then \input{{tables.tex}}, or copy the tables that you need; each is named after its CSV file.
% Tables that are wider than the line are made smaller; those of many rows go over several pages.
% Names outside the Latin script need XeLaTeX or LuaLaTeX.
\providecommand{{\fitline}}[1]{{%
  \resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{#1}}}}
"""
MOST_ROWS = 36  # that fit on a page
# Of a table of many pages: letters after which a column may be wrapped; as shares of the line, a
# letter's width and half the gap of two columns.
MOST_LETTERS, LETTER, GAP = 60, 0.0145, 0.008
# Characters that mean something to LaTeX, or that pdflatex has no letter for.
_SPECIAL = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    **{character: f"{{{character}}}" for character in "[]*"},  # after "\\" they would be options
    **{character: f"${character}$" for character in "<>"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "\N{MINUS SIGN}": "$-$",
    "θ": r"$\theta$",
    "κ": r"$\kappa$",
    "\N{GREEK SMALL LETTER RHO}": r"$\rho$",
    "Δ": r"$\Delta$",
    "…": r"\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
    "\ufffd": "?",
}
_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def to_latex(report: Report) -> str:
    """Returns the tables of a report, but not what is missing, which is no result."""
    tables = (
        content
        for section in report.sections
        if section.anchor != "first"
        for content in section.contents
        if isinstance(content, Table)
    )
    return "\n".join([HEAD.format(_comment(report.title)), *map(_table, tables)])


def latex_text(text: str) -> str:
    """Plain text as LaTeX that prints the same, on one line; signs of numbers become minuses."""
    text = " ".join(_INVISIBLE.sub("\ufffd", text).split())
    text = re.sub(r"(?<![\w.)\]-])-(?=\.?\d)", "\N{MINUS SIGN}", text)
    text = text.replace("--", "-\N{ZERO WIDTH SPACE}-")  # no dash of an option
    escaped = "".join(_SPECIAL.get(character, character) for character in text)
    return escaped.replace("\N{ZERO WIDTH SPACE}", "{}")


def _comment(text: str) -> str:
    return " ".join(_INVISIBLE.sub("?", text).split())


def _table(table: Table) -> str:
    if len(table.rows) > MOST_ROWS:
        return _long_table(table)
    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            *_caption(table),
            r"\small",
            r"\fitline{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _row(table.header),
            r"\midrule",
            *_body(table),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _long_table(table: Table) -> str:
    """A table that breaks over pages; its columns share the line, and their words are wrapped."""
    head = [r"\toprule", _row(table.header), r"\midrule"]
    caption = "\n".join(_caption(table)) + r" \\"
    return "\n".join(
        [
            rf"{{\footnotesize\setlength{{\tabcolsep}}{{{GAP}\linewidth}}",
            rf"\begin{{longtable}}{{{''.join(_wrapped_columns(table))}}}",
            caption,
            *(*head, r"\endfirsthead", *head, r"\endhead"),
            *(r"\bottomrule", r"\endfoot"),
            *_body(table),
            r"\end{longtable}}",
            "",
        ]
    )


def _wrapped_columns(table: Table) -> Iterator[str]:
    """Columns as wide as their longest words (or numbers); what is left goes to long texts."""
    words, texts = [], []
    for head, numeric, *column in zip(table.header, table.numeric, *table.cells, strict=True):
        cells = [cell.text for cell in column if not cell.spans] or [""]
        parts = [*head.split(), *(cells if numeric else " ".join(cells).split())]
        words.append(max(map(len, parts)))
        texts.append(max(words[-1], min(MOST_LETTERS, max(map(len, cells)))))
    room = 1 - 2 * GAP * len(words)
    least = min(LETTER, room / sum(words))
    spare = (room - least * sum(words)) / max(1, sum(texts) - sum(words))
    for word, text, numeric in zip(words, texts, table.numeric, strict=True):
        side = r"\raggedleft" if numeric else r"\raggedright"
        width = least * word + spare * (text - word)
        yield rf">{{{side}\arraybackslash}}p{{{width:.3f}\linewidth}}"


def _caption(table: Table) -> tuple[str, str]:
    title = latex_text(table.title)
    text = f"{title}. {latex_text(table.caption)}" if table.caption else title
    return rf"\caption[{{{title}}}]{{{text}}}", rf"\label{{tab:{table.name}}}"


def _body(table: Table) -> Iterator[str]:
    for number, (title, rows) in enumerate(table.by_group()):
        if title:
            if number:
                yield r"\addlinespace"
            yield rf"\multicolumn{{{len(table.header)}}}{{l}}{{\textit{{{latex_text(title)}}}}} \\"
        yield from (_row(row) for row in rows)


def _row(cells: Sequence[Cell | str]) -> str:
    shown = []
    for number, cell in enumerate(cells):
        if isinstance(cell, Cell) and cell.spans:
            shown.append(rf"\multicolumn{{{len(cells) - number}}}{{l}}{{{_cell(cell)}}}")
            break
        shown.append(_cell(cell))
    return " & ".join(shown) + r" \\"


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return latex_text(cell)
    text = "--" if cell.text.strip() == "-" else latex_text(cell.text)
    return rf"\textbf{{{text}}}" if cell.strong and text else text
