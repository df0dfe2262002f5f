"""An interrupted prediction: what was done is kept, and the same command makes the same file."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving_helpers import encode, make_run, pixels

from data_prep.images import examine_image
from medcolor_tf.errors import InputError
from medcolor_tf.predict import PredictConfig
from medcolor_tf.predict import main as predict_main
from medcolor_tf.runs import checkpoint
from medcolor_tf.runs import folder as runs
from medcolor_tf.serving import predict as predict_module
from medcolor_tf.serving.inputs import decode_name, encode_name, list_inputs
from medcolor_tf.serving.partial import PartialRecord
from medcolor_tf.serving.predict import predict

pytestmark = pytest.mark.slow
BATCH = 3


class CutError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("partial") / "run")


@pytest.fixture
def images(tmp_path):
    """Ten of them, two of which cannot be read, and one with the name of another."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for number in range(7):
        (folder / f"{number}.png").write_bytes(encode(pixels(40, 32, seed=number), "PNG"))
    (folder / "sub" / "0.png").write_bytes(encode(pixels(33, 36, seed=9), "PNG"))
    (folder / "3.jpg").write_bytes(b"no image")
    (folder / "sub" / 'a,"b"\n.png').write_bytes(b"")
    return folder


@pytest.fixture
def config(run_dir, images, tmp_path):
    return PredictConfig(
        str(run_dir),
        (str(images),),
        str(tmp_path / "out.csv"),
        batch_size=BATCH,
        colorized_dir=str(images / "colours"),
    )


@pytest.fixture
def computed(monkeypatch):
    """The batches that were computed, as lists of names; a number there cuts the work off."""
    answer, seen = predict_module._answer, []

    def record(model, batch, *others):
        if seen and seen[0] == len(seen) - 1:
            raise CutError
        seen.append([Path(read.item.name).name for read in batch])
        return answer(model, batch, *others)

    monkeypatch.setattr(predict_module, "_answer", record)
    return seen


def cut(config, computed, batches):
    """Predicts, and is cut off after so many batches."""
    computed[:] = [batches]
    with pytest.raises(CutError):
        predict(config)
    computed.clear()


def test_the_same_command_goes_on_and_makes_the_same_file(config, images, computed, capsys):
    assert predict(config) == (10, 2)
    out, partial = Path(config.out), Path(config.out + ".partial")
    expected = out.read_bytes()
    names = sorted(path.name for path in (images / "colours").iterdir())
    out.unlink()
    for path in (images / "colours").iterdir():
        path.unlink()
    for batches in (0, 1, 3):
        cut(config, computed, batches)
        assert not out.exists()
        kept = partial.read_bytes()
        assert expected.startswith(kept)
        assert kept.count(b"\r\n") == 1 + BATCH * batches
        assert predict(config) == (10, 2)
        assert len(computed) == 4 - batches
        assert out.read_bytes() == expected
        assert sorted(path.name for path in (images / "colours").iterdir()) == names
        assert [path.name for path in out.parent.glob("out*")] == ["out.csv"]
        out.unlink()
        if batches:
            assert (
                f"{BATCH * batches} of 10 images are in {partial}: going on"
                in capsys.readouterr().err
            )
        for path in (images / "colours").iterdir():
            path.unlink()


@pytest.mark.parametrize("tear", ["half a row", "all but the end of a line", "zeros", "header"])
def test_a_torn_row_is_cut_off(config, computed, tear):
    predict(config)
    out, partial = Path(config.out), Path(config.out + ".partial")
    expected = out.read_bytes()
    out.unlink()
    for path in Path(config.colorized_dir).iterdir():
        path.unlink()
    cut(config, computed, 2)
    content = partial.read_bytes()
    partial.write_bytes(
        {
            "half a row": content + expected[len(content) : len(content) + 20],
            "all but the end of a line": content[:-1],
            "zeros": content + bytes(100),
            "header": content[:7],
        }[tear]
    )
    assert predict(config) == (10, 2)
    batches = {"half a row": 2, "all but the end of a line": 3, "zeros": 2, "header": 4}
    assert len(computed) == batches[tear]
    assert out.read_bytes() == expected


