"""Run folders with made-up predictions, whose AUCs follow from those; no training."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcolor_tf.evaluation import group_tables, groups, mean_auc, roc_auc, units
from medcolor_tf.evaluation.color_table import ColorTable
from medcolor_tf.evaluation.decisions import assess
from medcolor_tf.files import file_sha256
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.runs.decision import Decision, ObservationDecision, load_decision, save_decision
from medcolor_tf.runs.folder import weights_digests

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
IMAGES, SIDE = 60, 16


def generator(seed):
    """NumPy's old generator: its numbers never change, and expected/ holds what follows of them."""
    return np.random.RandomState(seed)


class Runs:
    """Writes run folders of one data set."""

    def __init__(self, folder, source="chexpert", observations=FIVE, fingerprint="one"):
        self.folder, self.source = Path(folder), source
        self.observations, self.fingerprint = observations, fingerprint
        self.labels = (generator(0).uniform(size=(IMAGES, len(observations))) < 0.4).astype(float)
        self.patient = [f"p{i // 2}" for i in range(IMAGES)]

    def add(self, name, strategy, skill=1.0, seed=0, model=None, init_from=None, **flags):
        """A run; ``skill`` moves the positives' scores up."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        model = {"colorizer": "none", "colorizer_init": "paper", "backbone": "ResNet18"} | (
            model or {}
        )
        random = generator([seed, len(name)])
        scores = random.normal(size=self.labels.shape) + skill * np.nan_to_num(self.labels)
        probabilities = 1 / (1 + np.exp(-scores))
        options: dict[str, Any] = {"backbone": model["backbone"], "seed": seed, "steps": 2} | flags
        config = TrainConfig(
            data_dir=f"data/{self.source}", run_dir=str(folder), strategy=strategy, **options
        )
        images = round(1000 * config.train_fraction)
        result = {"best_step": 1, "steps": 2, "best_valid_mean_auc": 0.5, "train_images": images}
        evaluation = self.evaluation(config, probabilities)
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
            strip = random.randint(0, 255, (SIDE, 2 * SIDE, 3)).astype(np.uint8)
            Image.fromarray(strip).save(folder / "colorized-test.png")
        return evaluation

    def evaluation(self, config, probabilities):
        """What evaluation-test.json holds."""
        aucs = roc_auc(self.labels, probabilities)
        number = [None if np.isnan(auc) else float(auc) for auc in aucs]
        counts = [
            {kind: int((self.labels[:, column] == value).sum())
             for kind, value in (("positive", 1), ("negative", 0))}
            for column in range(len(self.observations))
        ]  # fmt: skip
        return {
            "mean_auc": None if np.isnan(aucs).all() else mean_auc(aucs),
            "observations": {
                name: {"auc": auc, "unknown": IMAGES - sum(count.values()), **count}
                for name, auc, count in zip(self.observations, number, counts, strict=True)
            },
            "undefined": [n for n, auc in zip(self.observations, number, strict=True) if not auc],
            "images": IMAGES,
            "patients": IMAGES // 2,
            "data_dir": config.data_dir,
            "data_fingerprint": self.fingerprint,
            "split": "test",
            "weights": "best",
            "uncertain_policy": dict.fromkeys(self.observations, "ones"),
        }

    def write_predictions(self, folder, probabilities):
        """Writes predictions-test.csv; unknown labels are blank."""
        heads = [f"{kind} {name}" for name in self.observations
                 for kind in ("label", "probability")]  # fmt: skip
        with open(folder / "predictions-test.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", "patient", *heads])
            for i, (labels, chances) in enumerate(zip(self.labels, probabilities, strict=True)):
                labels = ["" if np.isnan(label) else label for label in labels]
                cells = [cell for pair in zip(labels, chances, strict=True) for cell in pair]
                writer.writerow([f"i{i}", self.patient[i], *cells])

    def decide(self, name, thresholds, slope=1.0, same_images=False):
        """A decision of a run, and what it gives on the test images."""
        folder = self.folder / name
        with open(folder / "predictions-test.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        chances = [[float(row[f"probability {n}"]) for n in self.observations] for row in rows]
        logits = np.log(np.divide(chances, np.subtract(1, chances)))
        method = "none" if slope == 1 else "temperature"
        entries = {
            observation: ObservationDecision(bound, method, slope, 0.0, 9, 9, 0, "")
            for observation, bound in zip(self.observations, thresholds, strict=True)
        }
        data = {"name": "data", "fingerprint": "other", "split": "valid", "uncertain_policy": {}}
        data |= {"images": 18, "patients": 9}
        digests = weights_digests(folder)
        decision = Decision("evaluate", "youden", "best", 1, digests, data, entries)
        path = save_decision(decision, folder, replace=True)
        content = {
            "rule": "youden",
            "decision_sha256": file_sha256(path),
            "data_fingerprint": self.fingerprint,
            "uncertain_policy": {},
            "same_images": same_images,
            "chosen_on": data,
            "observations": assess(
                self.observations,
                self.labels,
                decision.calibrated_logits(logits),
                decision.calibrated(logits),
                thresholds,
                self.patient,
                n_resamples=50,
            ),
        }
        (folder / "operating-points-test.json").write_text(json.dumps(content))
        return content

    def strategies(self, seeds=(0, 1, 2), suffix="", **flags):
        """The four strategies with a colorizer that helps while E is frozen; name -> AUCs."""
        module = {"colorizer": "pixel_shuffle"}
        aucs = {}
        for strategy, skill, model in (
            ("baseline", 0.6, None),
            ("color_module", 1.2, module),
            ("baseline_all", 2.0, None),
            ("all", 1.9, module),
        ):
            aucs[strategy] = [
                self.add(
                    f"{strategy}{suffix}-{seed}", strategy, skill + 0.1 * seed, seed, model, **flags
                )["mean_auc"]
                for seed in seeds
            ]
        return aucs


def write_plan(folder, name, runs, failed=()):
    """A study's plan in a folder, and what it left of the runs that failed."""
    planned = [{"name": run, "needs": "", "command": f"train {run}"} for run in runs]
    plan = {"name": name, "split": "test", "runs": planned}
    (folder / f"{name}.plan.json").write_text(json.dumps(plan))
    (folder / "failures").mkdir(exist_ok=True)
    for run in failed:
        failure = {"exit_status": 137, "reason": "killed", "command": f"train {run}", "log": ""}
        (folder / "failures" / f"{run}.json").write_text(json.dumps(failure))


