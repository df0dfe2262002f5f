"""The report of one or more studies: what was run, what came out, and how sure that is."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medcolor_tf.errors import InputError
from medcolor_tf.reporting import collect, compare, plots, rows, tables
from medcolor_tf.reporting.collect import Collection, Gap, GroupKey, RowKey, RunRecord
from medcolor_tf.reporting.page import Code, Details, Note, Page, Section, Table, write
from medcolor_tf.reporting.rows import Rows, rows_of

LEAD = (
    "AUC is the exact area under the ROC curve, in percent, of the checkpoint that was best in "
    "validation, on test images. Values are mean ± sample standard deviation over repeats. "
    "p is of a two-sided paired t-test over the repeats; adjusted p after Benjamini-Hochberg "
    "within the table where it stands. Every value links to its runs."
)


@dataclass(frozen=True)
class Group:
    """The runs that may be compared with each other.

    Attributes:
        number: 1, 2, ... for anchors.
        key: what they share.
        runs: all of them.
        samples: bootstrap resamples.
    """

    number: int
    key: GroupKey
    runs: list[RunRecord]
    samples: int

    @cached_property
    def rows(self) -> Rows:
        """Repeats of every row."""
        return rows_of(self.runs)

    @cached_property
    def largest(self) -> Rows:
        """The rows with the largest share of the training images."""
        top = max(row.fraction for row in self.rows)
        return {row: runs for row, runs in self.rows.items() if row.fraction == top}

    @cached_property
    def own(self) -> Rows:
        """The rows that did not come from another data set."""
        return {row: runs for row, runs in self.rows.items() if not row.origin}

    def anchor(self, row: RowKey) -> str:
        """Of the place where a row's runs are listed."""
        return f"runs-{self.number}-{list(self.rows).index(row) + 1}"


def make_report(config) -> Path:
    """Writes index.html, report.md, and the tables as CSV; returns the page's path.

    Args:
        config: :class:`medcolor_tf.report.ReportConfig`.

    Raises:
        InputError: no runs, or an output folder that holds something else.
    """
    out = Path(config.out)
    if out.exists() and any(out.iterdir()) and not (out / "index.html").is_file():
        raise InputError(f"--out={out}: not empty and no report; expected a new folder")
    page = build_page(collect.collect(config.runs, config.split), config.bootstrap_samples)
    write(page, out)
    return out / "index.html"


def build_page(found: Collection, samples: int) -> Page:
    """Assembles the page of what was found."""
    groups = [
        Group(number, key, runs, samples)
        for number, (key, runs) in enumerate(found.groups().items(), start=1)
    ]
    sections = [Section("What to know first", "first", tuple(_first(found, groups)))]
    for group in groups:
        sections.append(Section(_title(group.key), f"data-{group.number}", _results(group)))
    for group in groups:
        blocks = tuple(_appendix(group))
        sections.append(Section(f"Runs on {group.key.data}", f"appendix-{group.number}", blocks))
    studies = ", ".join(dict.fromkeys(found.studies)) or "runs"
    return Page(f"medcolor_tf report: {studies}", LEAD, tuple(sections))


def _title(key: GroupKey) -> str:
    labels = ", ".join(key.observations[:6]) + (", …" if len(key.observations) > 6 else "")
    return f"{key.data}: {labels}"


# -- what to know first ---------------------------------------------------------------------------


def _first(found: Collection, groups: list[Group]) -> Iterator:
    """The numbers of runs, and every reason to read the rest with care."""
    total = len(found.runs) + len(found.gaps)
    yield f"{len(found.runs)} of {total} runs are finished and evaluated."
    if found.gaps:
        yield from _missing(found.gaps)
    if len(groups) > 1:
        yield Note(
            "info",
            f"The runs are of {len(groups)} data sets or label sets. Each has its own section; "
            "values of different sections are never compared or averaged.",
        )
    told: dict[str, list[str]] = {}
    for group in groups:
        for text in _cautions(group):
            told.setdefault(text, []).append(group.key.data)
    for text, data in told.items():
        yield Note("warning", f"{', '.join(data)}: {text}")


def _missing(gaps: list[Gap]) -> Iterator:
    """How many runs are missing and why; the list itself behind a summary."""
    reasons = Counter(gap.reason.split(":")[0] for gap in gaps)
    words = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    yield Note(
        "warning",
        f"{len(gaps)} runs are missing or cannot be used: {words}. Nothing was put in their place.",
    )
    yield Details("Which, why, and the commands that do them", "missing", (tables.gaps(gaps),))


