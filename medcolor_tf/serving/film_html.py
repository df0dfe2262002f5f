"""The page's answers as HTML, with pictures and CSV inside it, so that nothing is left on a disk.

Names and messages come from users' files; every one is escaped, for HTML and for the templates of
the page's framework.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from medcolor_tf.evaluation.visualize import LEGEND, blend, percent
from medcolor_tf.serving.contract import NOTICE
from medcolor_tf.serving.film import FilmAnswer, FilmModel, Finding, to_csv

JPEG_QUALITY = 90
# Films of one answer that are shown with pictures; the table and the CSV have all.
MOST_PICTURED = 12
STYLE = """
.film-page { line-height: 1.5; overflow-wrap: anywhere; }
.film-page h2 { margin: 1.2rem 0 .4rem; font-size: 1.15rem; }
.film-page .notice { border-left: 4px solid #b45309; padding: .4rem .8rem; margin: .5rem 0; }
.film-page .bad { border-left: 4px solid #b91c1c; padding: .4rem .8rem; margin: .5rem 0; }
.film-page .scroll { overflow-x: auto; max-width: 100%; }
.film-page table { border-collapse: collapse; margin: .5rem 0 1rem !important; }
.film-page table, .film-page tr { border: 0 !important; }
.film-page th, .film-page td { padding: .3rem .7rem; text-align: left; vertical-align: top;
  border: solid #8886 !important; border-width: 0 0 1px !important; overflow-wrap: normal; }
.film-page .films td:first-child { overflow-wrap: anywhere; min-width: 8rem; }
.film-page td.number, .film-page th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.film-page .panels { display: grid; gap: .8rem; margin: .6rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.film-page figure { margin: 0; }
.film-page figure img { width: 100%; height: auto; display: block; background: #000; }
.film-page figcaption { padding: .2rem 0; white-space: pre-line; }
.film-page .bar img { width: 12rem; height: 1rem; display: inline-block; vertical-align: middle; }
.film-page summary { cursor: pointer; padding: .5rem 0; font-weight: 600; }
.film-page a.download { display: inline-block; padding: .5rem 1rem; border: 1px solid currentColor;
  border-radius: 6px; text-decoration: none; }
.film-page a.download:focus-visible, .film-page summary:focus-visible,
.film-page .scroll:focus-visible { outline: 3px solid #2563eb; }
.film-page .whole { white-space: nowrap; }
@media (max-width: 30rem) {
  .film-page th, .film-page td { padding: .3rem .25rem; font-size: .75rem; }
  .film-page .films td:first-child { min-width: 5rem; }
}
"""


def escaped(text: str) -> str:
    """Text that HTML, and the page's templates, take as it is."""
    text = html.escape(text, quote=True)
    return text.replace("$", "&#36;").replace("{", "&#123;").replace("`", "&#96;")


def card_html(model: FilmModel) -> str:
    """Returns the notice and the card of the model."""
    rows = "".join(
        f"<tr><th scope='row'>{escaped(name)}</th><td>{escaped(value)}</td></tr>"
        for name, value in model.card
    )
    return _page(
        f"<details><summary>The model</summary><div class='scroll'><table>{rows}</table></div>"
        "</details>"
    )


def notice_html() -> str:
    """Returns the line that stands above everything."""
    return _page(
        f"<p class='notice' role='note'><strong>{NOTICE}</strong> "
        "Files stay on the computer that runs this page and are deleted once they are answered.</p>"
    )


def answers_html(model: FilmModel, answers: Sequence[FilmAnswer]) -> str:
    """Returns the answers to one drop of files: one film in full, several as a table first."""
    if not answers:
        return ""
    parts = []
    if len(answers) > 1:
        parts += [_several(model, answers), _download(model, answers)]
    read = [answer for answer in answers if not answer.error]
    for answer in answers:
        if answer.error:
            parts.append(_error(answer))
    for number, answer in enumerate(read[:MOST_PICTURED]):
        body = _film(answer)
        if len(answers) > 1:
            opened = "" if number else " open"
            name = escaped(answer.name)
            body = f"<details{opened}><summary>{name}</summary>{body}</details>"
        else:
            body = f"<h2>{escaped(answer.name)}</h2>{body}"
        parts.append(body)
    if len(read) > MOST_PICTURED:
        parts.append(
            f"<p>Pictures of the first {MOST_PICTURED} films; the table and the CSV have all "
            f"{len(read)}.</p>"
        )
    if any(len(answer.panels) > 2 for answer in read):
        parts.append(_legend())
    if len(answers) == 1 and read:
        parts.append(_download(model, answers))
    return _page("".join(parts))


def _page(body: str) -> str:
    return f"<div class='film-page'>{body}</div>"


def _error(answer: FilmAnswer) -> str:
    return (
        f"<p class='bad' role='alert'><strong>{escaped(answer.name)}</strong> was not read: "
        f"{escaped(answer.error)}</p>"
    )


def _film(answer: FilmAnswer) -> str:
    warnings = "".join(
        f"<p class='notice' role='note'>Warning: {escaped(line)}</p>" for line in answer.warnings
    )
    figures = "".join(
        f"<figure><img alt='{escaped(_alt(caption, answer.name))}' src='{_data_uri(picture)}'>"
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
        for caption, picture in answer.panels
    )
    return f"{warnings}{_numbers(answer.findings)}<div class='panels'>{figures}</div>"


def _alt(caption: str, name: str) -> str:
    first = caption.splitlines()[0]
    if first.startswith("image"):
        return f"{name} as it was read"
    return f"{name} colorized" if first == "colorized" else f"Heat map of {first} over {name}"


def _numbers(findings: Sequence[Finding]) -> str:
    """Returns a table: observation, probability and, with a decision, what follows of it."""
    decided = any(f.calibrated is not None or f.threshold is not None for f in findings)
    heads = ["observation", "probability"]
    heads += ["calibrated", "threshold", "decision"] if decided else []
    rows = []
    for finding in findings:
        cells = [
            f"<th scope='row'>{escaped(finding.observation)}</th>",
            _number(percent(finding.probability)),
        ]
        if decided:
            cells += [
                _number("no" if finding.calibrated is None else percent(finding.calibrated)),
                _number("none" if finding.threshold is None else percent(finding.threshold)),
                f"<td>{finding.decision or 'undecided'}</td>",
            ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _table(heads, rows, numbers=range(1, 4))


def _several(model: FilmModel, answers: Sequence[FilmAnswer]) -> str:
    """Returns the table of several films: a row per film, a column per observation."""
    heads = ["film", *model.spec.observations]
    rows = []
    for answer in answers:
        if answer.error:
            text = f"<td colspan='{len(heads) - 1}'>not read, see below</td>"
        else:
            text = "".join(_number(_in_short(finding)) for finding in answer.findings)
        rows.append(f"<tr><td>{escaped(answer.name)}</td>{text}</tr>")
    title = f"<h2>{len(answers)} films</h2>"
    return title + _table(heads, rows, numbers=range(1, len(heads)), kind="films")


def _in_short(finding: Finding) -> str:
    if finding.calibrated is None:
        return f"{percent(finding.probability)} {finding.decision}".strip()
    return f"{percent(finding.calibrated)} {finding.decision}".strip()


def _number(text: str) -> str:
    return f"<td class='number'>{escaped(text)}</td>"


def _table(heads: Sequence[str], rows: Sequence[str], numbers: range, kind: str = "") -> str:
    cells = "".join(
        f"<th scope='col'{' class=number' if i in numbers else ''}>{escaped(head)}</th>"
        for i, head in enumerate(heads)
    )
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='probabilities'>"
        f"<table class='{kind}'><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _download(model: FilmModel, answers: Sequence[FilmAnswer]) -> str:
    content = to_csv(answers, model).encode("utf-8", "backslashreplace")
    encoded = base64.b64encode(content).decode()
    return (
        f"<p><a class='download' download='probabilities.csv' "
        f"href='data:text/csv;charset=utf-8;base64,{encoded}'>Download the CSV</a></p>"
    )


def _legend() -> str:
    bar = blend(
        np.full((14, 256, 3), 128, np.uint8), np.linspace(0, 1, 256, dtype=np.float32)[None]
    )
    text = LEGEND.format("gradient x activation at three depths")
    return (
        f"<p class='bar'>{escaped(text)} <span class='whole'>0 % <img "
        f"alt='from no colour over purple to yellow' src='{_data_uri(bar)}'> 100 %</span>. "
        "No segmentation, not for diagnosis.</p>"
    )


def _data_uri(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
