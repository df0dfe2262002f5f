"""Groups and studies: what is stored of them, what is refused, and that nothing else changes."""

import csv
import hashlib
import json

import numpy as np
import pytest

from data_prep import merge, verify
from data_prep.building.groups import age_band, parse_bands, settle_groups
from data_prep.options import BuildConfig
from data_prep.sources import read_source
from medcolor_tf.data.groups import SplitGroups, cross
from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.errors import InputError
from tests.data_prep.test_sources import NIH_HEADER, make_chexpert

GROUPS = ("--group_columns=sex=gender,age,site", "--group_min_patients=2", "--study_column=exam")


@pytest.fixture
def table(tmp_path, write_image, write_rows):
    """18 images of 9 patients, two a patient and exam; one site of one patient, one age unknown."""
    rows: list[tuple] = [("path", "person", "a", "b", "gender", "age", "site", "exam", "note")]
    for i in range(18):
        patient = i // 2
        write_image(tmp_path / "source" / f"{i}.png")
        rows.append(
            (
                *(f"{i}.png", f"P{patient}", i % 2, 1 - i % 2, "mF"[patient % 2]),
                ("057Y", "33.0", "411")[patient % 3],
                "RAREPLACE" if patient == 4 else ("North", "north ")[patient % 2],
                *(f"SECRETEXAM{patient}", f"n{i}"),
            )
        )
    return write_rows(tmp_path / "source" / "labels.csv", rows)


@pytest.fixture
def flags(table, table_flags, tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 2)
    return table_flags(
        table,
        *("--valid_fraction=0.2", "--test_fraction=0.3", "--records_per_shard=4"),
        f"--id_key_file={key}",
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_groups_and_studies_stand_beside_the_same_shards(flags, run_build, table, tmp_path):
    status, text, plain = run_build(*flags, "--write_key_table", out="plain")
    assert status == 0, text
    assert "group " not in text
    status, text, folder = run_build(*flags, *GROUPS)
    assert status == 0, text
    assert "site: 1 values of fewer than 2 patients (2 images) became 'other'" in text
    assert "age: 6 images have no age from 0 to 130 ('411'): unknown" in text
    assert "group sex, images: female 8, male 10" in text
    before, after = contents(plain), contents(folder)
    info = json.loads(after.pop("dataset.json"))
    digests = {f"groups-{s}.csv": digest for s, digest in info["groups"]["sha256"].items()}
    for name, digest in digests.items():
        assert hashlib.sha256(after.pop(name)).hexdigest() == digest
    described = json.loads(before.pop("dataset.json"))
    del before["key_table.csv"]
    assert after == before, "shards and index are the same bytes"
    assert {k: v for k, v in info.items() if k not in ("groups", "sha256")} == {
        k: v for k, v in described.items() if k != "sha256"
    }
    assert info["groups"]["columns"]["age"] == ["18-39", "40-59", "unknown"]
    with (plain / "key_table.csv").open() as file:
        path_of = {row["image_id"]: row["source_path"] for row in csv.DictReader(file)}
    with table.open() as file:
        expected = {row["path"]: row for row in csv.DictReader(file)}
    seen: dict[str, set] = {}
    for split in ("train", "valid", "test"):
        groups = SplitGroups.load(folder, split, DatasetInfo.load(folder).groups)
        assert groups.study is not None
        for i, image_id in enumerate(groups.image_id):
            row = expected[path_of[image_id]]
            sex, site, age = (groups.columns[name][i] for name in ("sex", "site", "age"))
            assert sex == {"m": "male", "F": "female"}[row["gender"]]
            assert site == ("other" if row["site"] == "RAREPLACE" else "North")
            assert age == {"057Y": "40-59", "33.0": "18-39", "411": "unknown"}[row["age"]]
            seen.setdefault(row["exam"], set()).add(groups.study[i])
    assert len(seen) == 9
    assert all(len(ids) == 1 for ids in seen.values())
    assert run_build(*flags, *GROUPS, "--write_key_table")[0] == 0
    with (folder / "key_table.csv").open() as file:
        named = {row["source_study"]: {row["study"]} for row in csv.DictReader(file)}
    assert named == seen
    (folder / "key_table.csv").unlink()
    for name, content in contents(folder).items():
        for secret in (b"RAREPLACE", b"SECRETEXAM", b"057Y", b"411"):
            assert secret not in content, name


def test_verify_and_merge_know_the_file(flags, run_build, capsys):
    _, _, whole = run_build(*flags, *GROUPS, out="whole")
    for part in (1, 2):
        status, text, _ = run_build(*flags, *GROUPS, f"--shard={part}/2", out=f"part{part}")
        assert status == 0, text
    out = whole.parent / "merged"
    assert merge.main([str(whole.parent / f"part{n}") for n in (1, 2)] + [f"--out={out}"]) == 0
    assert contents(out) == contents(whole)
    assert verify.main([str(out), "--workers=1"]) == 0
    path = SplitGroups.path(out, "test")
    head, *rows = path.read_text().splitlines()
    study = rows[0].split(",")[1]
    moved = [",".join([row.split(",")[0], study, *row.split(",")[2:]]) for row in reversed(rows)]
    path.write_text("\n".join([head, *moved]) + "\n")
    capsys.readouterr()
    assert verify.main([str(out), "--workers=1"]) == 1
    assert "groups-test.csv: cannot be read as a split's groups (SHA-256" in capsys.readouterr().out
    # The right digest, rows in another order, and one study for all.
    info = json.loads((out / "dataset.json").read_text())
    info["groups"]["sha256"]["test"] = hashlib.sha256(path.read_bytes()).hexdigest()
    del info["sha256"]
    (out / "dataset.json").write_text(json.dumps(info))
    assert verify.main([str(out), "--workers=1"]) == 1
    said = capsys.readouterr().out
    assert "its images are not those of the records" in said
    assert "studies have images of several patients" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--group_columns=gendr", "no column 'gendr' (did you mean 'gender'?)"),
        ("--group_columns=sex=gender,sex=site", "'sex' is given 2 times"),
        ("--group_columns=study=site", "expected COLUMN, NAME=COLUMN or NAME=dicom:ELEMENT"),
        ("--group_columns=x=dicom:PatientName", "expected one of dicom:PatientSex"),
        ("--group_columns=sex=dicom:PatientSex", "0.png: not a DICOM file"),
        ("--group_columns=note", "note has 18 values for 9 patients: it would tell who"),
        ("--age_bands=40,60", "--age_bands without --group_columns"),
        ("--study_column=exams", "no column 'exams' (did you mean 'exam'?)"),
        ("--study_column=dicom:PatientID", "expected a column, or dicom:StudyInstanceUID"),
    ],
)
def test_what_cannot_be_a_group_or_study(flags, run_build, given, message):
    status, text, folder = run_build(*flags, given)
    assert status == 2
    assert message in text
    assert not folder.exists()