def _cautions(group: Group) -> Iterator[str]:
    """What limits the results of a group, in words."""
    if group.key.source == "phantom":
        yield "the images are drawn phantoms; nothing here says anything about medicine."
    random = [row for row in group.rows if dict(row.options).get("backbone_weights") == "none"]
    if random:
        yield (
            "the backbone started from RANDOM weights, not from ImageNet's; the comparison says "
            "nothing about colours for a pretrained network."
        )
    undefined = {name for run in group.runs for name in run.evaluation["undefined"]}
    for name in sorted(undefined):
        yield (
            f"{name} has no AUC: its test images are all of one class. It is left out of the mean "
            "AUC of every run here."
        )
    most = max(len(runs) for runs in group.rows.values())
    for row, runs in group.rows.items():
        if len(runs) < most:
            yield (
                f"{rows.full_label(row, group.rows)} has {len(runs)} of {most} repeats; tests use "
                "the repeats that both rows have."
            )
    if most < 3:
        yield f"{most} repeat{'s' if most > 1 else ''}: no test over repeats means anything."
    few = _few_positives(group)
    if few:
        yield f"few test images of a class ({few}): wide intervals, unstable AUCs."


def _few_positives(group: Group, enough: int = 10) -> str:
    counts = group.runs[0].evaluation["observations"]
    return ", ".join(
        f"{name}: {min(count['positive'], count['negative'])}"
        for name, count in counts.items()
        if 0 < min(count["positive"], count["negative"]) < enough
    )


# -- results of a group ---------------------------------------------------------------------------


def _results(group: Group) -> tuple:
    """Tables, tests and figures of a group, in the paper's order."""
    evaluation = group.runs[0].evaluation
    blocks: list = [
        f"{evaluation['images']:,} {group.key.split} images of {evaluation['patients']:,} "
        f"patients. Uncertain labels: {_policy(group.key)}."
    ]
    fractions = sorted({row.fraction for row in group.rows})
    if len(fractions) > 1:
        blocks.append(
            f"Trained on {', '.join(map(rows.percent, fractions))} of the training images. The "
            f"tables and curves are of {rows.percent(fractions[-1])}; the section on training "
            "size has them all."
        )
    blocks += _main_tables(group)
    blocks += _size_blocks(group, fractions)
    blocks += plots.blocks(group)
    return tuple(blocks)


def _policy(key: GroupKey) -> str:
    policy = json.loads(key.policy)
    if isinstance(policy, str):
        return policy
    words = {"ones": "positive", "zeros": "negative", "ignore": "left out"}
    return ", ".join(f"{name} {words[value]}" for name, value in policy.items())


def _main_tables(group: Group) -> Iterator:
    """Table I (or III, where runs come from another data set), II, and their tests."""
    largest = group.largest
    pairs = rows.related(largest)
    if any(row.origin for row in largest):
        yield tables.transfer_table(group)
    else:
        yield tables.mean_auc_table(group)
    measures = {"mean AUC": lambda run: run.mean_auc}
    yield from _tests(group, "tests", largest, pairs, measures)
    if len(group.key.observations) > 1:
        yield tables.observation_table(group)
        measures = {name: (lambda run, name=name: run.auc(name)) for name in group.key.observations}
        chosen = rows.with_and_without_t(largest)
        yield from _tests(group, "observation-tests", largest, chosen, measures)
    found, problems = compare.on_same_images(
        largest, rows.with_and_without_t(largest), group.samples
    )
    for problem in problems:
        yield Note("warning", problem)
    if found:
        table = tables.same_images_table(group, found)
        yield Details(
            "Repeat by repeat on the same test images: bootstrap over patients, DeLong",
            f"same-images-{group.number}",
            (table,),
        )


def _tests(group: Group, name: str, of: Rows, pairs, measures) -> Iterator[Table | str]:
    if not pairs:
        return
    found = compare.over_repeats(of, pairs, measures)
    yield tables.tests_table(group, name, found)


def _size_blocks(group: Group, fractions: list[float]) -> Iterator:
    """Figure 6 and its table, where there are several training sizes."""
    if len(fractions) < 2:
        return
    yield tables.size_table(group)
    measures = {"mean AUC": lambda run: run.mean_auc}
    pairs = rows.with_and_without_t(group.own)
    yield from _tests(group, "size-tests", group.own, pairs, measures)
    yield from plots.size_figures(group)


# -- appendix -------------------------------------------------------------------------------------


def _appendix(group: Group) -> Iterator:
    """Every run: its value with an interval, its command and its options."""
    yield tables.runs_table(group)
    for row, runs in group.rows.items():
        label = rows.full_label(row, group.rows)
        blocks: list = []
        for run in runs:
            blocks.append(f"{run.folder.name} (seed {run.repeat[0]}, subset {run.repeat[1]})")
            blocks.append(Code(run.config["command"]))
            about = {"config": run.config, "result": run.result}
            blocks.append(Code(json.dumps(about, indent=1, sort_keys=True)))
        yield Details(f"Commands and options: {label}", group.anchor(row), tuple(blocks))
