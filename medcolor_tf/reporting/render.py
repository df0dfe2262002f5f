"""The report of one or more studies: what was run, what came out, and how sure that is."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcolor_tf.errors import InputError
from medcolor_tf.locks import LOCK
from medcolor_tf.progress import counted
from medcolor_tf.reporting import (
    breakdown_tables,
    checklist,
    decisions,
    figures,
    output,
    tables,
)
from medcolor_tf.reporting.collect import Collected, EvaluationSet, collect
from medcolor_tf.reporting.contents import Commands, Content, Note, Report, Section, Table
from medcolor_tf.reporting.methods import Facts
from medcolor_tf.reporting.settings import full_label, percent

if TYPE_CHECKING:
    from medcolor_tf.reporting.config import ReportConfig

LEAD = (
    "AUC is the exact area under the ROC curve, in percent, of the checkpoint that was best in "
    "validation, on test images. {repeats}Every value links to its runs."
)
SPREAD = "Values are mean ± sample standard deviation over repeats. "
PAIRED = (
    "p is of a two-sided paired t-test over the repeats; adjusted p after Benjamini-Hochberg "
    "within the table where it stands. "
)
# The tables and figures of an evaluation set, in the paper's order. To add one, write a function
# that takes an EvaluationSet and yields it, or nothing where it does not apply, and list it here.
RESULTS: tuple[Callable[[EvaluationSet], Iterator[Content]], ...] = (
    tables.mean_auc,
    tables.transfers,
    tables.mean_auc_tests,
    tables.observations,
    tables.observation_tests,
    tables.same_images,
    tables.sizes,
    tables.size_tests,
    figures.auc_by_size,
    figures.difference_by_size,
    figures.colorized,
    figures.gray_to_color,
    figures.training_labels,
    figures.roc,
    figures.precision_recall,
    figures.calibration,
    tables.calibration,
    decisions.decisions,
    breakdown_tables.by_group,
    breakdown_tables.per_unit,
    figures.learning,
)
FEW_POSITIVES = 10


def make_report(config: "ReportConfig") -> tuple[Path, str]:
    """Writes index.html, report.md, the tables as CSV and the figures.

    Returns:
        The page's path, and the first table of each section of results as text.

    Raises:
        InputError: no runs, or an output folder that holds something else.
    """
    out = Path(config.out)
    names = {path.name for path in out.iterdir()} - {LOCK} if out.is_dir() else set()
    if out.exists() and (names or not out.is_dir()) and "index.html" not in names:
        raise InputError(f"--out={out}: not empty and no report; expected a new folder")
    collected = collect(config.runs, config.split)
    if config.private_paths:
        collected = collected.without_folders(config.runs)
    report = build_report(collected, config.bootstrap_samples)
    sections = [section for section in report.sections if section.anchor.startswith("data-")]
    tables = (next((c for c in s.contents if isinstance(c, Table)), None) for s in sections)
    text = "\n\n".join(output.to_text(table) for table in tables if table)
    return output.write(report, out), text


def build_report(collected: Collected, n_resamples: int) -> Report:
    """Assembles the report of what was found."""
    groups = collected.evaluation_sets(n_resamples)
    sections = [Section("What to know first", "first", tuple(_first(collected, groups)))]
    for group in groups:
        names = ", ".join(group.observations[:6]) + (", …" if len(group.observations) > 6 else "")
        contents = (*_introduction(group), *(part for make in RESULTS for part in make(group)))
        sections.append(Section(f"{group.data}: {names}", f"data-{group.number}", contents))
    sections += collected.tuning
    sections += [checklist.section(Facts(group)) for group in groups]
    for group in groups:
        contents = (*tables.every_run(group), *_commands(group))
        sections.append(Section(f"Runs on {group.data}", f"appendix-{group.number}", contents))
    studies = ", ".join(dict.fromkeys(collected.studies)) or "runs"
    facts = [Facts(group) for group in groups]
    spread = SPREAD if any(fact.most_repeats > 1 for fact in facts) else ""
    paired = PAIRED if any(fact.has_paired_tests for fact in facts) else ""
    lead = LEAD.format(repeats=spread + paired)
    return Report(f"medcolor_tf report: {studies}", lead, tuple(sections))


def _first(collected: Collected, groups: list[EvaluationSet]) -> Iterator[Content]:
    """The numbers of runs, and every reason to read the rest with care."""
    runs, missing = len(collected.runs), collected.missing
    of_all = counted(runs + len(missing), "run")
    yield f"{runs} of {of_all} {'is' if runs == 1 else 'are'} finished and evaluated."
    if missing:
        reasons = Counter(run.reason.split(":")[0] for run in missing)
        alone = len(missing) == 1
        words = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        yield Note(
            "warning",
            f"{'1 run is' if alone else f'{len(missing):,} runs are'} missing or cannot be used: "
            f"{words}. Nothing was put in {'its' if alone else 'their'} place.",
        )
        yield tables.missing_runs(missing)
    if len(groups) > 1:
        yield Note(
            "info",
            f"The runs are of {len(groups)} data sets or label sets. Each has its own section; "
            "values of different sections are never compared or averaged.",
        )
    cautions: dict[str, list[str]] = {}
    for group in groups:
        for text in _cautions(group):
            cautions.setdefault(text, []).append(group.data)
    for text, data in cautions.items():
        yield Note("warning", f"{', '.join(data)}: {text}")


def _cautions(group: EvaluationSet) -> Iterator[str]:
    """What limits the results of an evaluation set, in words."""
    if group.source == "phantom":
        yield "the images are drawn phantoms; nothing here says anything about medicine."
    if any(dict(s.options).get("backbone_weights") == "none" for s in group.settings):
        yield (
            "the backbone started from RANDOM weights, not from ImageNet's; the comparison says "
            "nothing about colours for a pretrained network."
        )
    evaluations: list[dict[str, Any]] = group.runs["evaluation"].tolist()
    for name in sorted({name for content in evaluations for name in content["undefined"]}):
        yield (
            f"{name} has no AUC: its test images are all of one class. It is left out of the mean "
            "AUC of every run here."
        )
    most = Facts(group).most_repeats
    for setting, runs in group.settings.items():
        if len(runs) < most:
            yield (
                f"{full_label(setting, group.settings)} has {len(runs)} of {most} repeats; tests "
                "use the repeats that both rows have."
            )
    if most < 3:
        yield f"{counted(most, 'repeat')}: no test over repeats means anything."
    smaller = {
        name: min(count["positive"], count["negative"])
        for name, count in evaluations[0]["observations"].items()
    }
    few = ", ".join(f"{name}: {n}" for name, n in smaller.items() if 0 < n < FEW_POSITIVES)
    if few:
        yield f"few test images of a class ({few}): wide intervals, unstable AUCs."


def _introduction(group: EvaluationSet) -> Iterator[str]:
    first = group.runs.iloc[0]
    evaluation = first["evaluation"]
    yield (
        f"{counted(evaluation['images'], evaluation['split'] + ' image')} of "
        f"{counted(evaluation['patients'], 'patient')}. Uncertain labels: {Facts(group).policy}."
    )
    if len(group.fractions) > 1:
        yield (
            f"Trained on {', '.join(map(percent, group.fractions))} of the training images. The "
            f"tables and curves are of {percent(group.fractions[-1])}; the section on training "
            "size has them all."
        )


def _commands(group: EvaluationSet) -> Iterator[Commands]:
    """The command and options of every run."""
    for setting, runs in group.settings.items():
        entries = []
        for run in runs.to_dict("records"):
            options = {"config": run["config"], "result": run["result"]}
            entries.append(
                (
                    f"{run['folder'].name} (seed {run['seed']}, subset {run['subset_seed']})",
                    run["config"]["command"],
                    json.dumps(options, indent=1, sort_keys=True),
                )
            )
        summary = f"Commands and options: {full_label(setting, group.settings)}"
        yield Commands(summary, group.anchor(setting), tuple(entries))
