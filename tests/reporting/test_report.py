"""The report: its numbers against the runs', the paper's beside them, and what is missing."""

import csv
import inspect
import io
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from medcolor_tf.catalog import STRATEGIES
from medcolor_tf.errors import InputError
from medcolor_tf.files import sealed
from medcolor_tf.report import main
from medcolor_tf.reporting import breakdown_tables, decisions, figures, render, tables
from medcolor_tf.reporting.collect import collect
from medcolor_tf.reporting.contents import Commands, Figure, Note, Table
from medcolor_tf.reporting.output import to_csv, write
from medcolor_tf.runs.decision import load_decision
from medcolor_tf.runs.folder import Run
from tests.reporting.run_folders import (
    FIVE,
    Runs,
    write_breakdown,
    write_color_table,
    write_everything,
    write_plan,
)

SAMPLES = 50
EXPECTED = Path(__file__).parent / "expected"


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Drawing takes seconds; only the tests that look at figures draw."""
    if "pictures" not in request.keywords:
        shown = [make for make in render.RESULTS if make.__module__ == tables.__name__]
        monkeypatch.setattr(render, "RESULTS", shown)


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def report_of(folder):
    return render.build_report(collect([folder]), SAMPLES)


def contents(report, kind):
    every = [content for section in report.sections for content in section.contents]
    return [content for content in every if isinstance(content, kind)]


def table(report, name):
    named = [table for table in contents(report, Table) if table.name == name]
    assert len(named) == 1, f"{len(named)} tables called {name}"
    return named[0]


def texts(table):
    return [[cell.text for cell in row] for row in table.cells]


def warnings(report):
    return " ".join(note.text for note in contents(report, Note))


def shown(values):
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Folder of runs with something for each part of a report."""
    folder = tmp_path_factory.mktemp("everything").resolve()
    write_everything(folder)
    return folder


@pytest.fixture(scope="module")
def evaluation_sets(everything):
    return collect([everything]).evaluation_sets(SAMPLES)


@pytest.mark.slow
def test_tables_are_those_of_version_0_1(everything):
    """expected/ holds what version 0.1 wrote for the same runs (50 resamples), their folder named
    FOLDER; figures were drawn, which changes no table."""
    named = {
        f"{table.name}.csv": to_csv(table)
        for table in contents(report_of(everything), Table)
        if not table.name.startswith("checklist-")  # younger than 0.1
    }
    assert sorted(named) == sorted(path.name for path in EXPECTED.iterdir())
    for name, csv_text in named.items():
        expected = (EXPECTED / name).read_bytes().decode()
        assert csv_text.replace(str(everything), "FOLDER") == expected, name


def test_groups_and_units_of_a_run(tmp_path):
    runs = Runs(tmp_path / "runs", observations=("Edema",), fingerprint="three")
    runs.add("one", "baseline", 2.0)
    write_breakdown(runs.folder / "one")
    (group,) = collect([runs.folder]).evaluation_sets(SAMPLES)
    by_group, tests = (c for c in breakdown_tables.by_group(group) if isinstance(c, Table))
    assert by_group.groups == ("sex", "sex", "site", "site")
    female = json.loads((runs.folder / "one" / "subgroups-test.json").read_text())["groups"][0]
    auc = female["measures"]["auc"]
    low, high = auc["interval"]
    rows = texts(by_group)
    assert rows[0][:4] == ["female", "Edema", str(female["images"]), str(female["positive"])]
    assert rows[0][4] == f"{100 * auc['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    assert rows[3][0] == "small"
    assert rows[3][4].startswith("too few: ")
    assert by_group.title == "By group, run one", "not all groups, where a run is called all"
    assert by_group.cells[3][4].spans
    assert by_group.numeric == [False, False, *[True] * 6]
    assert "fewer than 10 patients" in by_group.caption
    assert "thresholds by hand" in by_group.caption
    assert [cell.strong for cell in by_group.cells[0][4:]] == [True, False, False, False]
    assert [row[-2:] for row in texts(tests)] == [["< 0.001", "0.002"], ["0.300", "0.400"]]
    assert texts(tests)[0][3:5] == ["-5.0", "-9.0 to -1.0"]
    assert "'=HYPERLINK" in to_csv(by_group), "no formula for a spreadsheet"
    gap = female["measures"]["calibration_gap"]
    assert f",{gap['value']:+.3f} ({gap['interval'][0]:+.3f} to" in to_csv(by_group)
    (per_unit,) = breakdown_tables.per_unit(group)
    assert isinstance(per_unit, Table)
    found = json.loads((runs.folder / "one" / "units-test.json").read_text())
    kappa = found["observations"]["Edema"]["kappa"]
    assert texts(per_unit)[0][6].startswith(f"{kappa['value']:.3f} (")
    # A decision that came later has other thresholds.
    runs.decide("one", [0.4])
    for make in (breakdown_tables.by_group, breakdown_tables.per_unit):
        (note,) = make(group)
        assert isinstance(note, Note)
        assert "is of another decision than the run's decision.json" in note.text
    path = runs.folder / "one" / "units-test.json"
    decision = load_decision(runs.folder / "one")
    assert decision is not None
    path.write_text(json.dumps(found | {"decision_digest": decision.digest}))
    assert isinstance(next(breakdown_tables.per_unit(group)), Table)
    del found["decision_digest"]
    found["threshold_from"] = "chosen on the patients of valid by youden (the decision's rule)"
    path.write_text(json.dumps(found))
    assert isinstance(next(breakdown_tables.per_unit(group)), Table), "an earlier version's"
    # Predictions that were made anew have no groups any more.
    path = runs.folder / "one" / "predictions-test.csv"
    path.write_text(path.read_text() + "\n")
    (group,) = collect([runs.folder]).evaluation_sets(SAMPLES)
    (note,) = breakdown_tables.by_group(group)
    assert isinstance(note, Note)
    assert "subgroups-test.json is of other predictions than predictions-test.csv" in note.text


