"""The manifest of a run folder: what it allows, what it finds, and a power cut at any moment."""

import hashlib
import json
import os
import shutil

import damage
import pytest

from medcolor_tf import files
from medcolor_tf.errors import InputError
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.manifest import Manifest

LOG_1 = "step,loss,valid_mean_auc\n2,0.7,0.5\n"
LOG_2 = LOG_1 + "4,0.6,0.75\n"


class PowerCutError(BaseException):
    """Nothing of ours catches it."""


def checkpoint(run, number, log):
    """Writes what a checkpoint does."""
    contents = {runs.BEST: b"best %d" % number, runs.LOG: log}
    if (run.folder / runs.LAST).is_file():
        contents[runs.PREVIOUS] = run.folder / runs.LAST
    run.write(contents | {runs.LAST: b"last %d" % number}, log)


@pytest.fixture
def run(tmp_path):
    run = runs.Run(tmp_path / "run")
    run.folder.mkdir()
    run.write({runs.CONFIG: {"flags": {}, "data_fingerprint": "x", "command": "c"}})
    checkpoint(run, 1, LOG_1)
    return run


def problems(run):
    manifest = run.manifest(runs.CONFIG)
    assert manifest is not None
    names = [path.name for path in run.folder.iterdir() if path.name in runs.LISTED]
    return {name: manifest.problem(name) for name in {*names, *manifest.files}}


@pytest.mark.parametrize("links", [True, False])
def test_a_power_cut_at_any_moment_leaves_a_folder_that_reads(run, monkeypatch, links):
    """Before each replacement of a file, and before each flush; then the change is made again."""
    whole = shutil.copytree(run.folder, run.folder.with_name("whole"))
    if not links:
        monkeypatch.setattr(os, "link", _no_link)
    done = 0
    for operation in ("replace", "fsync"):
        original = getattr(os, operation)
        for cut in range(20):
            shutil.rmtree(run.folder)
            shutil.copytree(whole, run.folder)
            count = 0

            def stop(*arguments, cut=cut, original=original):
                nonlocal count
                count += 1
                if count > cut:
                    raise PowerCutError
                return original(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(os, operation, stop)
                try:
                    checkpoint(run, 2, LOG_2)
                except PowerCutError:
                    done += 1
                else:
                    break
            assert set(problems(run).values()) == {""}, (operation, cut)
            assert (run.folder / runs.LAST).read_bytes() in (b"last 1", b"last 2")
            assert run.log_text() in (LOG_1, LOG_2)
            checkpoint(run, 2, LOG_2)
            assert set(problems(run).values()) == {""}
            assert run.log_text() == LOG_2
    assert done >= 10, "so many operations a checkpoint has"


def _no_link(*arguments):
    raise OSError("no links here")


def test_what_was_last_is_the_previous_one(run):
    checkpoint(run, 2, LOG_2)
    assert (run.folder / runs.PREVIOUS).read_bytes() == b"last 1"
    assert (run.folder / runs.LAST).read_bytes() == b"last 2"
    assert run.checked(runs.PREVIOUS) == run.folder / runs.PREVIOUS


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "damaged, or another run's"),
        (lambda path: path.unlink(), r"no such file, but manifest.json lists it"),
        (
            lambda path: shutil.copyfile(path.with_name(runs.BEST), path),
            r"damaged, .* SHA-256 \w+\.\.\., expected \w+",
        ),
    ],
)
def test_a_damaged_file_is_named(run, damage, message):
    damage(run.folder / runs.LAST)
    with pytest.raises(InputError, match=f"last.safetensors: {message}"):
        run.checked(runs.LAST)


def test_a_file_that_is_not_listed_is_refused(run):
    (run.folder / runs.COLORIZER).write_bytes(b"of another run")
    with pytest.raises(InputError, match=r"colorizer.safetensors: manifest.json does not list it"):
        run.checked(runs.COLORIZER)


def test_a_link_that_leaves_the_folder_is_refused(run, tmp_path):
    (tmp_path / "secret").write_bytes(b"last 1")  # the very content, so the digest agrees
    (run.folder / runs.LAST).unlink()
    (run.folder / runs.LAST).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside the run folder; expected the file itself"):
        run.checked(runs.LAST)


def test_every_flipped_bit_of_a_manifest_is_found(run):
    path = run.folder / runs.MANIFEST
    data = path.read_bytes()
    names = (runs.CONFIG, runs.LAST, runs.BEST, runs.LOG)
    for position in range(0, len(data), 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ 2]) + data[position + 1 :])
        for name in names:
            found, message = damage.answer(run.checked, name)
            assert found == run.folder / name or runs.MANIFEST in message, position


