"""The report: its numbers against the runs', the paper's beside them, and what it says of gaps."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from statsmodels.stats.multitest import multipletests

from medcolor_tf.errors import InputError
from medcolor_tf.evaluation import roc_auc
from medcolor_tf.evaluation.metrics import mean_auc
from medcolor_tf.report import main
from medcolor_tf.reporting import plots
from medcolor_tf.reporting.collect import collect
from medcolor_tf.reporting.page import Details, Figure, Note, Table, write
from medcolor_tf.reporting.render import build_page
from medcolor_tf.runs.config import TrainConfig

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
SAMPLES = 50


class Runs:
    """Writes run folders whose predictions are made up, and whose AUCs follow from those."""

    def __init__(self, folder, source="chexpert", observations=FIVE, fingerprint="one"):
        self.folder, self.source = folder, source
        self.observations, self.fingerprint = observations, fingerprint
        random = np.random.default_rng(0)
        self.labels = (random.random((60, len(observations))) < 0.4).astype(float)
        self.patient = [f"p{i // 2}" for i in range(60)]

    def add(self, name, strategy, skill=1.0, seed=0, model=None, init_from=None, **flags):
        """A run; ``skill`` moves the positives' scores up."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        model = {"colorizer": "none", "colorizer_init": "paper", "backbone": "ResNet18"} | (
            model or {}
        )
        random = np.random.default_rng([seed, len(name)])
        scores = random.normal(size=self.labels.shape) + skill * self.labels
        probabilities = 1 / (1 + np.exp(-scores))
        aucs = roc_auc(self.labels, probabilities)
        config = TrainConfig(
            data_dir=f"data/{self.source}", run_dir=str(folder), strategy=strategy, seed=seed,
            steps=2, **({"backbone": model["backbone"]} | flags)
        )  # fmt: skip
        number = [None if np.isnan(auc) else float(auc) for auc in aucs]
        counts = [{"positive": int(p), "negative": int(60 - p)} for p in self.labels.sum(axis=0)]
        evaluation = {
            "mean_auc": None if np.isnan(aucs).all() else mean_auc(aucs),
            "observations": {
                name: {"auc": auc, "unknown": 0, **count}
                for name, auc, count in zip(self.observations, number, counts, strict=True)
            },
            "undefined": [n for n, auc in zip(self.observations, number, strict=True) if not auc],
            "images": 60,
            "patients": 30,
            "data_dir": config.data_dir,
            "data_fingerprint": self.fingerprint,
            "split": "test",
            "weights": "best",
            "uncertain_policy": dict.fromkeys(self.observations, "ones"),
        }
        images = round(1000 * config.train_fraction)
        result = {"best_step": 1, "steps": 2, "best_valid_mean_auc": 0.5, "train_images": images}
        contents = {
            "config": {
                "flags": dataclasses.asdict(config),
                "command": f"python -m medcolor_tf.train --run_dir='{folder}'",
                "data_fingerprint": self.fingerprint,
                "data_source": self.source,
                "train_images": images,
                "train_labels": {
                    name: {"positive": 3, "negative": 7, "uncertain": 1, "blank": 0}
                    for name in self.observations
                },
                "init_from": init_from,
            },
            "model": model | {"observations": self.observations},
            "result": result | {"max_lr": 0.01},
            "evaluation-test": evaluation,
        }
        for file, content in contents.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        (folder / "log.csv").write_text("step,valid_mean_auc\n1,0.6\n2,0.7\n")
        self.write_predictions(folder, probabilities)
        if model["colorizer"] != "none":
            strip = random.integers(0, 255, (16, 32, 3), np.uint8)
            Image.fromarray(strip).save(folder / "colorized-test.png")
        return evaluation

    def write_predictions(self, folder, probabilities):
        heads = [f"{kind} {name}" for name in self.observations
                 for kind in ("label", "probability")]  # fmt: skip
        with open(folder / "predictions-test.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "patient", *heads])
            for i, (labels, chances) in enumerate(zip(self.labels, probabilities, strict=True)):
                cells = [cell for pair in zip(labels, chances, strict=True) for cell in pair]
                writer.writerow([f"i{i}", self.patient[i], *cells])

    def strategies(self, seeds=(0, 1, 2), suffix="", **flags):
        """The four strategies with a colorizer that helps while E is frozen; name -> AUCs."""
        module = {"colorizer": "pixel_shuffle"}
        found = {}
        for strategy, skill, model in (
            ("baseline", 0.6, None),
            ("color_module", 1.2, module),
            ("baseline_all", 2.0, None),
            ("all", 1.9, module),
        ):
            found[strategy] = [
                self.add(
                    f"{strategy}{suffix}-{seed}", strategy, skill + 0.1 * seed, seed, model, **flags
                )["mean_auc"]
                for seed in seeds
            ]
        return found


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Drawing takes seconds; only the tests that look at figures draw."""
    if "pictures" not in request.keywords:
        monkeypatch.setattr(plots, "blocks", lambda group: iter(()))
        monkeypatch.setattr(plots, "size_figures", lambda group: iter(()))


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def page_of(folder):
    return build_page(collect([folder]), SAMPLES)


def blocks(page_or_blocks):
    """All blocks, those inside Details too."""
    items = page_or_blocks
    if hasattr(items, "sections"):
        items = [block for section in items.sections for block in section.blocks]
    for block in items:
        yield block
        if isinstance(block, Details):
            yield from blocks(block.blocks)


def table(page, name):
    found = [b for b in blocks(page) if isinstance(b, Table) and b.name == name]
    assert len(found) == 1, f"{len(found)} tables called {name}"
    return found[0]


def text(cell):
    return cell if isinstance(cell, str) else cell.text


def texts(table):
    return [[text(cell) for cell in row] for row in table.rows]


def warnings(page):
    return " ".join(block.text for block in blocks(page) if isinstance(block, Note))


def shown(values):
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


def test_table_1_has_our_values_and_the_papers(runs):
    ours = runs.strategies()
    page = page_of(runs.folder)
    found = table(page, "table1-1")
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
    page = page_of(runs.folder)
    details = {b.anchor: b for b in blocks(page) if isinstance(b, Details)}
    for row in table(page, "table1-1").rows:
        linked = details[row[2].link]
        code = " ".join(b.text for b in linked.blocks if hasattr(b, "text"))
        strategy = {"Color Module": "color_module", "All": "all", "Baseline": "baseline"}.get(
            text(row[1]), "baseline_all"
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
    assert "Paper" not in table(page_of(runs.folder), "table1-1").header


def test_other_data_have_no_papers_values(tmp_path):
    runs = Runs(tmp_path / "runs", source="table")
    runs.strategies()
    assert "Paper" not in table(page_of(runs.folder), "table1-1").header


def test_tests_between_strategies_are_scipys_and_the_family_is_the_table(runs):
    ours = runs.strategies()
    found = table(page_of(runs.folder), "tests-1")
    pairs = [
        ("PixelShuffle Color Module", "Baseline", "color_module", "baseline"),
        ("Baseline All", "Baseline", "baseline_all", "baseline"),
        ("PixelShuffle All", "PixelShuffle Color Module", "all", "color_module"),
        ("PixelShuffle All", "Baseline All", "all", "baseline_all"),
    ]
    raw = [stats.ttest_rel(ours[a], ours[b]).pvalue for *_, a, b in pairs]
    adjusted = multipletests(raw, method="fdr_bh")[1]

    def p(value):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"

    expected = [
        [one, two, f"{100 * (np.mean(ours[a]) - np.mean(ours[b])):+.1f}", "3", p(raw[i]),
         p(adjusted[i])]
        for i, (one, two, a, b) in enumerate(pairs)
    ]  # fmt: skip
    assert texts(found) == expected
    assert "the 4 defined tests" in found.caption
    details = {b.anchor: b for b in blocks(page_of(runs.folder)) if isinstance(b, Details)}
    assert details[found.rows[0][0].link].summary.endswith(": PixelShuffle Color Module")
    assert details[found.rows[0][1].link].summary.endswith(": Baseline")
    strong = [row[-1].strong for row in found.rows]
    assert strong == [value < 0.05 for value in adjusted]


def test_table_2_has_every_observation(tmp_path):
    runs = Runs(tmp_path / "runs")
    module = {"colorizer": "pixel_shuffle", "backbone": "DenseNet121"}
    for seed in range(3):
        runs.add(f"all-{seed}", "all", 1.0, seed, module)
        runs.add(f"base-{seed}", "baseline_all", 0.5, seed, {"backbone": "DenseNet121"})
    found = table(page_of(runs.folder), "table2-1")
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
    found = table(page_of(runs.folder), "table3-1")
    assert [row[:3] + row[-1:] for row in texts(found)] == [
        ["ResNet18 θI", "-", "Baseline", "66.9 ± 0.1"],
        ["ResNet18 θA chexpert", "PixelShuffle (θA chexpert)", "Last Layer", "77.3 ± 0.5"],
        ["ResNet18 θI", "PixelShuffle (θM chexpert)", "Last Layer", "68.3 ± 1.4"],
    ]
    compared = {tuple(row[:2]) for row in texts(table(page_of(runs.folder), "tests-1"))}
    assert (
        "PixelShuffle Last Layer from All on chexpert",
        "PixelShuffle Last Layer from Color Module on chexpert",
    ) in compared


def test_stage_2_on_the_same_data_is_no_transfer(runs):
    source = {"strategy": "color_module", "data_fingerprint": "one", "data_name": "chexpert"}
    runs.add("all", "all", model={"colorizer": "color_u"}, init_from=source)
    assert texts(table(page_of(runs.folder), "table1-1"))[0][:2] == ["ColorU", "All"]


def test_training_sizes_make_figure_6(runs):
    small = runs.strategies(suffix="-small", train_fraction=0.1)
    full = runs.strategies()
    page = page_of(runs.folder)
    found = table(page, "figure6-1")
    assert found.header == ("Learning strategy", "10 % (100 images)", "100 % (1,000 images)")
    by_name = {row[0]: row[1:] for row in texts(found)}
    assert by_name["PixelShuffle All"] == [shown(small["all"]), shown(full["all"])]
    assert texts(table(page, "table1-1"))[0][2] == shown(full["baseline"])
    sizes = texts(table(page, "size-tests-1"))
    difference = 100 * (np.mean(small["all"]) - np.mean(small["baseline_all"]))
    expected = ["PixelShuffle All", "Baseline All", "10 %", f"{difference:+.1f}"]
    assert expected in [row[:4] for row in sizes]
    assert len(sizes) == 4


def test_runs_of_other_options_are_never_averaged(runs):
    runs.strategies()
    for seed in range(3):
        runs.add(f"long-{seed}", "baseline", 3.0, seed, max_lr="0.5")
    found = texts(table(page_of(runs.folder), "table1-1"))
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
    page = page_of(runs.folder)
    assert "2 data sets or label sets" in warnings(page)
    assert len(texts(table(page, "table1-1"))) == len(texts(table(page, "table1-2"))) == 4
    titles = [section.title for section in page.sections]
    assert "chexpert: Fracture" in titles


def test_a_missing_repeat_is_named_and_tests_use_the_common_ones(runs):
    ours = runs.strategies(seeds=(0, 1, 2))
    runs.add("module-3", "color_module", 1.0, 3, {"colorizer": "pixel_shuffle"})
    page = page_of(runs.folder)
    assert "Baseline has 3 of 4 repeats" in warnings(page)
    row = texts(table(page, "tests-1"))[0]
    assert row[:2] == ["PixelShuffle Color Module", "Baseline"]
    difference = np.mean(ours["color_module"]) - np.mean(ours["baseline"])
    assert row[2:4] == [f"{100 * difference:+.1f}", "3"]


def test_failed_planned_and_unfinished_runs_are_listed_with_reasons(runs):
    runs.strategies(seeds=(0,))
    (runs.folder / "all-0" / "result.json").unlink()
    (runs.folder / "baseline_all-0" / "evaluation-test.json").unlink()
    planned = [{"name": n, "needs": "", "command": f"train {n}"} for n in ("a", "b", "baseline-0")]
    plan = {"name": "mine", "split": "test", "runs": planned}
    (runs.folder / "mine.plan.json").write_text(json.dumps(plan))
    (runs.folder / "failures").mkdir()
    failure = {"exit_status": 137, "reason": "killed", "command": "train a", "log": "a.log"}
    (runs.folder / "failures" / "a.json").write_text(json.dumps(failure))
    page = page_of(runs.folder)
    rows = {row[0]: row[1:] for row in texts(table(page, "missing-runs"))}
    assert rows["a"] == ["failed with exit status 137: killed", "train a"]
    assert rows["b"] == ["planned, not run", "train b"]
    assert rows["all-0"][0] == "not finished"
    assert rows["baseline_all-0"][0] == "not evaluated on test"
    assert "medcolor_tf.evaluate" in rows["baseline_all-0"][1]
    assert "baseline-0" not in rows
    assert "4 runs are missing" in warnings(page)
    assert "mine" in page.title


def test_an_absent_class_has_no_auc_and_is_no_zero(tmp_path):
    runs = Runs(tmp_path / "runs")
    runs.labels[:, 2] = 0
    ours = runs.strategies()
    page = page_of(runs.folder)
    assert "Consolidation has no AUC" in warnings(page)
    rows = texts(table(page, "table2-1"))
    assert {row[3] for row in rows if "±" in row[1] and row[0] != ""} >= {"-"}
    assert texts(table(page, "table1-1"))[0][2] == shown(ours["baseline"])


def test_the_same_repeat_twice_counts_once(runs):
    runs.strategies()
    runs.add("again", "baseline", 5.0, 0)
    page = page_of(runs.folder)
    assert texts(table(page, "table1-1"))[0][3] == "3"
    assert "the same repeat as" in texts(table(page, "missing-runs"))[0][1]


def test_other_test_images_are_not_compared_one_by_one(runs):
    runs.strategies(seeds=(0,))
    lines = (runs.folder / "baseline-0/predictions-test.csv").read_text().splitlines()
    lines[1] = "other" + lines[1]
    (runs.folder / "baseline-0/predictions-test.csv").write_text("\n".join(lines) + "\n")
    page = page_of(runs.folder)
    assert "color_module-0 and baseline-0 were evaluated on other images" in warnings(page)


def test_random_weights_and_few_repeats_are_told(runs):
    runs.strategies(seeds=(0,), backbone_weights="none")
    told = warnings(page_of(runs.folder))
    assert "RANDOM weights" in told
    assert "1 repeat: no test over repeats means anything" in told


def test_damaged_files_are_gaps_and_not_numbers(runs):
    runs.strategies(seeds=(0,))
    (runs.folder / "all-0" / "evaluation-test.json").write_text('{"mean_auc": 0.99')
    header = "image_id,patient,label Edema,probability Edema\n"
    (runs.folder / "baseline-0" / "predictions-test.csv").write_text(header)
    rows = {row[0]: row[1] for row in texts(table(page_of(runs.folder), "missing-runs"))}
    assert "all-0/evaluation-test.json" in rows["all-0"]
    assert "no column label Atelectasis" in rows["baseline-0"]


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.pictures
def test_the_figures_are_drawn_from_the_runs(runs, open_in_chromium, tmp_path):
    """Every figure of a study with two training sizes, opened in a browser."""
    runs.labels[:, 2] = 0
    runs.strategies(seeds=(0, 1), suffix="-small", train_fraction=0.1)
    runs.strategies(seeds=(0, 1))
    page = page_of(runs.folder)
    figures = {block.name: block for block in blocks(page) if isinstance(block, Figure)}
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
    write(page, tmp_path / "report")
    opened = open_in_chromium(
        tmp_path / "report" / "index.html",
        anchor="runs-1-1",
        script="return document.getElementById('runs-1-1').open",
    )
    opened.assert_clean()
    assert opened.result is True


@pytest.mark.pictures
def test_the_command_writes_page_markdown_tables_and_figures(runs, tmp_path, capsys):
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
        page_of(runs.folder)