ENTRIES = (*render.RESULTS, tables.every_run)


def test_shares_are_in_percent_and_the_csv_file_of_calibration_says_that_its_are_not(
    evaluation_sets,
):
    (found,) = tables.calibration(next(g for g in evaluation_sets if g.data == "phantom"))
    expected = (EXPECTED / "calibration-3-ResNet18.csv").read_text().splitlines()[1].split(",")
    assert [cell.text for cell in found.cells[0][2:]] == ["48.4", "23.5", "26.5"]
    assert expected[2:] == ["0.484", "0.235", "0.265"]
    assert "the CSV file holds fractions of 1" in found.caption


@pytest.mark.pictures
def test_the_colours_of_gray_values_are_told_in_words_too(evaluation_sets):
    drawn = next(group for group in evaluation_sets if group.data == "phantom")
    (figure,) = figures.gray_to_color(drawn)
    assert isinstance(figure, Figure)
    assert "PixelShuffle All: black becomes 0.00 0.00 0.50" in figure.alt
    assert "white becomes 1.25 1.00 0.50" in figure.alt
    assert not [make for group in evaluation_sets[:2] for make in figures.gray_to_color(group)]


@pytest.mark.pictures
def test_a_table_of_colours_is_what_its_manifest_says(tmp_path):
    runs = Runs(tmp_path / "runs", "phantom", ("Edema",))
    runs.add("map", "color_module", model={"colorizer": "color_map", "colorizer_init": "gray"})
    folder = runs.folder / "map"
    write_color_table(folder)
    text = (folder / "color_table.csv").read_text()
    (group,) = collect([folder]).evaluation_sets(SAMPLES)
    assert [type(made) for made in figures.gray_to_color(group)] == [Figure]  # of version 0.1
    run = Run(folder)
    run.write({"model.json": (folder / "model.json").read_bytes()})
    (folder / "manifest.json").write_text(  # which a development version wrote
        json.dumps(without_color_table(json.loads((folder / "manifest.json").read_text())))
    )
    note, _ = figures.gray_to_color(group)
    assert isinstance(note, Note)
    assert "map/color_table.csv: its manifest does not list it" in note.text
    run.write({"color_table.csv": text})
    assert [type(made) for made in figures.gray_to_color(group)] == [Figure]
    (folder / "color_table.csv").write_text(text.replace("1.25", "0.25"))
    with pytest.raises(InputError, match=r"color_table\.csv: damaged, or another run's file"):
        list(figures.gray_to_color(group))


def without_color_table(manifest):
    """A run's manifest that does not list its table of colours."""
    del manifest["sha256"], manifest["files"]["color_table.csv"]
    return sealed(manifest)


