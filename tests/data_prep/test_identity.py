"""Which image and which patient a row means, settled before the splits are made."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from data_prep import build
from data_prep.building import duplicates
from data_prep.building.duplicates import ContentDigests
from data_prep.options import BuildConfig
from data_prep.sources import read_source
from data_prep.sources.paths import resolve_paths, walk_files
from data_prep.sources.patients import is_unknown, normalize_id
from medcolor_tf.errors import InputError

TABLES = Path(__file__).parent / "cases" / "tables"


@pytest.fixture
def plan_case(tmp_path, write_image):
    """The function that plans a build of one of the tables of cases/, with its images drawn."""

    def plan(name, folder="case", **options):
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        table = Path(shutil.copy(TABLES / name, root))
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                write_image(root / os.path.normpath(row["path"]))
        return plan_table(table, root.parent / "out", patient_column="pid", **options)

    return plan


def plan_table(table, out, observations=("y",), **options):
    config = BuildConfig(
        source="table", table=str(table), out=str(out), observations=observations, **options
    )
    return build.plan_build(config, None, ContentDigests(Path(out)))


def splits_of(plan):
    """Returns patient -> the splits that its images are in."""
    records, splits = plan.source.records, {}
    for split, rows in plan.rows.items():
        for patient in records["patient"].to_numpy()[rows]:
            splits.setdefault(patient, set()).add(split)
    return splits


@pytest.mark.parametrize(
    ("text", "unknown"),
    [("", True), ("nan", True), ("NaN", True), ("None", True), ("NULL", True), ("p1", False)],
)
def test_unknown_patients(text, unknown):
    assert is_unknown(text) == unknown


@pytest.mark.parametrize(
    ("texts", "one"),
    [
        (("01", "1", "1.0", " 1 ", "1.", "001.00", "\uff11"), "1"),
        (("00", "0", "0.0"), "0"),
        (("P 01", "P01"), "P01"),
        (("10", "010"), "10"),
        (("1.5",), "1.5"),
        (("p1",), "p1"),
    ],
)
def test_spellings_of_an_id(texts, one):
    assert {normalize_id(text) for text in texts} == {one}


def test_an_unknown_patient_is_an_error_with_its_rows(plan_case):
    with pytest.raises(InputError) as caught:
        plan_case("unknown_patients.csv")
    message = str(caught.value)
    assert "the patient of 8 of 12 images is unknown" in message
    assert "unknown_patients.csv line 6: the patient is nan" in message
    assert "unknown_patients.csv line 7: the patient is empty" in message
    assert "and 3 more" in message
    assert "--unknown_patients=each" in message


def test_each_image_of_an_unknown_patient_is_a_patient(plan_case, capsys):
    plan = plan_case("unknown_patients.csv", unknown_patients="each")
    assert len(splits_of(plan)) == 12
    assert "the patient of 8 of 12 images is unknown" in capsys.readouterr().out
    assert (
        plan.fingerprint == plan_case("unknown_patients.csv", unknown_patients="each").fingerprint
    )


def test_several_spellings_of_an_id_are_an_error_with_their_rows(plan_case):
    with pytest.raises(InputError) as caught:
        plan_case("id_spellings.csv")
    message = str(caught.value)
    assert "4 patient ids are spelled in several ways" in message
    for line, spelling in ((5, "01"), (6, "1"), (7, "1.0")):
        assert f"id_spellings.csv line {line}: '{spelling}'" in message
    assert "--normalize_ids" in message


def test_normalized_ids_keep_a_patient_in_one_split(plan_case):
    plan = plan_case("id_spellings.csv", normalize_ids=True)
    splits = splits_of(plan)
    assert sorted(splits) == ["0", "1", "2", "3"]
    assert all(len(found) == 1 for found in splits.values())


def test_without_a_patient_column_paths_are_no_spellings(tmp_path, write_image, write_rows):
    for name in ("01", "1"):
        write_image(tmp_path / name, format="png")
    table = write_rows(tmp_path / "t.csv", [("path", "y"), ("01", 0), ("1", 1)])
    assert len(splits_of(plan_table(table, tmp_path / "out"))) == 2


def test_spellings_of_a_path_are_one_image(plan_case, capsys):
    with pytest.raises(InputError) as caught:
        plan_case("path_spellings.csv")
    message = str(caught.value)
    table = "path_spellings.csv line"
    assert f"{table} 3: image ./x/0.png was already listed in" in message
    assert f"{table} 4: image x//0.png was already listed in" in message
    assert "and 3 more" in message
    assert "--duplicates=keep_first" in message
    plan = plan_case("path_spellings.csv", duplicates="keep_first")
    assert plan.source.records["patient"].tolist() == ["a0", "a1", "a2", "a3"]
    output = capsys.readouterr().out
    assert "8 of 12 rows are left out" in output
    assert "8 of them named another patient, 8 other labels" in output


def two_names(tmp_path, write_image, write_rows, make, **columns):
    """A table whose second row names the first one's image again, made by ``make(first, second)``.

    Returns it with two more images, of patients of their own.
    """
    root = tmp_path / "s"
    for name in ("a.png", "c.png", "d.png"):
        write_image(root / "img" / name)
    (root / "other").mkdir()
    make(root / "img" / "a.png", root / "other" / "b.png")
    rows: list[tuple] = [("path", "pid", "y", *columns)]
    for i, path in enumerate(("img/a.png", "other/b.png", "img/c.png", "img/d.png")):
        rows.append((path, f"p{i}", i % 2, *(cells[i] for cells in columns.values())))
    return write_rows(root / "t.csv", rows)


WAYS = {
    "copy": shutil.copyfile,
    "hard link": os.link,
    "link": lambda first, second: second.symlink_to(first),
    "linked folder": lambda first, second: (
        second.parent.rmdir(),
        second.parent.symlink_to(first.parent),
        os.link(first, second),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_image_under_two_names_is_an_error_with_both_rows(
    tmp_path, write_image, write_rows, capsys, way
):
    table = two_names(tmp_path, write_image, write_rows, WAYS[way])
    with pytest.raises(InputError) as caught:
        plan_table(table, tmp_path / "out", patient_column="pid")
    message = str(caught.value)
    assert f"{table} line 3: image other/b.png" in message
    assert f"{table} line 2" in message
    options = {"patient_column": "pid", "duplicates": "keep_first"}
    plan = plan_table(table, tmp_path / "out", **options)
    kept = plan.source.records["path_0"].tolist()
    assert kept == ["img/a.png", "img/c.png", "img/d.png"]
    assert "1 of 4 rows are left out" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["copy", "link"])
def test_an_image_in_two_official_splits_is_always_an_error(tmp_path, write_image, write_rows, way):
    part = ("train", "test", "train", "valid")
    table = two_names(tmp_path, write_image, write_rows, WAYS[way], part=part)
    options = {"patient_column": "pid", "split_column": "part", "duplicates": "keep_first"}
    with pytest.raises(InputError) as caught:
        plan_table(table, tmp_path / "out", **options)
    message = str(caught.value)
    assert f"{table} line 3 (test): image other/b.png" in message
    assert f"{table} line 2 (train)" in message


def test_channels_make_an_image_together(tmp_path, write_image, write_rows):
    """An empty picture for a channel that is missing is no duplicate; the same record is."""
    for name in ("1.png", "2.png", "3.png"):
        write_image(tmp_path / name)
    rows = [("a", "b", "pid", "y"), ("1.png", "3.png", "x", 1), ("2.png", "3.png", "y", 0)]
    table = write_rows(tmp_path / "t.csv", rows)
    options = {"patient_column": "pid", "path_column": ("a", "b")}
    assert len(plan_table(table, tmp_path / "out", **options).source.records) == 2
    write_rows(table, [*rows, ("./1.png", "3.png", "z", 0)])
    with pytest.raises(InputError, match=r"t\.csv line 4: image \./1\.png was already listed"):
        plan_table(table, tmp_path / "out", **options)


def test_only_files_of_one_size_are_read_and_each_once(tmp_path, monkeypatch):
    read = []
    digest = duplicates.file_sha256
    monkeypatch.setattr(duplicates, "file_sha256", lambda path: read.append(path) or digest(path))
    files = [str(tmp_path / name) for name in ("a", "b", "c", "alone", "missing")]
    for file, content in zip(files, ("12", "12", "34", "5"), strict=False):
        Path(file).write_text(content)
    (tmp_path / "out" / ".build").mkdir(parents=True)
    digests = ContentDigests(tmp_path / "out")
    found = digests.of_files([*files, *files])
    assert sorted(found) == files[:3]
    assert found[files[0]] == found[files[1]] != found[files[2]]
    assert len(read) == 3
    digests.save()
    saved = tmp_path / "out" / ".build" / "digests.json"
    assert saved.stat().st_mode & 0o777 == 0o600
    assert str(tmp_path) not in saved.read_text()
    again = ContentDigests(tmp_path / "out", "2/8")  # another part, in the same folder
    assert again.of_files(files) == found
    assert len(read) == 3
    Path(files[1]).write_text("56")
    os.utime(files[1], ns=(1, 1))
    assert again.of_files(files)[files[1]] not in found.values()
    assert len(read) == 4
    saved.write_text("{")  # cut off
    ContentDigests(tmp_path / "out").of_files(files)
    assert len(read) == 7


def test_a_build_that_continues_reads_no_content_again(
    make_table, run_build, table_flags, monkeypatch
):
    table = make_table(12)
    for path in (table.parent / "img").iterdir():  # all of one size
        path.write_bytes(path.read_bytes().ljust(4000, b"\0"))
    flags = table_flags(table)
    with monkeypatch.context() as patch:
        patch.setattr(build, "run_build", lambda *arguments: pytest.fail("stop"))
        with pytest.raises(BaseException, match="stop"):
            run_build(*flags)
    monkeypatch.setattr(duplicates, "_digest", lambda file: pytest.fail("read again"))
    assert run_build(*flags)[0] == 0
    assert run_build(*flags)[0] == 0  # finished: nothing is read at all


@pytest.mark.parametrize("kind", ["dots", "absolute", "link", "folder link"])
def test_paths_that_leave_the_root_are_refused(tmp_path, write_image, write_rows, kind):
    root, outside = tmp_path / "root", tmp_path / "outside" / "o.png"
    write_image(outside)
    write_image(root / "in.png")
    path = {
        "dots": "../outside/o.png",
        "absolute": str(outside),
        "link": "link.png",
        "folder link": "folder/o.png",
    }[kind]
    (root / "link.png").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    table = write_rows(root / "t.csv", [("path", "y"), ("in.png", 0), (path, 1)])
    with pytest.raises(InputError) as caught:
        plan_table(table, tmp_path / "out")
    message = str(caught.value)
    assert "1 of 2 image paths leave the root folder" in message
    assert f"{table} line 3: {path} is {outside}" in message
    assert "--allow_outside_root" in message
    accepted = plan_table(table, tmp_path / "out", allow_outside_root=True)
    assert len(accepted.source.records) == 2


def test_paths_within_the_root_are_accepted_however_they_are_written(
    tmp_path, write_image, write_rows
):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    root = tmp_path / "root"
    for name in ("a.png", "b.png", "c.png"):
        write_image(root / name)
    rows = [("path", "y"), ("x/../a.png", 0), (str(root / "b.png"), 1), ("c.png", 1)]
    (root / "x").mkdir()
    table = write_rows(root / "t.csv", rows)
    assert len(plan_table(table, tmp_path / "out").source.records) == 3


def test_a_zero_byte_in_a_path_is_an_error_with_its_row(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,y\na\0.png,1\n")
    with pytest.raises(InputError, match=r"t\.csv line 2: image path 'a\\x00\.png'"):
        plan_table(table, tmp_path / "out")


def test_resolved_paths(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "x" / "file.png").symlink_to("target.png")
    names = ("x/1.png", "./x//1.png", "link/1.png", "x/../x/1.png", "link/file.png")
    target = str(tmp_path / "x" / "1.png")
    expected = [*[target] * 4, str(tmp_path / "x" / "target.png")]
    assert resolve_paths(tmp_path, names) == expected


def test_walks_end_on_link_loops(tmp_path, capsys):
    root = tmp_path / "root"
    (root / "b" / "inner").mkdir(parents=True)
    for name in ("a.png", "b/b.png", "b/inner/c.png"):
        (root / name).touch()
    (root / "b" / "up").symlink_to(root)
    (root / "b" / "inner" / "again").symlink_to(root / "b")
    (root / "itself").symlink_to("itself")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.png").touch()
    (root / "z").symlink_to(outside)
    found = [(os.path.relpath(folder, root), names) for folder, names in walk_files(root)]
    expected = [(".", ["a.png", "itself"]), ("b", ["b.png"]), ("b/inner", ["c.png"])]
    assert found == expected
    assert f"1 links to folders outside {root} are not followed" in capsys.readouterr().out
    found = [(os.path.relpath(folder, root), names) for folder, names in walk_files(root, True)]
    assert found == [*expected, ("z", ["o.png"])]


SAMPLE_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImageWidth,OriginalImageHeight,OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
)


def make_nih_sample(root, write_image, images=8):
    """The sample of ChestX-ray14: its own table, one folder, and the whole data set's lists."""
    names = [f"{i // 2:08d}_{i % 2:03d}.png" for i in range(images)]
    lines = [SAMPLE_HEADER]
    for i, name in enumerate(names):
        write_image(root / "sample" / "images" / name)
        finding = "Edema|Effusion" if i % 3 else "No Finding"
        lines.append(f"{name},{finding},000,{i // 2:08d},060Y,M,PA,3056,2544,0.139,0.139")
    (root / "sample_labels.csv").write_text("\n".join(lines) + "\n")
    whole = [f"{i // 2:08d}_{i % 2:03d}.png" for i in range(10 * images)]
    train, test = whole[:4] + whole[images:], whole[4:images]
    (root / "train_val_list.txt").write_text("\n".join(train) + "\n")
    (root / "test_list.txt").write_text("\n".join([*test, "99999999_000.png"]) + "\n")
    return names


