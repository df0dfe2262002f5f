"""Tuning before a study: the same trials for every strategy, chosen by validation, cached."""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import shutil
import types
from concurrent.futures import Future
from pathlib import Path

import pytest

from medcolor_tf import commandline
from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.errors import InputError
from medcolor_tf.files import write_json
from medcolor_tf.reporting.collect import collect
from medcolor_tf.reporting.contents import Table
from medcolor_tf.reporting.output import to_csv
from medcolor_tf.reporting.render import build_report
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig
from medcolor_tf.studies import grid, runner, tuning
from medcolor_tf.studies.candidates import candidates
from medcolor_tf.studies.config import StudyConfig
from medcolor_tf.studies.workers import LocalWorkers, RunEnd


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_small_dataset):
    folder = tmp_path_factory.mktemp("study")
    write_small_dataset(folder / "first")
    return folder


@pytest.fixture
def config(data, tmp_path):
    return StudyConfig(
        study_dir=str(tmp_path / "study"),
        data_dir=str(data / "first"),
        colorizers=("color_u",),
        batch_size=2,
        steps=90,
        tune_max_lr=("0.002", "0.005", "0.01", "0.02"),
        tune_head=("1", "4", "16"),
    )


# -- what is tried --------------------------------------------------------------------------------


def test_every_strategy_has_all_combinations(config):
    for strategy in ("baseline", "color_module", "all"):
        found, repeats = candidates(config, strategy)
        assert (len(found), repeats) == (12, 1)
        assert found[1].label == "max_lr=0.002, lr_head=4"
        assert dict(found[1].options) == {"max_lr": "0.002", "lr_multipliers": "head=4"}


def test_values_of_a_part_that_does_not_train_become_repeats(config):
    """The same number of trials for all: none wins because it tried more."""
    config = dataclasses.replace(config, tune_colorizer=("1", "10"))
    found, repeats = candidates(config, "baseline")
    assert (len(found), repeats) == (12, 2)
    found, repeats = candidates(config, "color_module")
    assert (len(found), repeats) == (24, 1)
    assert dict(found[-1].options)["lr_multipliers"] == "colorizer=10,head=16"
    race = tuning.Race.start(tuning.cells(config)[0][0], config, "")
    assert race.point.strategy == "baseline"
    assert race.seeds == ("100", "101")
    assert len(race.trials(0)) == 24


def test_factors_that_are_not_tuned_stay(config):
    config = dataclasses.replace(config, lr_multipliers="head=2,backbone=0.1", tune_max_lr=())
    found, _ = candidates(config, "all")
    assert [dict(c.options)["lr_multipliers"] for c in found] == [
        "backbone=0.1,head=1", "backbone=0.1,head=4", "backbone=0.1,head=16"
    ]  # fmt: skip
    config = dataclasses.replace(config, lr_multipliers="", recipe="fast_head", tune_head=())
    config = dataclasses.replace(config, tune_backbone=("0.1", "1"))
    found, _ = candidates(config, "all")
    assert dict(found[0].options) == {"lr_multipliers": "backbone=0.1,head=4"}


