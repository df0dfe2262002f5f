"""The tables of the study of colours, from made-up runs, against SciPy's and our own tests."""

import csv
import re

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmarks import evidence
from medcolor_tf.evaluation.statistics import delong_test
from tests.reporting.run_folders import Runs

CONTEXT = {"colorizer": "context_map", "colorizer_init": "gray"}
COLOR_U = {"colorizer": "color_u", "colorizer_init": "gray"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two shares of one data set; at the smaller one two of five repeats are missing."""
    runs = Runs(tmp_path_factory.mktemp("study") / "runs", "table", ("Osteoarthritis",))
    aucs = {}
    for share, repeats in ((1.0, 5), (0.1, 3)):
        for name, strategy, skill, model in (
            ("baseline", "baseline", 0.6, None),
            ("context", "color_module", 1.5, CONTEXT),
            ("color_u", "color_module", 0.7, COLOR_U),
            ("baseline_all", "baseline_all", 1.6, None),
            ("context_all", "all", 1.6, CONTEXT),
        ):
            aucs[name, share] = [
                runs.add(
                    f"{name}-{share}-{seed}",
                    strategy,
                    skill,
                    seed,
                    model,
                    train_fraction=share,
                    subset_seed=seed,
                )["mean_auc"]
                for seed in range(repeats)
            ]
    source = {"strategy": "color_module", "data_fingerprint": "two", "data_name": "chests"}
    source |= {"data_source": "table", "run": "there"}
    transfer = runs.add("transfer", "last_layer", 0.8, 0, CONTEXT, source, subset_seed=0)
    aucs["transfer", 1.0] = [transfer["mean_auc"]]
    return runs, aucs


def printed(study, capsys, *options):
    assert evidence.main([f"--study_dir={study[0].folder}", *options]) == 0
    return capsys.readouterr().out


def rows(text, title):
    """The cells of the table after a title, without its two lines of header."""
    lines = text.split(title, 1)[1].split("\n| ")[3:]
    return [line.split("\n")[0].rstrip(" |").split(" | ") for line in lines]


def probabilities(study, name, share):
    found = []
    for seed in range(5 if share == 1 else 3):
        path = study[0].folder / f"{name}-{share}-{seed}" / "predictions-test.csv"
        with open(path, newline="") as file:
            column = [float(row["probability Osteoarthritis"]) for row in csv.DictReader(file)]
        found.append(column)
    return np.mean(found, axis=0)


def test_primary_tests_are_scipys_adjusted_over_the_whole_plan(study, capsys):
    runs, aucs = study
    text = printed(study, capsys)
    primary = text.split("### Primary tests")[1].split("###")[0]
    assert "4 of 36 planned tests" in primary
    found = rows(text, "### Primary tests")[:4]
    assert [(row[2], row[3]) for row in found] == [
        ("10 %", "ContextMap Color Module"),
        ("100 %", "ContextMap Color Module"),
        ("10 %", "ContextMap All"),
        ("100 %", "ContextMap All"),
    ]
    pairs = [("context", "baseline", 0.1), ("context", "baseline", 1.0)]
    pairs += [("context_all", "baseline_all", 0.1), ("context_all", "baseline_all", 1.0)]
    pvalues = [stats.ttest_rel(aucs[a, share], aucs[b, share]).pvalue for a, b, share in pairs]
    expected = np.asarray(multipletests([*pvalues, *np.ones(32)], method="fdr_bh")[1])
    for row, (a, b, share), pvalue, adjusted in zip(
        found, pairs, pvalues, expected[:4], strict=True
    ):
        difference = 100 * (np.mean(aucs[a, share]) - np.mean(aucs[b, share]))
        assert float(row[5].split()[0]) == pytest.approx(difference, abs=0.051)
        assert row[5].endswith("(3 repeats)") == (share == 0.1)
        assert row[6:8] == [evidence._p(pvalue), evidence._p(adjusted)]
        with_t, without = (probabilities(study, name, share) for name in (a, b))
        delong = delong_test(runs.labels[:, 0], with_t, without, runs.patient).pvalue
        assert row[8] == evidence._p(delong)


def test_other_colorizers_and_transfers_are_families_of_their_own(study, capsys):
    text = printed(study, capsys, "--secondary=2")
    assert "2 of 2 planned tests" in text.split("### Secondary tests")[1].split("###")[0]
    assert {row[3] for row in rows(text, "### Secondary tests")[:2]} == {
        "ColorU (gray init) Color Module"
    }
    transfers = rows(text, "### Transfers")
    assert len(transfers) == 1
    assert "from Color Module on chests" in transfers[0][3]
    assert transfers[0][4] == "Baseline"
    text = printed(study, capsys, "--primary_colorizer=color_u")
    assert "2 of 36 planned tests" in text


def test_every_cell_has_its_mean_and_number_of_repeats(study, capsys):
    text = printed(study, capsys)
    found = {tuple(row[:2]): row[2:] for row in rows(text, "**table, ResNet18**")[:6]}
    values = 100 * np.array(study[1]["baseline", 1.0])
    assert found["Baseline", "-"][1] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert found["Baseline", "-"][0].endswith("(3)")
    assert len(found) == 6


def test_more_tests_than_planned_or_other_images_are_refused(study, capsys, tmp_path):
    assert evidence.main([f"--study_dir={study[0].folder}", "--primary=3"]) == 2
    assert "4 tests found, 3 planned" in capsys.readouterr().err
    runs = Runs(tmp_path / "runs", "table", ("Osteoarthritis",))
    for seed in (0, 1):
        runs.add(f"baseline-{seed}", "baseline", 1, seed)
        runs.add(f"context-{seed}", "color_module", 1, seed, CONTEXT)
    path = runs.folder / "context-1" / "predictions-test.csv"
    path.write_text(re.sub("^i0,", "i99,", path.read_text(), flags=re.M))
    assert evidence.main([f"--study_dir={runs.folder}"]) == 2
    assert "evaluated on other images or labels" in capsys.readouterr().err
    assert evidence.main([]) == 2
    assert "--study_dir is required" in capsys.readouterr().err