@pytest.mark.pictures
@pytest.mark.parametrize("make", ENTRIES, ids=lambda make: f"{make.__module__}.{make.__name__}")
def test_every_entry_makes_something_that_can_be_read(make, evaluation_sets):
    assert inspect.getdoc(make)
    for group in reversed(evaluation_sets):  # the small ones first; some entries need a large one
        if made := list(make(group)):
            break
    assert made
    for content in made:
        if isinstance(content, Note):
            assert content.text
            continue
        assert isinstance(content, Table | Figure)
        assert re.search(rf"-{group.number}(-|$)", content.name)  # no two sets write one file
        assert content.title
        assert content.caption
        if isinstance(content, Table):
            rows = list(csv.reader(io.StringIO(to_csv(content))))
            assert len(rows) == 1 + len(content.rows) > 1
            assert any(re.search(r"\d", cell) for row in rows[1:] for cell in row)


def test_every_function_for_an_evaluation_set_is_listed():
    """Else it would be written and never shown."""
    public = {
        function
        for module in (tables, figures, decisions, breakdown_tables)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
        and next(iter(inspect.signature(function).parameters)) == "group"
    }  # fmt: skip
    assert public == set(ENTRIES)


def test_every_strategy_has_a_place_in_tables():
    places = [strategy.table_order for strategy in STRATEGIES.values()]
    assert len(set(places)) == len(places)


def test_table_1_has_our_values_and_the_papers(runs):
    ours = runs.strategies()
    report = report_of(runs.folder)
    found = table(report, "table1-1")
    assert found.header == (
        "Colorization module", "Learning strategy", "Mean AUC (%)", "Repeats", "Paper"
    )  # fmt: skip
    assert texts(found) == [
        ["-", "Baseline", shown(ours["baseline"]), "3", "78.4 ± 0.5"],
        ["PixelShuffle", "Color Module", shown(ours["color_module"]), "3", "83.4 ± 0.4"],
        ["-", "Baseline All", shown(ours["baseline_all"]), "3", "89.6 ± 0.2"],
        ["PixelShuffle", "All", shown(ours["all"]), "3", "88.9 ± 0.1"],
    ]
    assert set(found.groups) == {"Backbone: ResNet18"}


def test_every_value_links_to_the_commands_and_options_of_its_runs(runs):
    runs.strategies()
    report = report_of(runs.folder)
    commands = {content.anchor: content for content in contents(report, Commands)}
    for row in table(report, "table1-1").cells:
        code = " ".join(part for run in commands[row[2].link].runs for part in run)
        strategy = {"Color Module": "color_module", "All": "all", "Baseline": "baseline"}.get(
            row[1].text, "baseline_all"
        )
        for seed in range(3):
            assert f"--run_dir='{runs.folder / f'{strategy}-{seed}'}'" in code
        assert f'"strategy": "{strategy}"' in code


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone_weights": "none"},
        {"train_fraction": 0.5},
        {"model": {"colorizer": "pixel_shuffle", "colorizer_init": "gray"}},
        {"model": {"colorizer": "pixel_shuffle", "backbone": "ResNet50"}},
    ],
)
def test_the_papers_values_stand_only_beside_the_papers_experiment(runs, changes):
    model = changes.pop("model", {"colorizer": "pixel_shuffle"})
    runs.add("run", "color_module", model=model, **changes)
    assert "Paper" not in table(report_of(runs.folder), "table1-1").header


def test_a_colorizer_is_compared_with_another_where_each_starts_as_its_default(runs):
    """A color_map has no other start than gray, which is not named then."""
    for seed in range(2):
        runs.add(f"u-{seed}", "color_module", 1.2, seed, {"colorizer": "color_u"})
        for name, colorizer in (("map", "color_map"), ("u-gray", "color_u")):
            model = {"colorizer": colorizer, "colorizer_init": "gray"}
            runs.add(f"{name}-{seed}", "color_module", 1.0, seed, model)
    labels = ["ColorMap Color Module", "ColorU (gray init) Color Module", "ColorU Color Module"]
    tested = {frozenset(row[:2]) for row in texts(table(report_of(runs.folder), "tests-1"))}
    assert tested == {frozenset(pair) for pair in itertools.combinations(labels, 2)}


def test_other_data_have_no_papers_values(tmp_path):
    runs = Runs(tmp_path / "runs", source="table")
    runs.strategies()
    assert "Paper" not in table(report_of(runs.folder), "table1-1").header


