"""Prints the tables of the study in docs/evidence.md: when does a colorizer help?

Reads the folder of its pieces, finished or not, and prints Markdown: the AUC of every cell, and
three families of tests against the same training without T. Tests that the plan names and whose
runs are missing count with p = 1 in the adjustment. Example:

  python -m benchmarks.evidence --study_dir=runs/evidence
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcolor_tf import commandline
from medcolor_tf.catalog import STRATEGIES
from medcolor_tf.commandline import option
from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import statistics
from medcolor_tf.reporting.collect import EvaluationSet, Settings, collect
from medcolor_tf.reporting.compare import Pair, colorizer_pairs, over_repeats
from medcolor_tf.reporting.predictions import columns
from medcolor_tf.reporting.run_rows import REPEAT
from medcolor_tf.reporting.settings import Setting, colorizer_label, full_label, percent, title
from medcolor_tf.reporting.tables import mean_and_std

MEAN_AUC = "mean_auc"  # column of the runs
REPEATS = 5  # of the plan; a cell with another number says so
FAMILIES = ("Primary tests", "Secondary tests", "Transfers")


@dataclass(frozen=True)
class EvidenceConfig:
    """Options."""

    study_dir: str = option("", "Folder of the study's pieces.", group="Study")
    primary_colorizer: str = option(
        "context_map", "T of the primary tests; the others' are secondary.", group="Study"
    )
    primary: int = option(36, "Primary tests that the plan names.", group="Study")
    secondary: int = option(72, "Secondary tests that the plan names.", group="Study")
    transfers: int = option(0, "Transfer tests that the plan names; 0: those found.", group="Study")
    split: str = option("test", "Evaluated images.", ("train", "valid", "test"), group="Study")


def against_none(settings: Settings) -> list[Pair]:
    """Returns each setting that has a T with the same training without one, in their order."""
    found = [(a, b) for a, b in colorizer_pairs(settings) if a.has_colorizer != b.has_colorizer]
    return sorted(found, key=lambda pair: list(settings).index(pair[0]))


def family(setting: Setting, primary_colorizer: str) -> str:
    """Returns the family of the test of a setting with a T."""
    if setting.origin:
        return FAMILIES[2]
    return FAMILIES[0] if setting.colorizer == primary_colorizer else FAMILIES[1]


def averaged(runs: pd.DataFrame, repeats: pd.DataFrame) -> pd.DataFrame:
    """Returns the predictions of one image each, with probabilities averaged over repeats.

    Raises:
        InputError: the runs were evaluated on different images or labels.
    """
    chosen = runs.merge(repeats, on=REPEAT)
    contents = [read() for read in chosen["predictions"]]
    observations = chosen["observations"].iloc[0]
    same = ["image_id", "patient", *columns("label", observations)]
    for folder, content in zip(chosen["folder"], contents, strict=True):
        if not content[same].equals(contents[0][same]):
            raise InputError(f"{folder}: evaluated on other images or labels than its repeats")
    names = columns("probability", observations)
    mean = np.mean([content[names].to_numpy() for content in contents], axis=0)
    return contents[0].assign(**dict(zip(names, mean.T, strict=True)))


def delong(settings: Settings, a: Setting, b: Setting) -> float:
    """Returns DeLong's p of two settings' averaged predictions, patients as clusters.

    Raises:
        InputError: several observations, or evaluations of different images.
    """
    both = settings[a][REPEAT].merge(settings[b][REPEAT], on=REPEAT)
    first, second = (averaged(settings[setting], both) for setting in (a, b))
    observations = settings[a]["observations"].iloc[0]
    if len(observations) > 1:
        raise InputError(
            f"{len(observations)} observations in the runs of {a.strategy}; the study compares one"
        )
    label, probability = (columns(kind, observations)[0] for kind in ("label", "probability"))
    same = ["image_id", label]
    if not first[same].equals(second[same]):
        raise InputError(f"{a.strategy} and {b.strategy} were evaluated on other images or labels")
    patients = first["patient"].to_numpy()
    arrays = (first[label].to_numpy(), first[probability].to_numpy())
    return statistics.delong_test(*arrays, second[probability].to_numpy(), patients).pvalue


def tests_of(group: EvaluationSet) -> pd.DataFrame:
    """Tests every setting with a T of a data set against the same training without it.

    Returns:
        A row per pair: data, a, b, repeats, difference, pvalue (paired t-test), delong.
    """
    settings = group.settings
    compared = against_none(settings)
    tests = over_repeats(settings, compared, {"mean AUC": MEAN_AUC})
    tests["delong"] = [delong(settings, a, b) for a, b in compared]
    return tests.assign(data=group.data)


def adjusted(pvalues: np.ndarray, planned: int) -> np.ndarray:
    """Adjusts by Benjamini-Hochberg; planned tests that are missing or undefined have p = 1.

    Raises:
        InputError: more tests than planned.
    """
    if planned and len(pvalues) > planned:
        raise InputError(f"{len(pvalues)} tests found, {planned} planned; expected no more of them")
    missing = np.ones(max(planned - len(pvalues), 0))
    known = np.where(np.isnan(pvalues), 1.0, pvalues)
    return statistics.benjamini_hochberg(np.concatenate([known, missing]))[: len(pvalues)]


def _p(value: float) -> str:
    return "-" if np.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def auc_table(group: EvaluationSet, backbone: str, settings: Settings) -> Iterator[str]:
    """Yields the Markdown table of a data set and backbone: mean and standard deviation."""
    shares = sorted({setting.fraction for setting in settings})
    yield f"\n**{group.data}, {backbone}** (AUC in percent, mean ± standard deviation)\n"
    yield _row(("strategy", "T", *(percent(share) for share in shares)))
    yield _row(("---", "---", *("--:" for _ in shares)))
    rows: dict[tuple[str, str], dict[float, str]] = {}
    for setting, runs in settings.items():
        origin = f" from {setting.origin} on {setting.origin_data}" if setting.origin else ""
        name = title(STRATEGIES, setting.strategy) + origin, colorizer_label(setting)
        cells = rows.setdefault(name, {})
        if setting.fraction in cells:
            raise InputError(f"{', '.join(name)}: two settings of {group.data} look the same")
        number = f" ({len(runs)})" if len(runs) != REPEATS else ""
        cells[setting.fraction] = mean_and_std([*runs[MEAN_AUC]]) + number
    for name, cells in rows.items():
        yield _row((*name, *(cells.get(share, "") for share in shares)))


def test_table(tests: pd.DataFrame, planned: int) -> Iterator[str]:
    """Yields the Markdown table of a family of tests."""
    yield (
        f"\n{len(tests)} of {max(planned, len(tests))} planned tests; "
        f"{np.sum(tests['adjusted'].to_numpy(float) <= 0.05)} significant at 5 % after the "
        "adjustment.\n"
    )
    header = ("data", "backbone", "share", "with T", "without", "difference, points")
    yield _row((*header, "p (t)", "adjusted", "p (DeLong)"))
    yield _row((*("---" for _ in header[:-1]), "--:", "--:", "--:", "--:"))
    for test in tests.to_dict("records"):
        a, b = test["a"], test["b"]
        repeats = "" if test["repeats"] == REPEATS else f" ({test['repeats']} repeats)"
        yield _row(
            (
                *(test["data"], a.backbone, percent(a.fraction)),
                *(full_label(setting, [setting]) for setting in (a, b)),
                f"{100 * test['difference']:+.1f}{repeats}",
                *(_p(test[name]) for name in ("pvalue", "adjusted", "delong")),
            )
        )


def show(config: EvidenceConfig) -> None:
    """Prints all tables."""
    if not config.study_dir:
        raise InputError("--study_dir is required: the folder of the study's pieces")
    groups = collect([config.study_dir], config.split).evaluation_sets(0)
    if not groups:
        raise InputError(f"{config.study_dir}: no finished run; expected those of the study")
    lines = []
    for group in groups:
        for _, backbone, settings in group.by_backbone(group.settings):
            lines += auc_table(group, backbone, settings)
    tests = pd.concat([tests_of(group) for group in groups], ignore_index=True)
    tests["family"] = [family(setting, config.primary_colorizer) for setting in tests["a"]]
    planned = (config.primary, config.secondary, config.transfers)
    for name, number in zip(FAMILIES, planned, strict=True):
        own = tests.query("family == @name")
        if len(own):
            own = own.assign(adjusted=adjusted(np.asarray(own["pvalue"], float), number))
            lines += [f"\n### {name}", *test_table(own, number)]
    print("\n".join(lines))


def main(argv=None) -> int:
    """Runs the command; returns the exit status."""
    return commandline.run(EvidenceConfig, show, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
