"""Damaged runs: the end of an undisturbed run, with a warning, or an error that names the file.

The long form, with every file and kind of damage, is tests/nightly/test_damage_campaign.py.
"""

import dataclasses
import json
import os
import shutil

import damage
import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.config import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(small_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    return TrainConfig(
        data_dir=str(small_dataset),
        run_dir=str(folder / "begun"),
        strategy="baseline_all",
        backbone=damage.tiny_backbone(folder / "tiny.keras"),
        batch_size=8,
        steps=6,
        checkpoint_every=2,
        deterministic=True,
        max_lr="0.05",
    )


@pytest.fixture(scope="module")
def begun(config):
    """A run that was killed after two of three checkpoints."""
    folder = damage.make_run(config, stop_after=2)
    assert (folder / runs.PREVIOUS).is_file()
    return folder


@pytest.fixture(scope="module")
def end(config, begun, tmp_path_factory):
    """What the undisturbed run leaves: name -> bytes."""
    return damage.resumed(config)(shutil.copytree(begun, tmp_path_factory.mktemp("end") / "run"))


@pytest.fixture
def copy(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def spoil(path):
    path.write_bytes(damage.flipped(0.6)(path.read_bytes()))


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(config, copy, end, capsys):
    spoil(copy / runs.LAST)
    spoil(copy / runs.LOG)
    assert damage.resumed(config)(copy) == end
    output = capsys.readouterr().out
    assert "last.safetensors: damaged" in output
    assert f"going on from the checkpoint before it, {copy / runs.PREVIOUS} of step 2" in output
    assert "log.csv: damaged" in output
    assert [row["step"] for row in runs.Run(copy).read_log()] == ["2", "4", "6"]
    assert not list(copy.glob(".*.tmp")), "no file is left over"


def test_a_missing_last_checkpoint_is_said(config, copy, end, capsys):
    (copy / runs.LAST).unlink()
    assert damage.resumed(config)(copy) == end
    assert "last.safetensors: no such file, but manifest.json lists it" in capsys.readouterr().out


def test_without_a_checkpoint_there_is_no_new_start(config, copy):
    train = damage.resumed(config)
    spoil(copy / runs.PREVIOUS)
    (copy / runs.LAST).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(InputError, match=r"(?s)no checkpoint can be read.*last.*previous"):
            train(copy)
        for name in (runs.LAST, runs.PREVIOUS):
            (copy / name).unlink(missing_ok=True)


def test_the_best_weights_are_made_again_or_named(config, begun, copy, end):
    state = json.loads((begun / runs.MANIFEST).read_text())["files"]
    spoil(copy / runs.BEST)
    result, message = damage.answer(damage.resumed(config), copy)
    assert result == end or "best.safetensors: damaged" in message
    assert runs.BEST in state


def test_a_damaged_result_is_made_again(config, copy, end, capsys):
    train = damage.resumed(config)
    train(copy)
    spoil(copy / runs.RESULT)
    assert train(copy) == end
    assert "result.json: damaged" in capsys.readouterr().out


def test_killed_inside_the_first_checkpoint_it_starts_anew(config, tmp_path, end, monkeypatch):
    """best and log are there already, last is not: nothing was lost."""
    folder = tmp_path / "run"
    replace = os.replace

    def stop(source, target):
        if os.fspath(target).endswith(runs.LAST):
            raise damage.StopTraining
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        damage.make_run(dataclasses.replace(config, run_dir=str(folder)))
    assert (folder / runs.BEST).is_file()
    assert (folder / runs.LOG).is_file()
    assert not (folder / runs.LAST).is_file()
    assert damage.resumed(config)(folder) == end


def test_a_run_of_version_0_1_goes_on(config, copy, end):
    for name in (runs.MANIFEST, runs.PREVIOUS):
        (copy / name).unlink()
    assert damage.resumed(config)(copy) == end
    manifest = runs.Run(copy).manifest(runs.CONFIG)
    assert manifest is not None
    assert manifest.lists(runs.RESULT)


def test_data_sets_are_compared_when_they_are_opened(small_dataset, tmp_path):
    shards = sorted(path.name for path in small_dataset.glob("train-*"))
    names = ("dataset.json", "index-valid.npz", shards[0])
    kinds = ("flipped at 62%", damage.REMOVED, damage.SIBLING)
    trials = damage.campaign(
        small_dataset, small_dataset, tmp_path, {"train": (damage.plan(), names)}, kinds
    )
    assert len(trials) >= 7
    assert {trial.outcome for trial in trials} == {"error"}, trials


def test_shards_that_changed_places_are_found_without_reading_them(
    tmp_path, write_small_dataset, monkeypatch
):
    """Of one size, and so many that the sample leaves them out: labels are the index's."""
    from medcolor_tf.data import records
    from medcolor_tf.data.pipeline import Split

    write_small_dataset(tmp_path / "data", encoding="raw", images=(24, 8, 8), records_per_shard=2)
    shards = sorted((tmp_path / "data").glob("train-*"))[6:8]
    one, two = shards[0].read_bytes(), shards[1].read_bytes()
    assert len(one) == len(two)
    Split(tmp_path / "data", "train", verify="full")
    shards[0].write_bytes(two)
    shards[1].write_bytes(one)
    monkeypatch.setattr(records, "_sample", lambda shards: [])
    with pytest.raises(InputError, match=r"its first record has index \[\d+\] and patient"):
        Split(tmp_path / "data", "train")
    with pytest.raises(InputError, match=r"SHA-256 is not the one in dataset\.json"):
        Split(tmp_path / "data", "train", verify="full")