def test_any_option_can_be_tuned(config):
    config = dataclasses.replace(
        config, tune_head=(), tune_max_lr=(), tune=("optimizer=sgd|adamw", "bn_momentum=0.9|0.99")
    )
    found, _ = candidates(config, "all")
    assert [dict(c.options) for c in found] == [
        {"optimizer": optimizer, "bn_momentum": momentum}
        for optimizer in ("sgd", "adamw")
        for momentum in (0.9, 0.99)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune_max_lr": ("fast",)}, "--tune_max_lr=fast: --max_lr=fast: expected a number"),
        ({"tune_max_lr": ("0.1", "0.1")}, "--tune_max_lr=0.1,0.1: a value twice"),
        ({"tune_head": ("0",)}, "--tune_head=0: .*above zero"),
        ({"tune": ("colour=1|2",)}, "--tune=colour=1|2: expected OPTION=VALUE"),
        ({"tune": ("steps=1|2",)}, "--tune=steps=1|2: expected OPTION=VALUE"),
        ({"tune": ("pct_start=2|0.3",)}, "--pct_start=2.0: expected a value from"),
        ({"tune": ("loss=bce|focal", "loss=bce")}, "--tune: loss is named twice"),
        ({"tune_seeds": ("2", "100")}, "--tune_seeds=2,100: 2 in the study's own seeds too"),
        ({"tune_seeds": ("x",)}, "--tune_seeds: 'x' received"),
        ({"tune_keep": 1}, "--tune_keep of at least 2"),
        ({"tune_cost": 0.0}, "--tune_cost above 0"),
        ({"overrides": ("all:max_lr=0.1",)}, "--overrides=all:max_lr=...: tuning chooses"),
        ({"tune_max_lr": (), "tune_head": (), "tune_only": True}, "--tune_only: nothing to tune"),
        ({"tune_fraction": "2"}, "--tune_fraction=2: expected a number above 0"),
        ({"tune_max_lr": (), "tune_head": (), "tune_fraction": "1"}, "--tune_fraction=1: nothing"),
        ({"tune_max_lr": (), "max_lr": "auto"}, "--max_lr=auto: the LR finder suggests another"),
    ],
)
def test_bad_tunings_are_refused_before_anything_runs(changes, message, config):
    with pytest.raises(InputError, match=message):
        runner.run_study(dataclasses.replace(config, **changes))
    assert not Path(config.study_dir).exists()


@pytest.mark.parametrize("number", [2, 3, 12, 36])
@pytest.mark.parametrize("budget", [0.5, 1, 3, 5, 100])
def test_rounds_keep_to_the_budget(number, budget):
    plan = tuning.rounds(number, 3, budget)
    assert tuning.cost(plan) <= budget * (1 + 1e-9)
    assert plan[0][0] == number
    assert plan[-1][0] > 1, "a round of one chooses nothing"
    assert max(share for _, share in plan) <= 1
    for (size, share), (next_size, next_share) in itertools.pairwise(plan):
        assert next_size == math.ceil(size / 3)
        assert next_share == pytest.approx(3 * share)


def test_whole_runs_where_the_budget_allows():
    assert tuning.rounds(4, 3, 4) == [(4, 1.0)]
    assert tuning.rounds(12, 3, 5) == [(12, 1 / 9), (4, 1 / 3), (2, 1.0)]


# -- running --------------------------------------------------------------------------------------