def test_unknown_studies_are_an_error_or_one_each(flags, run_build, table):
    table.write_text(table.read_text().replace("SECRETEXAM3", "nan"))
    status, text, _ = run_build(*flags, "--study_column=exam")
    assert status == 2
    assert "the study of 2 of 18 images is empty, nan, none or null" in text
    assert "labels.csv line 8" in text
    status, text, folder = run_build(*flags, "--study_column=exam", "--unknown_patients=each")
    assert status == 0, text
    groups = DatasetInfo.load(folder).groups
    assert groups is not None
    assert sum(groups.studies.values()) == 10


def test_other_groups_are_another_data_set(flags, run_build):
    assert run_build(*flags, *GROUPS)[0] == 0
    assert "already complete" in run_build(*flags, *GROUPS)[1]
    status, text, _ = run_build(*flags)
    assert status == 2
    assert "finished with other --group_columns or --study_column" in text
    assert run_build(*flags, "--shard=1/2", out="part")[0] == 0
    status, text, _ = run_build(*flags, *GROUPS, "--shard=2/2", out="part")
    assert status == 2
    assert "unfinished build with other groups or studies" in text


def test_ages():
    edges = parse_bands(("18", "40", "60", "80"))
    cells = ["0", "17.9", "18", "006M", "3W", "012D", "080Y", "130", "131", "old", "-4", "1e1"]
    bands = ["0-17", "0-17", "18-39", *["0-17"] * 3, "80+", "80+", None, None, None, None]
    assert [age_band(cell, edges) for cell in cells] == bands
    for wrong in (("a",), ("3",), ("18", "20"), ("60", "40"), ("91",), ()):
        with pytest.raises(InputError, match="at least 5 years apart"):
            parse_bands(wrong)


def settled(**options):
    config = BuildConfig(group_min_patients=1, **options)
    source, _ = settle_groups(read_source(config), config)
    names = [f"group {name}" for name in source.group_names]
    studies = source.records["study"].tolist() if source.has_studies else []
    return source.records[names].to_numpy().tolist(), [study.split("\0") for study in studies]


