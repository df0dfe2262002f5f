"""What a study's tuning tried and chose, in a report."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from medcolor_tf.catalog import STRATEGIES
from medcolor_tf.errors import InputError
from medcolor_tf.files import read_json
from medcolor_tf.reporting.contents import Cell, Note, Section, Table
from medcolor_tf.reporting.settings import init_label, percent, title
from medcolor_tf.runs.config import data_name

ABSENT = "-"
CAPTION = (
    "Each row chose among the same values by the mean AUC of the validation images, in percent, on "
    "seeds that no other table uses. Trials: runs, of all rounds; cost: their length in whole "
    "runs. Second: the next best of the last round; first round: from the worst to the best of all "
    "values, in runs of {} of the length. Where these differ little, the optimum is flat. At the "
    "edge: the least or greatest value was chosen, so that a better one may lie beyond."
)


def sections(records: Iterable[Path]) -> Iterator[Section]:
    """Yields a section per study that was tuned.

    Args:
        records: paths of what :mod:`medcolor_tf.studies.tuning` wrote.

    Raises:
        InputError: a record that cannot be read.
    """
    for number, path in enumerate(records, start=1):
        record = read_json(path)
        try:
            contents = (*_notes(record), _chosen(record, number), _trials(record, number))
            name = record["study"]
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path}: cannot be read as a study's tuning ({error!r})") from None
        yield Section(f"Tuning of {name}", f"tuning-{number}", contents)


def _notes(record: Mapping) -> Iterator[Note]:
    edges = [
        f"{_label(cell)}: {', '.join(cell['edges'])}" for cell in record["cells"] if cell["edges"]
    ]
    if edges:
        yield Note("warning", f"Chosen at the edge of the values: {'; '.join(edges)}.")


def _chosen(record: Mapping, number: int) -> Table:
    names = list(record["axes"])
    rows, shares = [], set()
    for cell in record["cells"]:
        chosen = [cell["chosen"].get(name, ABSENT) for name in names]
        numbers = [ABSENT] * 3
        if cell["rounds"]:
            first, last = cell["rounds"][0], cell["rounds"][-1]
            shares.add(f"{100 * first['share']:.3g} %")
            best, *others = (_auc(trial) for trial in last["trials"])
            ends = [_auc(first["trials"][place]) for place in (-1, 0)]
            numbers = [best, others[0] if others else ABSENT, " to ".join(ends)]
        rows.append(
            (
                *_words(cell),
                *chosen,
                str(cell["runs"]),
                f"{cell['cost']:.3g}",
                *numbers,
                ", ".join(cell["edges"]) or ABSENT,
            )
        )
    header = ("Colorization module", "Learning strategy", "Backbone", "Data", *names)
    header += ("Trials", "Cost", "Validation AUC (%)", "Second", "First round", "At the edge")
    text = CAPTION.format(" or ".join(sorted(shares)) or "the whole")
    title = "What each strategy chose"
    return Table(f"tuning-{number}", title, header, tuple(rows), text, 4, stacked=True)


def _trials(record: Mapping, number: int) -> Table:
    names = list(record["axes"])
    rows = [
        (
            *_words(cell),
            str(place),
            Cell(f"{100 * entry['share']:.3g}", csv=f"{entry['share']:.3g}"),
            *(trial["values"].get(name, ABSENT) for name in names),
            _auc(trial),
        )
        for cell in record["cells"]
        for place, entry in enumerate(cell["rounds"], start=1)
        for trial in entry["trials"]
    ]
    header = ("Colorization module", "Learning strategy", "Backbone", "Data", "Round", "Length")
    return Table(
        f"tuning-trials-{number}",
        "Every trial",
        (*header, *names, "AUC (%)"),
        tuple(rows),
        "Length: in percent of a whole run (the CSV file holds fractions of 1). AUC of the "
        "validation images, mean over the tuning seeds.",
        4,
        summary=f"All {len(rows)} trials",
        stacked=True,
    )


def _words(cell: Mapping) -> tuple[str, str, str, str]:
    strategy = title(STRATEGIES, cell["strategy"])
    if cell["origin"]:
        strategy += f" from {title(STRATEGIES, cell['origin'])}"
    return (
        init_label(cell["colorizer"], cell["colorizer_init"]),
        strategy,
        Path(cell["backbone"]).stem,
        f"{data_name(cell['data_dir'])}, {percent(float(cell['fraction']))}",
    )


def _label(cell: Mapping) -> str:
    colorizer, strategy, _, data = _words(cell)
    return " ".join(word for word in (colorizer, strategy, f"({data})") if word != ABSENT)


def _auc(trial: Mapping) -> str:
    aucs = trial["aucs"]
    if None in aucs or not aucs:
        return "diverged"
    return f"{100 * sum(aucs) / len(aucs):.2f}"
