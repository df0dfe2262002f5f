"""The build as a user runs it: what it writes, refuses, continues and leaves alone."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import build, merge
from data_prep.building import plan, shards
from data_prep.building.duplicates import ContentDigests
from data_prep.options import BuildConfig
from medcolor_tf.data.labels import apply_policy
from medcolor_tf.data.schema import DatasetInfo, SplitIndex
from medcolor_tf.locks import locked

ROOT = Path(__file__).parents[2]
HALVES = ("--valid_fraction=0.25", "--test_fraction=0.25")


@pytest.fixture
def run_merge_of(capsys):
    """The function that merges the parts in a folder; returns (status, output)."""

    def run(folder):
        status = merge.main([f"--out={folder}"])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


@pytest.fixture
def id_key(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef" * 2)
    return f"--id_key_file={path}"


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))}


def test_records_hold_pixels_labels_and_ids(
    make_table, run_build, table_flags, read_records, write_image
):
    table = make_table(24)
    status, output, folder = run_build(*table_flags(table, *HALVES, "--records_per_shard=5"))
    assert status == 0, output
    info, records = DatasetInfo.load(folder), read_records(folder)
    assert info.images == {split: len(found) for split, found in records.items()}
    assert sum(info.images.values()) == 24
    assert all(shard.records <= 5 for shard in info.shards)
    every = [record for found in records.values() for record in found]
    assert len({record["image_id"] for record in every}) == 24
    patients = {split: {r["patient"] for r in found} for split, found in records.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 12
    for split, found in records.items():
        raw = np.array([record["raw_label"] for record in found])
        labels = np.array([record["label"] for record in found])
        np.testing.assert_array_equal(
            labels, apply_policy(raw, ("a", "b"), info.uncertain_policy, info.blank_policy)
        )
        index = SplitIndex.load(folder, split)
        np.testing.assert_array_equal(index.raw_labels, raw)
        assert index.index.tolist() == [record["index"] for record in found]
        assert index.patient.tolist() == [record["patient"] for record in found]
        assert info.label_counts[split]["b"]["uncertain"] == (raw[:, 1] == -1).sum()
        assert info.label_counts[split]["b"]["blank"] == np.isnan(raw[:, 1]).sum()
    pixels = np.concatenate([r["pixels"][0].ravel() for r in records["train"]]) / 255
    assert info.pixel_mean == pytest.approx(pixels.mean(), abs=1e-12)
    assert info.pixel_std == pytest.approx(pixels.std(), abs=1e-12)
    assert {r["pixels"][0].shape for r in every} == {(16, 20)}
    assert "positive" in output
    assert "data_prep.verify" in output


def test_blank_and_uncertain_policies(make_table, run_build, table_flags, read_records):
    flags = (*HALVES, "--uncertain_policy=a=zeros,b=ones", "--blank_policy=zeros")
    status, output, folder = run_build(*table_flags(make_table(), *flags))
    assert status == 0, output
    records = [record for found in read_records(folder).values() for record in found]
    for record in records:
        raw, label = record["raw_label"][1], record["label"][1]
        assert label == (1 if raw == -1 else 0 if np.isnan(raw) else raw)
    assert any(record["raw_label"][1] == -1 for record in records)


def test_nothing_of_the_source_is_in_the_shards(tmp_path, write_rows, run_build, table_flags):
    rows: list[tuple] = [("path", "person", "a", "b")]
    for i in range(8):
        exif = Image.Exif()
        exif[0x010E] = "SECRETHEADER"
        pixels = np.random.default_rng(i).integers(0, 256, (16, 20), np.uint8)
        path = tmp_path / "s" / f"SECRETFILE{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, exif=exif, comment=b"SECRETCOMMENT", quality=95)
        rows.append((path.name, f"SECRETPATIENT{i // 2}", 1, 0))
    table = write_rows(tmp_path / "s" / "t.csv", rows)
    for encoding in ("png", "jpeg", "raw"):
        flags = table_flags(table, *HALVES, f"--encoding={encoding}")
        status, output, folder = run_build(*flags, out=f"out_{encoding}")
        assert status == 0, output
        for path in folder.rglob("*"):
            assert b"SECRET" not in path.read_bytes(), path
        assert not (folder / shards.BUILD_FOLDER).exists()


def test_key_table_on_request(make_table, run_build, table_flags, read_records, id_key):
    flags = table_flags(make_table(), *HALVES, id_key)
    assert run_build(*flags)[0] == 0
    status, output, folder = run_build(*flags, "--write_key_table")  # also afterwards, by the key
    assert status == 0
    assert "warning" in output
    text = (folder / "key_table.csv").read_text()
    assert "SECRETPATIENT3" in text
    record = read_records(folder)["train"][0]
    line = next(line for line in text.splitlines() if record["image_id"].decode() in line)
    assert line.startswith(record["patient"].decode() + ",SECRETPATIENT")
    # Without a key file the ids differ every time and cannot be resolved later.
    other = table_flags(make_table(), *HALVES)
    assert run_build(*other, out="random")[0] == 0
    assert "random key" in run_build(*other, "--write_key_table", out="random")[1]


def test_a_key_that_others_can_read_is_warned_of(tmp_path, capsys):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 2)
    for mode, warned in ((0o600, False), (0o400, False), (0o640, True), (0o604, True)):
        key.chmod(mode)
        plan.read_key(str(key))
        output = capsys.readouterr().out
        assert (f"warning: --id_key_file={key}: others than its owner" in output) == warned


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_sixteen_bits_are_stored_exactly(
    tmp_path, make_table, run_build, table_flags, read_records, encoding, id_key
):
    table = make_table(4, dtype=np.uint16, size=(16, 20))
    flags = table_flags(table, "--valid_fraction=0", "--test_fraction=0", "--bits=16", id_key)
    status, output, folder = run_build(*flags, f"--encoding={encoding}")
    assert status == 0, output
    stored = {r["pixels"][0].tobytes() for r in read_records(folder)["train"]}
    sources = [np.asarray(Image.open(path)) for path in table.parent.rglob("*.png")]
    assert stored == {pixels.astype("<u2").tobytes() for pixels in sources}
    values = np.stack(sources) / 65535
    assert DatasetInfo.load(folder).pixel_std == pytest.approx(values.std(), abs=1e-12)


def test_several_channels(tmp_path, write_image, write_rows, run_build, read_records):
    rows: list[tuple] = [("t1", "t2", "a")]
    pixels = {}
    for i in range(4):
        for name in (f"x{i}.png", f"y{i}.png"):
            pixels[name] = write_image(tmp_path / name, (16, 20))
        rows.append((f"x{i}.png", f"y{i}.png", i % 2))
    write_image(tmp_path / "odd.png", (20, 16))
    rows.append(("odd.png", "y0.png", 1))
    table = write_rows(tmp_path / "t.csv", rows)
    flags = ("--source=table", f"--table={table}", "--path_column=t1,t2", "--observations=a")
    flags = (*flags, "--valid_fraction=0", "--test_fraction=0")
    status, output, folder = run_build(*flags)
    assert status == 2
    assert "the channels of a record must agree" in output
    status, output, folder = run_build(*flags, "--max_rejects=1")
    assert status == 0, output
    assert DatasetInfo.load(folder).channels == 2
    for record in read_records(folder)["train"]:
        first, second = (p.tobytes() for p in record["pixels"])
        name = next(name for name, p in pixels.items() if p.tobytes() == first)
        assert pixels[name.replace("x", "y")].tobytes() == second


def test_order_of_the_rows_does_not_matter(make_table, run_build, table_flags, id_key):
    table = make_table()
    assert run_build(*table_flags(table, *HALVES, id_key))[0] == 0
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    _, _, other = run_build(*table_flags(table, *HALVES, id_key), out="other")
    assert shard_bytes(other) == shard_bytes(other.parent / "out")
    _, _, seeded = run_build(*table_flags(table, *HALVES, id_key, "--seed=1"), out="seeded")
    assert shard_bytes(seeded) != shard_bytes(other)


def test_rejects_fail_then_continue(make_table, run_build, table_flags, monkeypatch):
    table = make_table()
    (table.parent / "img/SECRETFILE003.png").write_bytes(b"")
    cut = table.parent / "img/SECRETFILE008.png"
    cut.write_bytes(cut.read_bytes()[:300])
    flags = table_flags(table, *HALVES, "--records_per_shard=2")
    status, output, folder = run_build(*flags)
    assert status == 2
    assert "--max_rejects=0" in output
    assert str(folder / "rejects.csv") in output
    assert "empty file" in output or "truncated" in output
    finished = set(shard_bytes(folder))
    built = []
    real = shards.build_shard
    monkeypatch.setattr(build, "build_shard", lambda task: built.append(task.file) or real(task))
    status, output, _ = run_build(*flags, "--max_rejects=2")
    assert status == 0, output
    assert not finished & set(built)
    info = DatasetInfo.load(folder)
    assert info.rejected == 2
    assert sum(info.images.values()) == 10
    rejects = (folder / "rejects.csv").read_text()
    assert "SECRETFILE003.png,empty file" in rejects
    assert "SECRETFILE008.png" in rejects
    for split in info.images:  # gaps, where an image was left out
        index = SplitIndex.load(folder, split).index
        assert (np.diff(index) > 0).all()


def test_a_mended_image_is_tried_again(make_table, run_build, table_flags, write_image):
    table = make_table()
    bad = table.parent / "img/SECRETFILE003.png"
    bad.write_bytes(b"")
    flags = table_flags(table, *HALVES)
    assert run_build(*flags)[0] == 2
    write_image(bad)
    status, output, folder = run_build(*flags)
    assert status == 0, output
    assert DatasetInfo.load(folder).rejected == 0
    assert not (folder / "rejects.csv").exists()


def test_interrupted_build_continues_to_the_same_bytes(
    make_table, run_build, table_flags, id_key, monkeypatch
):
    flags = table_flags(make_table(), *HALVES, "--records_per_shard=2", id_key)
    assert run_build(*flags, out="whole")[0] == 0
    real, seen = shards.build_shard, []

    def failing(task):
        seen.append(task.file)
        if len(seen) == 3:
            (Path(task.folder) / f".{task.file}.tmp").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(build, "build_shard", failing)
    status, output, folder = run_build(*flags)
    assert status == 130
    assert not (folder / "dataset.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    assert len(before) == 2
    # A shard whose file was lost or cut meanwhile is made again.
    lost, kept = sorted(before)
    os.truncate(folder / lost, 10)
    monkeypatch.setattr(build, "build_shard", real)
    status, output, _ = run_build(*flags)
    assert status == 0, output
    assert "continuing: 1 of" in output
    assert (folder / kept).stat().st_mtime_ns == before[kept]
    assert shard_bytes(folder) == shard_bytes(folder.parent / "whole")
    assert not list(folder.glob(".*"))
    whole = (folder.parent / "whole" / "dataset.json").read_text()
    assert (folder / "dataset.json").read_text() == whole


def test_finished_build_is_left_alone_and_never_overwritten(make_table, run_build, table_flags):
    flags = table_flags(make_table(), *HALVES)
    _, _, folder = run_build(*flags)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    status, output, _ = run_build(*flags)
    assert status == 0
    assert "already complete" in output
    status, output, _ = run_build(*flags, "--bits=16")
    assert status == 2
    assert "other options" in output
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder.parent / "foreign").mkdir()
    (folder.parent / "foreign" / "thesis.txt").write_text("precious")
    status, output, _ = run_build(*flags, out="foreign")
    assert status == 2
    assert "expected a new or empty folder" in output


def test_unfinished_build_with_other_options_is_refused(make_table, run_build, table_flags):
    table = make_table()
    (table.parent / "img/SECRETFILE003.png").write_bytes(b"")
    assert run_build(*table_flags(table, *HALVES))[0] == 2
    status, output, _ = run_build(*table_flags(table, *HALVES, "--seed=5", "--max_rejects=1"))
    assert status == 2
    assert "unfinished build with other options" in output


def test_a_build_of_other_pixels_is_not_continued(make_table, run_build, table_flags, monkeypatch):
    """Another version may make other pixels of the same options; one folder holds one kind."""
    table = make_table()
    (table.parent / "img/SECRETFILE003.png").write_bytes(b"")
    flags = table_flags(table, *HALVES)
    assert run_build(*flags)[0] == 2
    monkeypatch.setattr(plan, "PIXELS_VERSION", 1)
    status, output, _ = run_build(*flags, "--max_rejects=1")
    assert status == 2
    assert "unfinished build with other options (pixels_version)" in output


def test_two_builds_cannot_share_a_folder(tmp_path, make_table, run_build, table_flags):
    pytest.importorskip("fcntl")
    table = make_table()
    (table.parent / "img/SECRETFILE003.png").write_bytes(b"")
    flags = table_flags(table, *HALVES)
    _, _, folder = run_build(*flags)
    with locked(folder / shards.BUILD_FOLDER / "lock", busy=pytest.fail):
        assert f"process {os.getpid()} on {socket.gethostname()}" in run_build(*flags)[1]


def test_missing_files_fail_at_once(make_table, run_build, table_flags):
    table = make_table()
    (table.parent / "img/SECRETFILE004.png").unlink()
    status, output, folder = run_build(*table_flags(table, *HALVES))
    assert status == 2
    assert "1 of 12 image files are not there" in output
    assert "labels.csv line 6" in output
    assert not folder.exists()
    status, output, folder = run_build(*table_flags(table, *HALVES, "--max_rejects=1"))
    assert status == 0, output
    assert "no such file" in (folder / "rejects.csv").read_text()
    assert (folder / "rejects.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoding=jpeg", "--bits=16"], "--encoding=jpeg holds 8 bits"),
        (["--bits=12"], "--bits=12: expected 8 or 16"),
        (["--views=frontal"], "--views is for --source=chexpert or phantom, not for table"),
        (["--data_root=/tmp"], "--data_root is for"),
        (["--jpeg_quality=50"], "--jpeg_quality is for --encoding=jpeg"),
        (["--table="], "--source=table needs --table"),
        (["--observations="], "--source=table needs --observations"),
        (
            ["--observations=a,q"],
            "no column 'q'; the file has 'path', 'person', 'a', 'b' (--observations names it)",
        ),
        (["--uncertain_policy=a=maybe"], "'a=maybe': expected one of ones, zeros, ignore"),
        (["--id_key_file=/none"], "--id_key_file=/none: no such file"),
        (["--image_root=/none"], "--image_root=/none: no such folder"),
        (["--workers=-1"], "--workers=-1: expected at least 0"),
        (["--source=mura"], "--table is for --source=chestxray14 or table, not for mura"),
        (["--no_such_flag"], "unknown flag"),
    ],
)
def test_bad_flags(make_table, run_build, table_flags, flags, message):
    status, output, folder = run_build(*table_flags(make_table(2), *flags))
    assert status == 2
    assert message in output
    assert output.count("error:") == 1
    assert not folder.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "labels.csv: empty file"),
        ("path,person,a,b\n", "a header but no rows"),
        ("path,person,a,b\nimg/SECRETFILE000.png,1,7,0\n", "line 2, column 'a': label '7'"),
        ("path,person,a,b\nnone.png,1,1,0\n", "none.png"),
    ],
)
def test_bad_tables(make_table, run_build, table_flags, content, message):
    table = make_table(2)
    table.write_text(content)
    status, output, _ = run_build(*table_flags(table))
    assert status == 2
    assert message in output


def test_patient_in_two_official_splits(tmp_path, write_image, write_rows, run_build):
    for name in ("1.png", "2.png"):
        write_image(tmp_path / name)
    rows = [("path", "who", "part", "a"), ("1.png", "x", "train", 1), ("2.png", "x", "test", 0)]
    table = write_rows(tmp_path / "t.csv", rows)
    flags = ("--source=table", f"--table={table}", "--observations=a", "--patient_column=who")
    status, output, _ = run_build(*flags, "--split_column=part")
    assert status == 2
    lines = f"(test: {table} line 3; train: {table} line 2)"
    assert f"patient 'x' is in two splits {lines}" in output


def test_limit_takes_whole_patients(make_table, run_build, table_flags):
    _, output, folder = run_build(*table_flags(make_table(), "--limit=3", *HALVES))
    assert sum(DatasetInfo.load(folder).images.values()) == 6, output


def test_test_set_alone(tmp_path, write_image, write_rows, run_build):
    write_image(tmp_path / "1.png")
    table = write_rows(tmp_path / "t.csv", [("path", "part", "a"), ("1.png", "test", 1)])
    flags = ("--source=table", f"--table={table}", "--observations=a", "--split_column=part")
    status, output, folder = run_build(*flags)
    assert status == 0, output
    assert np.isnan(DatasetInfo.load(folder).pixel_mean)
    json.loads((folder / "dataset.json").read_text(), parse_constant=pytest.fail)


def run_command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", *arguments]
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=-1, stderr=-2, text=True, **options
    )


@pytest.mark.slow
def test_worker_processes_a_killed_one_and_the_same_bytes(
    tmp_path, make_table, run_build, table_flags, id_key
):
    """With real processes: a worker is killed, the message is clear, the rest is made later."""
    flags = table_flags(make_table(40, size=(200, 240)), *HALVES, "--records_per_shard=2", id_key)
    assert run_build(*flags, "--encoding=raw", out="single")[0] == 0
    folder = tmp_path / "many"
    command = ["data_prep.build", *flags, "--encoding=raw", "--short_side=16", "--workers=2"]
    command.append(f"--out={folder}")
    process = run_command(*command)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if children.exists():
        deadline = time.time() + 60
        workers = []
        while not workers and time.time() < deadline and process.poll() is None:
            time.sleep(0.2)
            workers = [
                int(child)
                for child in children.read_text().split()
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
            ]
        os.kill(workers[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2, output
        assert "a worker process died" in output
        assert "Traceback" not in output
        process = run_command(*command)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert shard_bytes(folder) == shard_bytes(tmp_path / "single")


def test_shared_images_through_the_table_source(shared, tmp_path, run_build, read_records):
    folder = shared / "xray/nih1000"
    lines = (folder / "labels.csv").read_text().splitlines()[:21]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    flags = (
        *("--source=table", f"--table={table}", f"--image_root={folder}", "--path_column=file"),
        *("--patient_column=patient_id", "--short_side=64", *HALVES),
        "--observations=Any finding=!no_finding,Atelectasis,Pleural Effusion=Effusion",
    )
    status, output, out = run_build(*flags)
    assert status == 0, output
    info = DatasetInfo.load(out)
    assert sum(info.images.values()) == 20
    assert info.observations == ("Any finding", "Atelectasis", "Pleural Effusion")
    assert 0.2 < info.pixel_mean < 0.8
    assert {r["pixels"][0].shape for r in read_records(out)["train"]} == {(64, 64)}


def test_every_prep_flagfile_parses(monkeypatch):
    from medcolor_tf.commandline import parse

    files = sorted((ROOT / "configs").glob("prep_*.flags"))
    assert len(files) >= 5
    for file in files:
        config = parse(BuildConfig, [f"--flagfile={file.name}", "--out=x"])
        assert config.source == file.stem.removeprefix("prep_")


def mode(path):
    return path.stat().st_mode & 0o777


def test_warnings_are_counted_and_listed_for_their_owner(
    make_table, run_build, table_flags, run_merge_of, id_key
):
    table = make_table()
    for name, pixels in (
        ("003", np.zeros((24, 30), np.uint8)),
        ("007", np.full((24, 30), 255, np.uint8)),
        ("010", np.arange(720, dtype=np.uint16).reshape(24, 30)),
    ):
        Image.fromarray(pixels).save(table.parent / f"img/SECRETFILE{name}.png")
    flags = table_flags(table, *HALVES, id_key, "--records_per_shard=2")
    status, output, folder = run_build(*flags)
    assert status == 0, output
    assert "warnings: 3 images (" in output
    assert "2 constant pictures" in output
    assert "1 nearly constant pictures" in output
    assert str(folder / "warnings.csv") in output
    with (folder / "warnings.csv").open(newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["SECRETFILE003", "SECRETFILE007", "SECRETFILE010"]
    assert rows["SECRETFILE003"]["kind"] == "constant"
    assert "every pixel is 255 of 255" in rows["SECRETFILE007"]["message"]
    assert mode(folder / "warnings.csv") == 0o600
    assert "3 images" in run_build(*flags)[1]  # the finished one says it again
    for part in (1, 2):
        status, output, parts = run_build(*flags, f"--shard={part}/2", out="parts")
        assert status == 0, output
    assert mode(next(parts.glob("warnings-*-of-2.csv"))) == 0o600
    status, output = run_merge_of(parts)
    assert status == 0, output
    assert "warnings: 3 images" in output
    assert (parts / "warnings.csv").read_bytes() == (folder / "warnings.csv").read_bytes()
    assert not list(parts.glob("warnings-*"))


def test_rejects_are_for_their_owner_and_ordinary_images_have_no_warnings(
    make_table, run_build, table_flags
):
    table = make_table()
    (table.parent / "img/SECRETFILE003.png").write_bytes(b"")
    status, output, folder = run_build(*table_flags(table, *HALVES, "--max_rejects=1"))
    assert status == 0, output
    assert mode(folder / "rejects.csv") == 0o600
    assert not (folder / "warnings.csv").exists()
    assert "warnings" not in output


def test_the_range_is_spread_on_request_and_recorded(
    make_table, run_build, table_flags, read_records, id_key
):
    table = make_table(4)
    deep = np.arange(320, dtype=np.uint16).reshape(16, 20) * 10 + 50
    Image.fromarray(deep).save(table.parent / "img/SECRETFILE001.png")
    flags = (*table_flags(table, "--valid_fraction=0", "--test_fraction=0"), "--bits=16", id_key)
    status, output, plain = run_build(*flags)
    assert status == 0, output
    assert "range" not in json.loads((plain / "dataset.json").read_text())
    status, output, spread = run_build(*flags, "--range=used", out="spread")
    assert status == 0, output
    info = DatasetInfo.load(spread)
    assert info.range == "used"
    assert info.fingerprint != DatasetInfo.load(plain).fingerprint
    stored = [record["pixels"][0] for record in read_records(spread)["train"]]
    expected = np.rint((deep - 50.0) / 3190 * 65535)
    assert any(np.array_equal(pixels, expected) for pixels in stored)
    status, output, _ = run_build(*flags, out="spread")
    assert "holds a finished data set made with other options" in output


def test_data_sets_of_png_and_jpeg_keep_their_fingerprint():
    """What version 0.1 called the pixels' version stays, or its data sets could not go on."""
    recipe = plan.Recipe(32, 8, "png", 95, ("a",), {"a": "ones"}, "zeros")
    described = json.loads(plan.describe_options("table", recipe, 0, 8, 2, b"key"))
    assert "range" not in described
    assert described["pixels_version"] == 2