def test_rows_whose_picture_is_gone_are_computed_again(config, computed):
    cut(config, computed, 2)
    (Path(config.colorized_dir) / "4.png").unlink()
    predict(config)
    assert [len(batch) for batch in computed] == [3, 3, 1]
    assert (Path(config.colorized_dir) / "4.png").is_file()


def test_a_killed_process_leaves_rows_that_the_same_command_takes(run_dir, tmp_path):
    """SIGKILL in the middle, and again, of a real process."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.png").write_bytes(encode(pixels(40, 32, seed=number), "PNG"))
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    command = [f"--run_dir={run_dir}", f"--inputs={folder}", "--batch_size=2"]
    assert predict_main([*command, f"--out={whole}"]) == 0
    program = """
import sys, time
from medcolor_tf.serving import predict as module
answer = module._answer
def slow(*arguments):
    time.sleep(0.3)
    return answer(*arguments)
module._answer = slow
from medcolor_tf.predict import main
main(sys.argv[1:])
"""
    partial = Path(f"{out}.partial")
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command, f"--out={out}"], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if partial.is_file() and partial.read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = partial.read_bytes()
    assert 5 < kept.count(b"\n") < 40
    assert whole.read_bytes().startswith(kept)
    assert predict_main([*command, f"--out={out}"]) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_rows_of_another_command_are_refused(config, computed, images, run_dir, tmp_path):
    cut(config, computed, 2)
    partial = Path(config.out + ".partial")
    kept = partial.read_bytes()

    def refuses(message, **changes):
        with pytest.raises(InputError, match=message):
            predict(PredictConfig(**{**vars(config), **changes}))
        assert partial.read_bytes() == kept

    refuses(
        r"out.csv.partial holds rows of another command .--batch_size=3 there, 5 here.*delete",
        batch_size=5,
    )
    refuses(r"--mixed_precision=False there, True here", mixed_precision=True)
    refuses(
        r"--explain_observations= there, Edema here",
        explain=str(tmp_path / "e"),
        explain_observations=("Edema",),
    )
    refuses(
        r"other inputs: 10 images there, 1 here; number 1 is .*0.png there, .*1.png here",
        inputs=(str(images / "1.png"),),
    )
    other = make_run(tmp_path / "other")
    arrays, metadata = checkpoint.load(other / runs.BEST)
    arrays["head/bias"] = arrays["head/bias"] + 1
    runs.Run(other).write({runs.BEST: checkpoint.to_bytes(arrays, metadata)})
    refuses(r"other weights \(--run_dir\)", run_dir=str(other))
    (images / "1.png").write_bytes(encode(pixels(40, 32, seed=20), "PNG"))
    refuses(r"1.png has changed since its row was written")
    Path(config.out + ".partial.json").write_text("{}")
    refuses(r"out.csv.partial.json, which says of what it is, cannot be read")


def test_an_image_that_was_not_done_may_have_changed(config, computed, images):
    cut(config, computed, 1)
    (images / "6.png").write_bytes(encode(pixels(40, 32, seed=20), "PNG"))
    assert predict(config) == (10, 2)
    assert len(computed) == 3


def test_a_second_process_is_refused(config, computed, monkeypatch):
    write = predict_module._write_rows

    def meanwhile(*arguments):
        monkeypatch.setattr(predict_module, "_write_rows", write)
        with pytest.raises(InputError, match=r"another process is writing .*out.csv.partial"):
            predict(config)
        return write(*arguments)

    monkeypatch.setattr(predict_module, "_write_rows", meanwhile)
    assert predict(config) == (10, 2)


def test_a_full_disk_is_said_and_loses_nothing(config, computed, monkeypatch):
    from medcolor_tf.serving.partial import PartialTable

    write = PartialTable._write

    def full(table, content):
        if len(table.rows) == BATCH:
            write(table, content[:30])
            raise OSError(28, "No space left on device")
        write(table, content)

    monkeypatch.setattr(PartialTable, "_write", full)
    message = (
        r"partial: cannot be written .No space left on device.\. 3 rows are kept in .*partial; the"
    )
    with pytest.raises(InputError, match=message):
        predict(config)
    monkeypatch.setattr(PartialTable, "_write", write)
    computed.clear()
    assert predict(config) == (10, 2)
    assert len(computed) == 3


@pytest.mark.parametrize(
    "name", ["plain.png", "M\udcfcller 1.png", "bytes:x.png", "ä/ü.png", "50%.png", "bytes:\udcff%"]
)
def test_names_round_trip_through_the_file(name):
    cell = encode_name(name)
    assert cell.encode("utf-8")
    assert decode_name(cell) == name
    if "\udcfc" in name:
        assert cell == "bytes:M%FCller 1.png"
    elif not name.startswith("bytes:"):
        assert cell == name


def test_names_that_are_not_utf8_are_predicted(run_dir, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    name = os.fsdecode(b"M\xfcller.png")
    try:
        (folder / name).write_bytes(encode(pixels(40, 32), "PNG"))
    except OSError:
        pytest.skip("the file system takes UTF-8 names alone")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    out = tmp_path / os.fsdecode(b"\xe4.csv")
    command = [f"--run_dir={run_dir}", f"--inputs={folder}", f"--colorized_dir={tmp_path / 'c'}"]
    assert predict_main([*command, f"--out={out}"]) == 1
    assert "1 of 2 images predicted" in capsys.readouterr().out
    with out.open(newline="", encoding="utf-8") as file:
        good, bad = csv.DictReader(file)
    assert good["path"].endswith("images/M%FCller.png")
    assert decode_name(good["path"]) == str(folder / name)
    assert Path(decode_name(good["colorized"])).is_file()
    assert bad["error"].startswith("not an image file")
    # The file is a table of paths that the command takes.
    (again, _) = list_inputs([str(out)], ("path",), 1)
    assert again.files == (folder / name,)


def test_what_a_build_warns_of_stands_in_the_row(run_dir, tmp_path, capsys):
    dark = (np.arange(40 * 32) % 20 + 30).astype(np.uint8).reshape(40, 32)
    for name, image in (("dark", dark), ("black", dark * 0), ("good", pixels(40, 32))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    out = tmp_path / "out.csv"
    assert predict_main([f"--run_dir={run_dir}", f"--inputs={tmp_path}", f"--out={out}"]) == 0
    said = capsys.readouterr().err
    with out.open(newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    assert list(rows["good"])[-4:] == ["warnings", "colorized", "explained", "error"]
    for name, row in rows.items():
        warnings = examine_image(tmp_path / f"{name}.png", 32).warnings
        assert row["warnings"] == "; ".join(f"{one.kind}: {one.message}" for one in warnings)
    assert rows["black"]["warnings"].startswith("constant: constant picture: every pixel is 0")
    assert rows["good"]["warnings"] == ""
    assert "warnings: 2 images (1 constant pictures; 1 less than 1/8" in said
    assert "see column warnings" in said


def test_the_record_names_what_the_rows_are_of(config, computed):
    cut(config, computed, 1)
    record = json.loads(Path(config.out + ".partial.json").read_text())
    assert set(record["weights"]) == {runs.MODEL, runs.BEST, "backbone.keras"}
    assert record["options"]["batch_size"] == BATCH
    assert len(record["names"]) == len(record["states"]) == 10


def test_rows_of_another_decision_are_told_apart():
    of_one, of_none = (PartialRecord({}, {}, {}, ["a.png"], [""], digest) for digest in ("1", ""))
    assert of_one.difference(of_one) == ""
    assert of_one.difference(of_none) == "another decision (--decision)"