def plan_nih(root, **options):
    config = BuildConfig(
        source="chestxray14", data_root=str(root), out=str(root / "out"), **options
    )
    return build.plan_build(config, None, ContentDigests(root / "out"))


def test_the_nih_sample_with_the_official_lists(tmp_path, write_image, capsys):
    names = make_nih_sample(tmp_path, write_image)
    with pytest.raises(InputError, match=r"line 5: image .* is not in .*; --missing=skip leaves"):
        plan_nih(tmp_path)
    plan = plan_nih(tmp_path, missing="skip", valid_fraction=0.5)
    output = capsys.readouterr().out
    assert "train_val_list.txt: 4 of 76 images are in sample_labels.csv" in output
    assert "test_list.txt: 4 of 5 images are in sample_labels.csv" in output
    assert len(plan.rows["test"]) == 4
    assert len(plan.rows["train"]) + len(plan.rows["valid"]) == 4
    tested = plan.source.records["path_0"][plan.rows["test"]]
    assert sorted(Path(path).name for path in tested) == names[4:]


def test_some_nih_archives_unpacked(tmp_path, write_image, capsys):
    names = make_nih_sample(tmp_path, write_image)
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:4]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[4:]))
    for name in (names[0], names[5], names[6]):
        (tmp_path / "sample" / "images" / name).unlink()
    with pytest.raises(InputError, match=r"(?s)3 of 8 image files are not there.*--missing=skip"):
        plan_nih(tmp_path)
    plan = plan_nih(tmp_path, missing="skip", valid_fraction=0.0)
    assert {split: len(rows) for split, rows in plan.rows.items()} == {"train": 3, "test": 2}
    output = capsys.readouterr().out
    assert "3 of 8 images are left out" in output
    assert "3 of 4 of the official train, 2 of 4 of the official test" in output
    shutil.rmtree(tmp_path / "sample")
    with pytest.raises(InputError, match="none of the 8 image files is there"):
        plan_nih(tmp_path, missing="skip")