@pytest.mark.parametrize(("suffix", "version"), [("png", 2), ("JPG", 2), ("dcm", 3), ("tif", 3)])
def test_files_that_are_read_in_another_way_have_another_version(
    tmp_path, write_rows, suffix, version
):
    table = write_rows(tmp_path / "t.csv", [("path", "a"), (f"x.{suffix}", 1), ("y.png", 0)])
    for name in (f"x.{suffix}", "y.png"):
        (tmp_path / name).write_bytes(name.encode())
    config = BuildConfig(
        source="table", table=str(table), out="o", observations=("a",), max_rejects=2
    )
    digests = ContentDigests(tmp_path / "o")
    assert build.plan_build(config, b"key", digests).pixels_version == version


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(
    make_table, run_build, table_flags, tmp_path
):
    flags = table_flags(make_table(), *HALVES)
    before = sorted(tmp_path.rglob("*"))
    status, output, folder = run_build(*flags, "--dry_run")
    assert status == 0, output
    assert sorted(tmp_path.rglob("*")) == before
    assert f"{folder}: would hold 12 images" in output
    assert "\n12 images read: about" in output
    assert output.endswith("nothing was written\n")
    # The same tables of splits and labels as the build's.
    status, built, _ = run_build(*flags)
    assert status == 0, built
    tables = output[output.index("\ntest:") :].split("\n12 images")[0]
    assert tables in built
    assert "already complete" in run_build(*flags, "--dry_run")[1]


def test_a_dry_run_names_images_that_the_build_would_reject(
    make_table, run_build, table_flags, tmp_path
):
    flags = table_flags(make_table(), *HALVES)
    broken = sorted((tmp_path / "source").rglob("*.png"))[3]
    broken.write_bytes(b"no picture")
    status, output, _ = run_build(*flags, "--dry_run")
    assert status == 0, output
    assert f"rejected: {broken}: " in output