def write_everything(folder):
    """Runs of three data sets with something for each part of a report; expected/ is of these."""
    _write_chexpert(Runs(folder / "chexpert"))
    _write_transfers(Runs(folder / "nih", "chestxray14", fingerprint="two"))
    one = Runs(folder / "drawn", "phantom", ("Edema",), fingerprint="three")
    one.labels[3:9, 0] = np.nan
    one.strategies(seeds=(0,), backbone_weights="none")
    write_color_table(one.folder / "all-0")
    one.decide("all-0", [0.5])
    write_breakdown(one.folder / "all-0")


def write_color_table(folder):
    """The file that a run with a color_map leaves: white becomes more than white in red."""
    gray = np.linspace(0, 1, 256)
    colors = np.stack([1.25 * gray, gray, np.full(256, 0.5)], axis=1)
    (folder / "color_table.csv").write_text(ColorTable(np.arange(256), colors).to_csv())


def write_breakdown(folder):
    """What `evaluate --unit=patient --by=sex` leaves, of one observation."""
    with open(folder / "predictions-test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels, chances = (
        np.array([[float(row[f"{kind} Edema"] or "nan")] for row in rows])
        for kind in ("label", "probability")
    )
    patients = np.array([row["patient"] for row in rows])
    sex = np.where(np.arange(len(rows)) % 2 == 0, "female", "male")
    site = np.where(np.arange(len(rows)) < 10, "small", "=HYPERLINK()")
    decision = load_decision(folder)
    common = {
        "decision_digest": decision and decision.digest,
        "unit": "patient",
        "aggregate": "max",
        "split": "test",
        "data_fingerprint": "three",
        "threshold_from": "thresholds by hand",
        "predictions_sha256": file_sha256(folder / "predictions-test.csv"),
        "n_resamples": 50,
        "confidence_level": 0.95,
    }
    compared = groups.compare_groups(
        ["Edema"], labels, chances, [0.5], {"sex": sex, "site": site}, patients, n_resamples=50
    )
    by = {"by": ["sex", "site"], "least": 10, "least_tested": 20, "thresholds": {"Edema": 0.5}}
    rows_of_groups = group_tables.to_json(compared)
    # So few patients are not tested; a report has to show tests all the same.
    tested = {"rest": 0.8, "difference": -0.05, "difference_interval": [-0.09, -0.01]}
    rows_of_groups[0]["measures"]["auc"] |= tested | {"pvalue": 0.0004, "adjusted": 0.0016}
    rows_of_groups[0]["measures"]["sensitivity"] |= {"pvalue": 0.3, "adjusted": 0.4}
    content = common | by | {"groups": rows_of_groups}
    (folder / "subgroups-test.json").write_text(json.dumps(content))
    together = units.aggregate(labels, chances, patients, patients, "max")
    measured = units.assess(["Edema"], together, [0.5], n_resamples=50)
    counts = {"units": len(together.unit), "images": len(rows), "patients": len(together.unit)}
    content = common | counts | {"observations": measured}
    (folder / "units-test.json").write_text(json.dumps(content))


