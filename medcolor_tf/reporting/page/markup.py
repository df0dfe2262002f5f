"""A page as one HTML file that asks the network for nothing.

Pictures are inside it, and a content security policy has the browser refuse everything else.
"""

import base64
import hashlib
import html
import re

from medcolor_tf.reporting.page.content import (
    NOTES,
    Block,
    Cell,
    Code,
    Details,
    Figure,
    Note,
    Page,
    Section,
    Table,
    check,
    clean,
    grouped,
    numeric_columns,
)
from medcolor_tf.reporting.page.style import SCRIPT, style


def to_html(page: Page) -> str:
    """The whole page as HTML5.

    Raises:
        ValueError: see :func:`medcolor_tf.reporting.page.content.check`.
    """
    check(page)
    links = [f'<li><a href="#{s.anchor}">{_text(s.title)}</a></li>' for s in page.sections]
    sections = "\n".join(_section(section) for section in page.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(page.title)}</title>
<style>
{style()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{_text(page.title)}</h1>
<p class="lead">{_text(page.lead)}</p>
</header>
<div class="columns">
<nav aria-label="Contents">
<ul>
{chr(10).join(links)}
</ul>
</nav>
<main id="content" tabindex="-1">
{sections}
</main>
</div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _policy() -> str:
    """What the page may load: pictures inside it, its own styles, and the one script we wrote."""
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )


def _text(text: str) -> str:
    return html.escape(clean(text))


def _section(section: Section) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return (
        f'<section aria-labelledby="{section.anchor}">\n'
        f'<h2 id="{section.anchor}">{_text(section.title)}</h2>\n{blocks}\n</section>'
    )


def _block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{_text(block)}</p>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Note(kind, text):
            return (
                f'<p class="note {kind}" role="note"><strong>{NOTES[kind]}:</strong> '
                f"{_text(text)}</p>"
            )
        case Code(text):
            return f"<pre><code>{_text(text)}</code></pre>"
        case Details(summary, anchor, blocks):
            inside = "\n".join(_block(inner) for inner in blocks)
            return (
                f'<details id="{anchor}">\n<summary>{_text(summary)}</summary>\n'
                f'<div class="inside">\n{inside}\n</div>\n</details>'
            )
    raise TypeError(f"a page has no block of type {type(block).__name__}")


def _table(table: Table) -> str:
    """The table in a region of its own that scrolls sideways, by finger and by keyboard."""
    numeric = numeric_columns(table)
    heads = [
        f'<th scope="col"{_class(number)}>{_text(text)}</th>'
        for text, number in zip(table.header, numeric, strict=True)
    ]
    bodies = [_body(table, title, rows, numeric) for title, rows in grouped(table)]
    return (
        f'<div class="table" id="table-{table.name}">\n{_region(table.title)}<table>\n'
        f"<caption><div>{_caption(table)}</div></caption>\n"
        f"<thead>\n<tr>{''.join(heads)}</tr>\n</thead>\n"
        f"{chr(10).join(bodies)}\n</table></div>\n</div>"
    )


def _body(table: Table, title: str, rows: list[list[Cell]], numeric: list[bool]) -> str:
    lines = []
    if title:
        span = len(table.header)
        text = _text(title)
        lines.append(f'<tr><th scope="rowgroup" colspan="{span}"><span>{text}</span></th></tr>')
    for row in rows:
        cells = []
        for column, (cell, number) in enumerate(zip(row, numeric, strict=True)):
            head = column < table.row_headers
            start, end = ('th scope="row"', "th") if head else (f"td{_class(number)}", "td")
            cells.append(f"<{start}>{_cell(cell)}</{end}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join(["<tbody>", *lines, "</tbody>"])


def _class(number: bool) -> str:
    return ' class="number"' if number else ""


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    if cell.strong and text:
        text = f"<strong>{text}</strong>"
    return f'<a href="#{cell.link}">{text}</a>' if cell.link else text


def _figure(figure: Figure) -> str:
    if isinstance(figure.image, str):
        data, kind = figure.image.encode("utf-8"), "svg+xml"
    else:
        data, kind = figure.image, "png"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure id="figure-{figure.name}">\n<figcaption>{_caption(figure)}</figcaption>\n'
        f'{_region(figure.title, " picture")}<img src="{source}" alt="{_text(figure.alt)}"'
        f"{_size(figure.image)}></div>\n</figure>"
    )


def _caption(block: Table | Figure) -> str:
    text = f"<p>{_text(block.caption)}</p>" if block.caption else ""
    return f"<h3>{_text(block.title)}</h3>{text}"


def _region(title: str, more: str = "") -> str:
    """Start of a part that scrolls sideways by itself, so that the page never does."""
    return f'<div class="scroll{more}" role="region" aria-label="{_text(title)}" tabindex="0">'


def _size(image: bytes | str) -> str:
    """The image's size as attributes, so that the page does not jump; "" where it is unknown."""
    if isinstance(image, bytes):  # PNG's first chunk
        width, height = (int.from_bytes(image[at : at + 4], "big") for at in (16, 20))
    else:
        opening = re.search(r"<svg[^>]*>", image)
        found = [re.search(rf'\s{side}="([\d.]+)pt"', opening[0]) for side in ("width", "height")]
        if not all(found):
            return ""
        width, height = (round(float(match[1]) * 96 / 72) for match in found)
    return f' width="{width}" height="{height}" style="--width: {width}px"'