def test_tests_between_strategies_are_scipys_and_the_family_is_the_table(runs):
    ours = runs.strategies()
    found = table(report_of(runs.folder), "tests-1")
    pairs = [
        ("PixelShuffle Color Module", "Baseline", "color_module", "baseline"),
        ("Baseline All", "Baseline", "baseline_all", "baseline"),
        ("PixelShuffle All", "PixelShuffle Color Module", "all", "color_module"),
        ("PixelShuffle All", "Baseline All", "all", "baseline_all"),
    ]
    raw = [stats.ttest_rel(ours[a], ours[b]).pvalue for *_, a, b in pairs]
    adjusted = np.asarray(multipletests(raw, method="fdr_bh")[1])

    def p(value):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"

    expected = [
        [one, two, f"{100 * (np.mean(ours[a]) - np.mean(ours[b])):+.1f}", "3", p(raw[i]),
         p(adjusted[i])]
        for i, (one, two, a, b) in enumerate(pairs)
    ]  # fmt: skip
    assert texts(found) == expected
    assert "the 4 defined tests" in found.caption
    commands = {content.anchor: content for content in contents(report_of(runs.folder), Commands)}
    assert commands[found.cells[0][0].link].summary.endswith(": PixelShuffle Color Module")
    assert commands[found.cells[0][1].link].summary.endswith(": Baseline")
    strong = [row[-1].strong for row in found.cells]
    assert strong == [value < 0.05 for value in adjusted]


def test_table_2_has_every_observation(tmp_path):
    runs = Runs(tmp_path / "runs")
    module = {"colorizer": "pixel_shuffle", "backbone": "DenseNet121"}
    for seed in range(3):
        runs.add(f"all-{seed}", "all", 1.0, seed, module)
        runs.add(f"base-{seed}", "baseline_all", 0.5, seed, {"backbone": "DenseNet121"})
    found = table(report_of(runs.folder), "table2-1")
    assert found.header == ("Learning strategy", *FIVE)
    by_name = {(group, row[0]): row for group, row in zip(found.groups, texts(found), strict=True)}
    assert by_name["The paper's values", "PixelShuffle All"][2] == "85 ± 1.8"
    assert by_name["The paper's values", "DenseNet121, CheXpert's authors"][3] == "93.2"
    edema = [
        json.loads((runs.folder / f"all-{seed}/evaluation-test.json").read_text())["observations"][
            "Edema"
        ]["auc"]
        for seed in range(3)
    ]
    assert by_name["Ours", "PixelShuffle All"][4] == shown(edema)


def test_transfers_are_told_apart_by_where_they_come_from(tmp_path):
    runs = Runs(tmp_path / "runs", source="chestxray14", fingerprint="nih")
    module = {"colorizer": "pixel_shuffle"}
    for seed in range(3):
        runs.add(f"base-{seed}", "baseline", 0.5, seed)
        for origin in ("color_module", "all"):
            source = {
                "strategy": origin, "data_fingerprint": "chexpert", "data_name": "chexpert",
                "data_source": "chexpert", "path": "x",
            }  # fmt: skip
            runs.add(f"last-{origin}-{seed}", "last_layer", 1.0, seed, module, source, backbone="")
    found = table(report_of(runs.folder), "table3-1")
    assert [row[:3] + row[-1:] for row in texts(found)] == [
        ["ResNet18 θI", "-", "Baseline", "66.9 ± 0.1"],
        ["ResNet18 θA chexpert", "PixelShuffle (θA chexpert)", "Last Layer", "77.3 ± 0.5"],
        ["ResNet18 θI", "PixelShuffle (θM chexpert)", "Last Layer", "68.3 ± 1.4"],
    ]
    compared = {tuple(row[:2]) for row in texts(table(report_of(runs.folder), "tests-1"))}
    assert (
        "PixelShuffle Last Layer from All on chexpert",
        "PixelShuffle Last Layer from Color Module on chexpert",
    ) in compared


def test_stage_2_on_the_same_data_is_no_transfer(runs):
    source = {"strategy": "color_module", "data_fingerprint": "one", "data_name": "chexpert"}
    runs.add("all", "all", model={"colorizer": "color_u"}, init_from=source)
    assert texts(table(report_of(runs.folder), "table1-1"))[0][:2] == ["ColorU", "All"]