def _write_chexpert(runs):
    """Two backbones, two sizes, an undefined observation, other options, and what is missing."""
    runs.labels[:, 2] = 0
    runs.labels[5:12, 3] = np.nan
    runs.strategies(suffix="-small", train_fraction=0.1)
    runs.strategies()
    for seed in range(3):
        gray = {"colorizer": "pixel_shuffle", "colorizer_init": "gray"}
        runs.add(f"gray-{seed}", "color_module", 1.3, seed, gray)
        runs.add(f"long-{seed}", "baseline", 0.7, seed, max_lr="0.5")
        dense = {"backbone": "DenseNet121"}
        runs.add(f"dense-base-{seed}", "baseline_all", 1.5, seed, dense)
        if seed:
            runs.add(f"dense-all-{seed}", "all", 1.6, seed, dense | {"colorizer": "pixel_shuffle"})
    runs.add("again", "baseline", 5.0, 0)
    for name in ("cut", "unfinished", "unevaluated"):
        runs.add(name, "all", 1.0, 7, {"colorizer": "color_u"})
    (runs.folder / "cut" / "evaluation-test.json").write_text('{"mean_auc": 0.99')
    (runs.folder / "unfinished" / "result.json").unlink()
    (runs.folder / "unevaluated" / "evaluation-test.json").unlink()
    lines = (runs.folder / "gray-1" / "predictions-test.csv").read_text().splitlines()
    lines[1] = "other" + lines[1]
    (runs.folder / "gray-1" / "predictions-test.csv").write_text("\n".join(lines) + "\n")
    write_plan(runs.folder, "mine", ("first", "second", "baseline-0", "unfinished"), ("first",))


def _write_transfers(runs):
    """Transfers from CheXpert beside what learns on the target alone."""
    module = {"colorizer": "pixel_shuffle"}
    for seed in range(3):
        runs.add(f"base-{seed}", "baseline", 0.5, seed)
        runs.add(f"base-all-{seed}", "baseline_all", 1.5, seed)
        for origin in ("color_module", "all"):
            source = {
                "strategy": origin, "data_fingerprint": "one", "data_name": "chexpert",
                "data_source": "chexpert", "path": "x",
            }  # fmt: skip
            runs.add(f"last-{origin}-{seed}", "last_layer", 1.0, seed, module, source, backbone="")
            runs.add(f"all-{origin}-{seed}", "all", 1.4, seed, module, source, backbone="")