@pytest.fixture
def fake_train(monkeypatch):
    """Stands for the processes that train; returns what lists (name, steps, seed) of the runs.

    AUC peaks at a rate of C of 0.02 and one of 0.005 for the rest, and rises with the length.
    """
    calls, failing = [], set()

    def train(config):
        calls.append((Path(config.run_dir).name, config.steps, config.seed))
        if config.init_from:
            assert runs.Run(Path(config.init_from)).finished, "started before its source"
        rate = float(config.max_lr)
        head = rate * config.lr_factors.get("head", 1.0)
        if head > 0.3:
            return "error: the loss is nan at step 3: training diverged; start a new run"
        if config.seed in failing:
            return "error: the disk is full"
        loss = abs(math.log10(head / 0.02))
        loss += (config.strategy != "baseline") * abs(math.log10(rate / 0.005))
        auc = 0.9 - 0.1 * loss - 1 / (100 + config.steps)
        record = {
            "flags": vars(config),
            "data_fingerprint": DatasetInfo.load(config.data_dir).fingerprint,
            "lr_multipliers": config.lr_factors,
            "command": "train",
        }
        folder = Path(config.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", record)
        for split in config.evaluate:
            write_json(folder / f"evaluation-{split}.json", {"mean_auc": auc})
        result = {"best_valid_mean_auc": auc, "best_step": 1, "steps": config.steps}
        result |= {"max_lr": rate, "train_images": 24, "valid_images": 12}
        write_json(folder / "result.json", result)
        return ""

    def submit(self, task):
        error = train(commandline.parse(TrainConfig, task.words[2:]))
        Path(task.log).write_text(f"{error}\n")
        ended = Future()
        ended.set_result(RunEnd(2 if error else 0, 0.0))
        return ended

    monkeypatch.setattr(LocalWorkers, "submit", submit)
    return types.SimpleNamespace(calls=calls, failing=failing)


@pytest.fixture
def small(config):
    """Nine trials in each of two cells, then the stage that starts from one of them."""
    return dataclasses.replace(
        config,
        strategies=("baseline", "all"),
        tune_max_lr=("0.0025", "0.005", "0.02"),
        tune_head=("1", "4", "16"),
        jobs=2,
    )


def test_a_study_is_tuned_then_run_and_nothing_is_done_twice(small, fake_train, capsys):
    assert runner.run_study(small) == 0
    calls = list(fake_train.calls)
    trials = [call for call in calls if call[2] == 100]
    study = [call for call in calls if call[2] != 100]
    assert calls == trials + study, "tuning first"
    # 3 repeats: 9 trials of a third, 3 of the whole length would cost 6; so 9, 3, of a budget of 3
    lengths = {cell: sorted(n for name, n, _ in trials if f"-{cell}-" in name) for cell in
               ("baseline", "color_module", "all")}  # fmt: skip
    assert lengths["baseline"] == lengths["all"] == [15] * 9 + [45] * 3
    assert lengths["color_module"] == [15] * 9 + [45] * 3 + [90], "and the run that all starts from"
    assert sum(lengths["baseline"]) <= 3 * 90
    assert len(study) == 9
    planned = {}
    for run in json.loads((Path(small.study_dir) / "study.plan.json").read_text())["runs"]:
        flags = run["flags"]
        chosen = flags["max_lr"], flags["lr_multipliers"]
        assert planned.setdefault(flags["strategy"], chosen) == chosen, "one choice per cell"
        assert flags["tuned"] == ["max_lr", "lr_multipliers"]
    assert planned == {
        "baseline": ("0.005", "head=4"),  # C at 0.02, as max_lr 0.02 alone, which comes later
        "color_module": ("0.005", "head=4"),
        "all": ("0.005", "head=4"),
    }
    assert "diverged, the worst of values" in capsys.readouterr().out  # 0.02 with head 16
    assert runner.run_study(small) == 0
    assert len(fake_train.calls) == len(calls)
    more = dataclasses.replace(small, tune_max_lr=(*small.tune_max_lr, "0.01"))
    assert runner.run_study(dataclasses.replace(more, tune_cost=2.0, tune_only=True)) == 0
    again = [name for name, *_ in fake_train.calls]
    assert len(set(again)) == len(again) > len(calls), "what was tried is not tried again"


def test_one_share_can_choose_for_all(small, fake_train):
    shares = ("0.25", "0.5", "1")
    each = dataclasses.replace(small, train_fractions=shares, tune_only=True)
    assert len([p for level in tuning.cells(each) for p in level]) == 9
    config = dataclasses.replace(each, tune_fraction="0.5", tune_only=False)
    assert [[p.fraction for p in level] for level in tuning.cells(config)] == [["0.5"] * 2, ["0.5"]]
    assert runner.run_study(config) == 0
    trials = [name for name, _, seed in fake_train.calls if seed == 100]
    assert all("-f0.5-" in name for name in trials)
    assert len(trials) == 3 * (9 + 3) + 1, "no more than a study of one share"
    runs = json.loads((Path(small.study_dir) / "study.plan.json").read_text())["runs"]
    assert len(runs) == 27
    assert {(run["flags"]["max_lr"], run["flags"]["lr_multipliers"]) for run in runs} == {
        ("0.005", "head=4")
    }
    assert {run["flags"]["train_fraction"] for run in runs} == {0.25, 0.5, 1.0}


def test_transfers_start_from_trials_of_the_share_that_chooses(small, fake_train, data, tmp_path):
    target = tmp_path / "target"
    shutil.copytree(data / "first", target)
    config = dataclasses.replace(
        small,
        train_fractions=("0.25", "1"),
        tune_fraction="0.25",
        target_dirs=(str(target),),
        target_strategies=("baseline",),
        transfers=("last_layer@color_module",),
    )
    cells = [(p.cell, p.fraction) for level in tuning.cells(config) for p in level]
    assert sorted(fraction for cell, fraction in cells if cell.startswith("first-")) == ["0.25"] * 3
    assert {fraction for cell, fraction in cells if cell.startswith("target-")} == {"1"}
    assert runner.run_study(config) == 0
    runs = json.loads((Path(small.study_dir) / "study.plan.json").read_text())["runs"]
    assert all(run["flags"]["tuned"] == ["max_lr", "lr_multipliers"] for run in runs)


def test_trials_that_fail_stop_the_study_and_are_tried_again(small, fake_train, capsys):
    fake_train.failing.add(100)
    assert runner.run_study(small) == 1
    assert "the tuning is not finished" in capsys.readouterr().out
    assert {seed for *_, seed in fake_train.calls} == {100}
    fake_train.failing.clear()
    assert runner.run_study(dataclasses.replace(small, tune_only=True)) == 0
    assert {seed for *_, seed in fake_train.calls} == {100}


def test_all_trials_diverging_is_an_error(small, fake_train):
    hot = dataclasses.replace(small, tune_max_lr=("0.4", "0.5"), tune_head=("1",))
    with pytest.raises(InputError, match=r"tuning first-baseline.*: all trials diverged"):
        runner.run_study(hot)


def test_dry_run_says_what_tuning_would_do_and_then_the_commands(small, fake_train, capsys):
    dry = dataclasses.replace(small, dry_run=True)
    assert runner.run_study(dry) == 0
    out = capsys.readouterr().out
    assert "# tuning first-baseline-ResNet18-f1: 9 candidates, 1 seeds each (9 at 0.167" in out
    assert "are known when the tuning is done" in out
    assert not Path(small.study_dir).exists()
    assert runner.run_study(dataclasses.replace(small, tune_only=True)) == 0
    capsys.readouterr()
    assert runner.run_study(dry) == 0
    assert "--lr_multipliers=head=4" in capsys.readouterr().out


def test_shards_need_a_finished_tuning(small, fake_train):
    part = dataclasses.replace(small, shard="1/2")
    with pytest.raises(InputError, match=r"--shard=1/2: 18 trials .*--tune_only and without"):
        runner.run_study(part)
    runner.run_study(dataclasses.replace(small, tune_only=True))
    for shard in ("1/2", "2/2"):
        assert runner.run_study(dataclasses.replace(part, shard=shard)) == 0
    assert len([seed for *_, seed in fake_train.calls if seed != 100]) == 9


# -- the report -----------------------------------------------------------------------------------


def tables_of(folder):
    report = build_report(collect([folder]), 20)
    contents = [c for section in report.sections for c in section.contents]
    named = {c.name: c for c in contents if isinstance(c, Table)}
    return {name: list(csv.DictReader(io.StringIO(to_csv(t)))) for name, t in named.items()}


def test_the_report_shows_what_was_chosen_and_how_flat_it_is(small, fake_train):
    runner.run_study(dataclasses.replace(small, tune_only=True))
    tables = tables_of(small.study_dir)
    rows = {row["Learning strategy"]: row for row in tables["tuning-1"]}
    assert list(rows) == ["Baseline", "Color Module", "All"]
    row = rows["Color Module"]
    assert (row["max_lr"], row["lr_head"]) == ("0.005", "4")
    assert row["Trials"] == "12"
    assert float(row["Validation AUC (%)"]) > float(row["Second"])
    assert row["At the edge"] == "-"
    trials = tables["tuning-trials-1"]
    assert len(trials) == 36
    assert [t for t in trials if t["AUC (%)"] == "diverged"]
    assert not os.path.exists(Path(small.study_dir) / "runs")


def test_trials_are_no_runs_of_the_study(small, fake_train):
    assert runner.run_study(small) == 0
    collected = collect([small.study_dir])
    assert not [m for m in collected.missing if "steps" in m.name]
    assert grid.plan(small)


def test_a_private_study_records_no_folder_of_its_tuning(small, fake_train):
    private = dataclasses.replace(small, private_paths=True, tune_only=True)
    for _ in range(2):  # the second time it is compared with what is there
        assert runner.run_study(private) == 0
    text = tuning.record_path(private).read_text()
    assert str(Path(small.data_dir).parent) not in text
    assert json.loads(text)["cells"][0]["data_dir"] == Path(small.data_dir).name