def test_training_sizes_make_figure_6(runs):
    small = runs.strategies(suffix="-small", train_fraction=0.1)
    full = runs.strategies()
    report = report_of(runs.folder)
    found = table(report, "figure6-1")
    assert found.header == ("Learning strategy", "10 % (100 images)", "100 % (1,000 images)")
    by_name = {row[0]: row[1:] for row in texts(found)}
    assert by_name["PixelShuffle All"] == [shown(small["all"]), shown(full["all"])]
    assert texts(table(report, "table1-1"))[0][2] == shown(full["baseline"])
    sizes = texts(table(report, "size-tests-1"))
    difference = 100 * (np.mean(small["all"]) - np.mean(small["baseline_all"]))
    expected = ["PixelShuffle All", "Baseline All", "10 %", f"{difference:+.1f}"]
    assert expected in [row[:4] for row in sizes]
    assert len(sizes) == 4


def test_runs_of_other_options_are_never_averaged(runs):
    runs.strategies()
    for seed in range(3):
        runs.add(f"long-{seed}", "baseline", 3.0, seed, max_lr="0.5")
    found = texts(table(report_of(runs.folder), "table1-1"))
    labels = [row[1] for row in found if row[1].startswith("Baseline [")]
    assert labels == ["Baseline [max_lr=0.5]", "Baseline [other options at their defaults]"] or (
        labels == ["Baseline [other options at their defaults]", "Baseline [max_lr=0.5]"]
    )
    assert all(row[3] == "3" for row in found)


# -- what is missing, and what does not fit --------------------------------------------------------


def test_label_sets_are_kept_apart_and_it_says_so(runs, tmp_path):
    runs.strategies()
    other = Runs(tmp_path / "runs" / "other", observations=("Fracture",), fingerprint="two")
    other.strategies()
    report = report_of(runs.folder)
    assert "2 data sets or label sets" in warnings(report)
    assert len(texts(table(report, "table1-1"))) == len(texts(table(report, "table1-2"))) == 4
    titles = [section.title for section in report.sections]
    assert "chexpert: Fracture" in titles


def test_a_missing_repeat_is_named_and_tests_use_the_common_ones(runs):
    ours = runs.strategies(seeds=(0, 1, 2))
    runs.add("module-3", "color_module", 1.0, 3, {"colorizer": "pixel_shuffle"})
    report = report_of(runs.folder)
    assert "Baseline has 3 of 4 repeats" in warnings(report)
    row = texts(table(report, "tests-1"))[0]
    assert row[:2] == ["PixelShuffle Color Module", "Baseline"]
    difference = np.mean(ours["color_module"]) - np.mean(ours["baseline"])
    assert row[2:4] == [f"{100 * difference:+.1f}", "3"]


def test_failed_planned_and_unfinished_runs_are_listed_with_reasons(runs):
    runs.strategies(seeds=(0,))
    (runs.folder / "all-0" / "result.json").unlink()
    (runs.folder / "baseline_all-0" / "evaluation-test.json").unlink()
    write_plan(runs.folder, "mine", ("a", "b", "baseline-0"), failed=("a",))
    report = report_of(runs.folder)
    rows = {row[0]: row[1:] for row in texts(table(report, "missing-runs"))}
    assert rows["a"] == ["failed with exit status 137: killed", "train a"]
    assert rows["b"] == ["planned, not run", "train b"]
    assert rows["all-0"][0] == "not finished"
    assert rows["baseline_all-0"][0] == "not evaluated on test"
    assert "medcolor_tf.evaluate" in rows["baseline_all-0"][1]
    assert "baseline-0" not in rows
    assert "4 runs are missing" in warnings(report)
    assert "mine" in report.title


def test_an_absent_class_has_no_auc_and_is_no_zero(tmp_path):
    runs = Runs(tmp_path / "runs")
    runs.labels[:, 2] = 0
    ours = runs.strategies()
    report = report_of(runs.folder)
    assert "Consolidation has no AUC" in warnings(report)
    rows = texts(table(report, "table2-1"))
    assert {row[3] for row in rows if "±" in row[1] and row[0] != ""} >= {"-"}
    assert texts(table(report, "table1-1"))[0][2] == shown(ours["baseline"])


def test_folders_are_walked_through_once(runs, monkeypatch):
    runs.strategies(seeds=(0,))
    write_plan(runs.folder, "mine", ("a",))
    for name in ("tuning/trials/chosen-among", "deep/er"):
        shutil.copytree(runs.folder / "baseline-0", runs.folder / name)
    listed = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or real(path))
    found = collect([runs.folder, runs.folder / "deep"])
    assert listed.count(str(runs.folder)) == listed.count(str(runs.folder / "all-0")) == 1
    assert [run.name for run in found.missing] == ["a", str(runs.folder / "deep/er")]
    assert len(found.runs) == 4


