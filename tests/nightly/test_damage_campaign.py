"""Every file of a run and of a data set truncated, zeroed, flipped, swapped and removed."""

import dataclasses
from collections import Counter

import damage
import pytest

from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig

pytestmark = [pytest.mark.nightly, pytest.mark.slow]


@pytest.fixture(scope="module")
def config(small_dataset, tmp_path_factory):
    return TrainConfig(
        data_dir=str(small_dataset),
        strategy="baseline_all",
        backbone=damage.tiny_backbone(tmp_path_factory.mktemp("backbone") / "tiny.keras"),
        batch_size=8,
        steps=6,
        checkpoint_every=2,
        deterministic=True,
        max_lr="0.05",
    )


def check(trials, least):
    """All ended well, and there were enough of them."""
    counts = Counter(trial.outcome for trial in trials)
    print(f"{len(trials)} damages: {dict(counts)}")
    bad = [trial for trial in trials if trial.outcome not in damage.WELL]
    assert not bad, "\n\n".join(map(str, bad))
    assert len(trials) >= least


def test_runs_that_go_on(config, tmp_path):
    """The end is that of an undisturbed run byte for byte, or an error names the file."""
    config = dataclasses.replace(config, max_lr="auto")
    begun = damage.make_run(
        dataclasses.replace(config, run_dir=str(tmp_path / "begun")), stop_after=2
    )
    other = damage.make_run(
        dataclasses.replace(config, run_dir=str(tmp_path / "other"), seed=1), stop_after=2
    )
    names = tuple(name for name in (*runs.LISTED, runs.MANIFEST) if (begun / name).is_file())
    assert {runs.LAST, runs.PREVIOUS, runs.BEST, runs.LOG, runs.LR_FINDER} < set(names)
    readers = {"train": (damage.resumed(config), names)}
    check(damage.campaign(begun, other, tmp_path / "work", readers), 70)


def test_runs_that_are_read(config, tmp_path):
    config = dataclasses.replace(
        config, strategy="color_module", colorizer="color_u", evaluate=("test",), steps=4
    )
    run = damage.make_run(dataclasses.replace(config, run_dir=str(tmp_path / "run")))
    other = damage.make_run(dataclasses.replace(config, run_dir=str(tmp_path / "other"), seed=1))
    files = runs.Run(run)
    of_split = (files.evaluation("test").name, files.predictions("test").name)
    picture, manifest = files.pictures("test").name, runs.MANIFEST_OF_SPLIT.format("test")
    readers = {
        "predict": (damage.weights_of("best"), (runs.MODEL, runs.BACKBONE, runs.BEST)),
        "predict, last": (damage.weights_of("last"), (runs.LAST,)),
        "init_from run": (
            damage.pretrained_parts,
            (runs.CONFIG, runs.MODEL, runs.BEST, runs.MANIFEST),
        ),
        "init_from file": (damage.colorizer_alone, (runs.COLORIZER,)),
        "colorizer save": (damage.saved_colorizer, (runs.RESULT, *of_split[:1])),
        "report": (
            damage.collected,
            (runs.CONFIG, runs.MODEL, runs.RESULT, runs.LOG, *of_split, picture, manifest),
        ),
        "train, finished": (damage.finished(config), (runs.RESULT, *of_split)),
    }
    check(damage.campaign(run, other, tmp_path / "work", readers), 150)


def test_data_sets(small_dataset, write_small_dataset, tmp_path):
    write_small_dataset(tmp_path / "other", seed=1)
    names = tuple(sorted(path.name for path in small_dataset.iterdir()))
    readers = {"train": (damage.plan(), names), "verify": (damage.verified, names)}
    check(damage.campaign(small_dataset, tmp_path / "other", tmp_path / "work", readers), 100)