def test_a_table_of_pa_views_alone(tmp_path, write_image):
    names = make_nih_sample(tmp_path, write_image)
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:4]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[4:]))
    lines = (tmp_path / "sample_labels.csv").read_text().splitlines()
    table = tmp_path / "pa.csv"
    table.write_text("\n".join([lines[0], *lines[2::2]]))
    plan = plan_nih(tmp_path, table=str(table), missing="skip", valid_fraction=0.0)
    assert {split: len(rows) for split, rows in plan.rows.items()} == {"train": 2, "test": 2}


def test_nih_folders_with_link_loops_and_outside_links(tmp_path, write_image):
    root = tmp_path / "nih"
    make_nih_sample(root, write_image)
    (root / "sample" / "loop").symlink_to(root)
    plan_nih(root, missing="skip")
    (root / "sample" / "images").rename(tmp_path / "elsewhere")
    (root / "sample" / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="none of the 8 image files is there"):
        plan_nih(root, missing="skip")
    plan = plan_nih(root, missing="skip", allow_outside_root=True)
    assert len(plan.source.records) == 8


def make_chexpert(root, write_image, write_rows):
    for file, patients in (("train", (1, 2, 3)), ("valid", (64541,))):
        rows: list[tuple] = [("Path", "Edema")]
        for patient in patients:
            path = f"{file}/patient{patient:05d}/study1/view1_frontal.jpg"
            write_image(root / path, seed=patient)
            rows.append((f"CheXpert-v1.0/{path}", 1.0))
        write_rows(root / f"{file}.csv", rows)