def test_the_same_repeat_twice_counts_once(runs):
    runs.strategies()
    runs.add("again", "baseline", 5.0, 0)
    report = report_of(runs.folder)
    assert texts(table(report, "table1-1"))[0][3] == "3"
    assert "the same repeat as" in texts(table(report, "missing-runs"))[0][1]


def test_other_test_images_are_not_compared_one_by_one(runs):
    runs.strategies(seeds=(0,))
    lines = (runs.folder / "baseline-0/predictions-test.csv").read_text().splitlines()
    lines[1] = "other" + lines[1]
    (runs.folder / "baseline-0/predictions-test.csv").write_text("\n".join(lines) + "\n")
    report = report_of(runs.folder)
    assert "color_module-0 and baseline-0 were evaluated on other images" in warnings(report)


def test_random_weights_and_few_repeats_are_told(runs):
    runs.strategies(seeds=(0,), backbone_weights="none")
    told = warnings(report_of(runs.folder))
    assert "RANDOM weights" in told
    assert "1 repeat: no test over repeats means anything" in told


def test_damaged_files_are_gaps_and_not_numbers(runs):
    runs.strategies(seeds=(0,))
    (runs.folder / "all-0" / "evaluation-test.json").write_text('{"mean_auc": 0.99')
    header = "image_id,patient,label Edema,probability Edema\n"
    (runs.folder / "baseline-0" / "predictions-test.csv").write_text(header)
    rows = {row[0]: row[1] for row in texts(table(report_of(runs.folder), "missing-runs"))}
    assert "all-0/evaluation-test.json" in rows["all-0"]
    assert "no column label Atelectasis" in rows["baseline-0"]


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.pictures
def test_the_figures_are_drawn_from_the_runs(runs, open_in_chromium, tmp_path):
    """Every figure of a study with two training sizes, opened in a browser."""
    runs.labels[:, 2] = 0
    runs.strategies(seeds=(0, 1), suffix="-small", train_fraction=0.1)
    runs.strategies(seeds=(0, 1))
    report = report_of(runs.folder)
    figures = {figure.name: figure for figure in contents(report, Figure)}
    assert set(figures) == {
        "figure4-1",
        "figure5-1",
        *(
            f"{name}-1-ResNet18"
            for name in ("figure6a", "figure6b", "roc", "precision-recall", "calibration")
        ),
        "learning-1-ResNet18",
    }
    assert "Edema 3 positive" in figures["figure5-1"].alt
    assert "PixelShuffle Color Module" in figures["figure4-1"].alt
    assert "100 %" in figures["figure6a-1-ResNet18"].alt
    write(report, tmp_path / "report")
    opened = open_in_chromium(
        tmp_path / "report" / "index.html",
        anchor="runs-1-1",
        script="return document.getElementById('runs-1-1').open",
    )
    opened.assert_clean()
    assert opened.result is True


@pytest.mark.pictures
def test_the_command_writes_page_markdown_tables_and_figures(tmp_path, capsys):
    runs = Runs(tmp_path / "runs", observations=("Edema",))
    runs.strategies(seeds=(0,))
    out = tmp_path / "report"
    words = [str(runs.folder), f"--out={out}", f"--bootstrap_samples={SAMPLES}"]
    assert main(words) == 0
    assert str(out / "index.html") in capsys.readouterr().out
    with open(out / "table1-1.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 5
    markdown = (out / "report.md").read_text()
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (out / name).stat().st_size > 0
    first = (out / "index.html").read_bytes()
    assert main(words) == 0
    assert (out / "index.html").read_bytes() == first


def test_the_command_refuses_what_it_cannot_report(runs, tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), f"--out={tmp_path / 'report'}"]) == 2
    assert "nothing: no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), f"--out={tmp_path / 'report'}"]) == 2
    assert "no run in" in capsys.readouterr().err
    runs.strategies(seeds=(0,))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("")
    assert main([str(runs.folder), f"--out={taken}"]) == 2
    assert "not empty and no report" in capsys.readouterr().err
    assert [path.name for path in taken.iterdir()] == ["thesis.tex"]


def test_a_cut_predictions_file_is_an_error_that_names_it(runs):
    runs.strategies(seeds=(0,))
    path = runs.folder / "baseline-0/predictions-test.csv"
    path.write_text("\n".join([*path.read_text().splitlines()[:20], "i19,p9,1"]))
    with pytest.raises(InputError, match=r"baseline-0/predictions-test\.csv: cannot be read"):
        report_of(runs.folder)