def test_chexpert_has_them_in_its_tables_and_paths(tmp_path, write_image, write_rows, capsys):
    root = make_chexpert(tmp_path, write_image, write_rows)
    write_image(root / "test/patient64741/study1/view1_frontal.jpg")
    path = "test/patient64741/study1/view1_frontal.jpg"
    test_csv = write_rows(tmp_path / "test.csv", [("Path", "Edema"), (path, 1)])
    rows, studies = settled(
        source="chexpert",
        data_root=str(root),
        test_csv=str(test_csv),
        observations=("Edema",),
        group_columns=("sex", "age", "view", "projection"),
        study_column="path",
    )
    assert rows[:2] == [["male", "40-59", view, "AP"] for view in ("Frontal", "Lateral")]
    assert rows[-1] == ["unknown"] * 4
    assert "test.csv has no column 'Sex': unknown" in capsys.readouterr().out
    assert studies[0] == studies[1] == ["patient00001", "study1"]
    with pytest.raises(InputError, match="--study_column=Sex: expected path"):
        settled(source="chexpert", data_root=str(root), study_column="Sex")


def test_mura_has_them_in_its_paths(tmp_path, write_image, write_rows):
    for file, split in (("train_image_paths.csv", "train"), ("valid_image_paths.csv", "valid")):
        rows = [
            (f"MURA-v1.1/{split}/XR_{part}/patient0000{p}/study{study}_positive/image1.png",)
            for p, part, study in ((1, "SHOULDER", 1), (1, "SHOULDER", 2), (2, "ELBOW", 1))
        ]
        write_rows(tmp_path / file, rows)
        for (path,) in rows:
            write_image(tmp_path / path.removeprefix("MURA-v1.1/"))
    options = {"source": "mura", "data_root": str(tmp_path), "body_part": "all"}
    rows, studies = settled(**options, group_columns=("body_part",), study_column="path")
    assert rows == [["shoulder"], ["shoulder"], ["elbow"]] * 2
    assert studies[:3] == [
        ["patient00001", "SHOULDER/study1"],
        ["patient00001", "SHOULDER/study2"],
        ["patient00002", "ELBOW/study1"],
    ]
    with pytest.raises(InputError, match="sex: MURA has no tables; expected body_part"):
        settled(**options, group_columns=("sex",))


def test_chestxray14_has_them_in_its_table(tmp_path, write_image):
    lines = [NIH_HEADER, "1_0.png,Effusion,0,1,058,M,PA,2500,2048,0.1,0.1"]
    (tmp_path / "Data_Entry.csv").write_text("\n".join(lines) + "\n")
    write_image(tmp_path / "images" / "1_0.png")
    rows, _ = settled(
        source="chestxray14",
        data_root=str(tmp_path),
        observations=("Edema",),
        group_columns=("sex", "age", "view"),
    )
    assert rows == [["male", "40-59", "PA"]]


def test_dicom_headers_give_what_is_asked_for(tmp_path, write_rows):
    pytest.importorskip("pydicom")
    from tests.data_prep.test_dicom import dataset, write

    write(
        tmp_path / "a.dcm",
        dataset(PatientSex="F", PatientAge="007M", ViewPosition="PA", StudyInstanceUID="1.2.9"),
    )
    write(tmp_path / "b.dcm", dataset(Manufacturer="Maker  of X", StudyInstanceUID="1.2.8"))
    rows = [("path", "a"), ("a.dcm", 1), ("b.dcm", 0), ("missing.dcm", 0)]
    found, studies = settled(
        source="table",
        table=str(write_rows(tmp_path / "labels.csv", rows)),
        observations=("a",),
        group_columns=("dicom:PatientSex", "age=dicom:PatientAge", "site=dicom:Manufacturer"),
        study_column="dicom:StudyInstanceUID",
        unknown_patients="each",
    )
    assert found[0] == ["female", "0-17", "unknown"]
    assert found[1] == ["unknown", "unknown", "Maker of X"]
    assert found[2] == ["unknown"] * 3
    assert [study[1] for study in studies][:2] == ["1.2.9", "1.2.8"]


def test_intersections_are_unknown_where_a_part_is():
    columns = {
        "sex": np.array(["male", "female", "male"]),
        "view": np.array(["AP", "unknown", "PA"]),
    }
    assert cross(columns, "sex*view").tolist() == ["male, AP", "unknown", "male, PA"]
    assert cross(columns, "view").tolist() == ["AP", "unknown", "PA"]