def test_a_part_of_chexpert(tmp_path, write_image, write_rows, capsys):
    make_chexpert(tmp_path, write_image, write_rows)
    shutil.rmtree(tmp_path / "train" / "patient00002")
    options = {"source": "chexpert", "data_root": str(tmp_path), "observations": ("Edema",)}
    config = BuildConfig(out=str(tmp_path / "out"), missing="skip", valid_fraction=0.0, **options)
    digests = ContentDigests(tmp_path / "out")
    plan = build.plan_build(config, None, digests)
    assert {split: len(rows) for split, rows in plan.rows.items()} == {"train": 2, "test": 1}
    assert "1 of 4 images are left out" in capsys.readouterr().out
    (tmp_path / "valid.csv").unlink()
    plan = build.plan_build(config, None, digests)
    assert {split: len(rows) for split, rows in plan.rows.items()} == {"train": 2}
    assert "no valid.csv" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"valid\.csv: no such file"):
        read_source(BuildConfig(**options))


def test_new_options_leave_old_fingerprints(make_table, tmp_path):
    """Options that change no record of a clean table change no fingerprint either."""
    options = {"observations": ("a", "b"), "patient_column": "person"}
    table = make_table(12)
    plain = plan_table(table, tmp_path / "out", **options).fingerprint
    # Recorded before there were such options.
    assert plain == "22b6fb6ed116c98aac28897dc509a1f3fff2ccb490d69f67f5a7e7f345ab54e3"
    for more in (
        {"unknown_patients": "each"},
        {"duplicates": "keep_first"},
        {"missing": "skip"},
        {"allow_outside_root": True},
        {"normalize_ids": True},
    ):
        assert plan_table(table, tmp_path / "out", **options, **more).fingerprint == plain
