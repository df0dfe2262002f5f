"""A page as GitHub-flavoured Markdown."""

import html
import re

from medcolor_tf.reporting.page.content import (
    Block,
    Cell,
    Code,
    Details,
    Figure,
    Note,
    Page,
    Table,
    check,
    clean,
    file_name,
    grouped,
    line,
    numeric_columns,
)


def to_markdown(page: Page, image_folder: str = "figures") -> str:
    """The whole page as Markdown.

    Args:
        page: the content.
        image_folder: where the images are, relative to the Markdown file.

    Raises:
        ValueError: see :func:`medcolor_tf.reporting.page.content.check`.
    """
    check(page)
    parts = [f"# {_text(page.title)}", _paragraph(page.lead)]
    for section in page.sections:
        parts += [_anchor(section.anchor), f"## {_text(section.title)}"]
        parts += [_block(block, image_folder) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(text: str) -> str:
    """Plain text as Markdown that reads the same, on one line."""
    text = line(text).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", text)
    # An underscore between letters is one; elsewhere it could start or end emphasis.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _paragraph(text: str) -> str:
    """Text whose first characters would make it a list or quotation, escaped too."""
    return re.sub(r"^(\d*)([-+>=.)])", r"\1\\\2", _text(text))


def _anchor(anchor: str) -> str:
    return f'<a id="{anchor}"></a>'


def _block(block: Block, image_folder: str) -> str:
    match block:
        case str():
            return _paragraph(block)
        case Table():
            return _table(block)
        case Figure():
            image = f"![{_text(block.alt)}]({image_folder}/{file_name(block)})"
            parts = [_anchor(f"figure-{block.name}"), f"**{_text(block.title)}**", image]
            return "\n\n".join([*parts, *([_paragraph(block.caption)] if block.caption else [])])
        case Note(kind, text):
            return f"> [!{'WARNING' if kind == 'warning' else 'NOTE'}]\n> {_paragraph(text)}"
        case Code(text):
            return _code(clean(text))
        case Details(summary, anchor, blocks):
            inside = "\n\n".join(_block(inner, image_folder) for inner in blocks)
            summary = html.escape(line(summary), quote=False)
            return (
                f"{_anchor(anchor)}\n\n<details>\n<summary>{summary}</summary>\n\n"
                f"{inside}\n\n</details>"
            )
    raise TypeError(f"a page has no block of type {type(block).__name__}")


def _code(text: str) -> str:
    """Fenced by more backticks than the text has in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def _table(table: Table) -> str:
    rule = ["---:" if number else "---" for number in numeric_columns(table)]
    rows = [[_text(name) for name in table.header], rule]
    for title, members in grouped(table):
        if title:
            rows.append([f"**{_text(title)}**", *[""] * (len(table.header) - 1)])
        rows += [[_cell(cell) for cell in row] for row in members]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    parts = [_anchor(f"table-{table.name}"), f"**{_text(table.title)}**", lines]
    return "\n\n".join([*parts, *([_paragraph(table.caption)] if table.caption else [])])


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    if cell.strong and text:
        text = f"**{text}**"
    return f"[{text}](#{cell.link})" if cell.link else text