def test_a_damaged_log_is_read_from_the_manifest_and_loses_no_row(run, capsys):
    checkpoint(run, 2, LOG_2)
    (run.folder / runs.LOG).write_text(LOG_2.replace("0.75", "0.95"))
    assert [row["valid_mean_auc"] for row in run.read_log()] == ["0.5", "0.75"]
    assert "log.csv: damaged" in capsys.readouterr().out
    row = {"step": 6, "loss": 0.5, "valid_mean_auc": 0.8}
    assert run.log_with(row) == LOG_2 + "6,0.5,0.8\n"


def test_an_old_log_without_a_manifest_loses_its_damaged_row_alone(tmp_path, capsys):
    run = runs.Run(tmp_path)
    (tmp_path / runs.LOG).write_text(LOG_2.replace("2,0.7", '2,0."7') + "4,0.1,0.1\n6,0.5,0.8\n")
    row = {"step": 8, "loss": 0.5, "valid_mean_auc": 0.9}
    kept = "step,loss,valid_mean_auc\n4,0.6,0.75\n6,0.5,0.8\n8,0.5,0.9\n"
    assert run.log_with(row) == kept
    output = capsys.readouterr().out
    assert "log.csv line 2: damaged, left out" in output
    assert "log.csv line 4: damaged, left out; expected a step of its own" in output


def test_rows_after_the_checkpoint_are_not_doubled(run):
    checkpoint(run, 2, LOG_2)
    row = {"step": 4, "loss": 0.6, "valid_mean_auc": 0.75}
    assert run.log_with(row) == LOG_2


def test_a_resumed_run_keeps_to_the_commit_that_its_address_meant(run):
    """Of the colorizer on the hub; another address is read as it is given."""
    pinned = f"hf://me/T@{'0' * 40}"
    content = {"flags": {"init_from": "hf://me/T"}, "data_fingerprint": "x", "command": "c"}
    run.write({runs.CONFIG: content | {"init_from": {"path": pinned}}})
    assert run.source("hf://me/T") == pinned
    assert run.source("hf://me/other") == "hf://me/other"
    (run.folder / runs.LAST).unlink()
    assert run.source("hf://me/T") == "hf://me/T", "a run without a checkpoint begins anew"


def test_a_folder_without_a_manifest_is_taken_as_it_is_and_gets_one(tmp_path):
    run = runs.Run(tmp_path)
    (tmp_path / runs.LAST).write_bytes(b"old")
    assert run.checked(runs.LAST).read_bytes() == b"old"
    run.write({runs.RESULT: {"steps": 1}})
    manifest = Manifest.load(tmp_path / runs.MANIFEST)
    assert manifest is not None
    assert manifest.files[runs.LAST].sha256 == hashlib.sha256(b"old").hexdigest()
    (tmp_path / runs.LAST).write_bytes(b"other")
    with pytest.raises(InputError, match="damaged"):
        run.checked(runs.LAST)


def test_writing_what_is_there_changes_no_byte(run):
    """The same content is the same manifest: a resumed run's folder is that of a whole one."""
    before = (run.folder / runs.MANIFEST).read_bytes()
    run.write({runs.LOG: LOG_1}, LOG_1)
    assert (run.folder / runs.MANIFEST).read_bytes() == before


def test_json_has_limits(tmp_path, monkeypatch):
    path = tmp_path / "deep.json"
    for text in ("[" * 200_000 + "]" * 200_000, '{"a":' * 100 + "1" + "}" * 100):
        path.write_text(text)
        with pytest.raises(InputError, match=r"deep.json: cannot be read \(JSON nested deeper"):
            files.read_json(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON object, received list"):
        files.read_json(path)
    path.write_text('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(InputError, match=r"deep.json: cannot be read \("):
        files.read_json(path)
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    path.write_text(json.dumps({"a": "b" * 20}))
    with pytest.raises(InputError, match="expected at most 10"):
        files.read_json(path)


def test_a_seal_is_of_the_whole_content():
    content = {"mean": 0.5, "names": ["a", "b"]}
    sealed = files.sealed(content)
    assert files.unsealed(sealed, "x.json") == content
    assert files.unsealed(content, "x.json") == content, "files of version 0.1 have none"
    with pytest.raises(InputError, match=r"x.json: its SHA-256 is not that of its content"):
        files.unsealed(sealed | {"mean": 0.25}, "x.json")
