"""Each source in its official layout, read as the build reads it."""

import dataclasses

import numpy as np
import pytest

from data_prep import options, phantom
from data_prep.building.duplicates import settle_listed_twice
from data_prep.options import BuildConfig
from data_prep.sources import SOURCES, chexpert, read_source
from medcolor_tf.data.labels import PAPER_POLICY
from medcolor_tf.data.schema import DatasetInfo
from medcolor_tf.errors import InputError

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    '"OriginalImage[Width,Height]","OriginalImagePixelSpacing[x,y]"'
)
# The file of 2017 has no quotes and ends in a comma.
NIH_HEADER_2017 = NIH_HEADER.replace('"', "") + ","


def make_chexpert(root, write_image, write_rows, name="CheXpert-v1.0-small", header=None):
    header = header or ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *chexpert.FOURTEEN)
    for file, patients in (("train", (1, 2, 3)), ("valid", (64541,))):
        rows = [header]
        for patient in patients:
            for number, view in ((1, "Frontal"), (2, "Lateral")):
                path = f"{file}/patient{patient:05d}/study1/view{number}_{view.lower()}.jpg"
                write_image(root / path)
                cells = dict.fromkeys(chexpert.FOURTEEN, "")
                cells.update({"Edema": "-1.0", "Cardiomegaly": "1.0", "Atelectasis": "0.0"})
                fixed = {"Path": f"{name}/{path}", "Sex": "Male", "Age": "50"}
                fixed.update({"Frontal/Lateral": view, "AP/PA": "AP"})
                rows.append([{**fixed, **cells}[column] for column in header])
        write_rows(root / f"{file}.csv", rows)
    return root


@pytest.mark.parametrize("name", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
def test_chexpert_layouts(tmp_path, write_image, write_rows, name):
    root = make_chexpert(tmp_path / "renamed", write_image, write_rows, name)
    source = read_source(BuildConfig(source="chexpert", data_root=str(root)))
    assert source.observations == tuple(PAPER_POLICY)
    assert all((source.root / path).is_file() for path in source.records["path_0"])
    assert source.records["split"].tolist() == ["train"] * 6 + ["test"] * 2
    assert set(source.records["patient"]) == {
        *("patient00001", "patient00002", "patient00003", "patient64541")
    }
    expected = [0, 1, np.nan, -1, np.nan]
    np.testing.assert_array_equal(source.raw, np.tile(np.array(expected, np.float32), (8, 1)))


def test_chexpert_columns_go_by_name_and_views_are_chosen(tmp_path, write_image, write_rows):
    shuffled = (*reversed(chexpert.FOURTEEN), "Frontal/Lateral", "Age", "AP/PA", "Sex", "Path")
    root = make_chexpert(tmp_path, write_image, write_rows, header=shuffled)
    for view in ("frontal", "lateral"):
        config = BuildConfig(
            source="chexpert", data_root=str(root), views=view, observations=("Edema", "Fracture")
        )
        source = read_source(config)
        assert len(source.records) == len(source.raw) == 4
        assert all(path.endswith(f"_{view}.jpg") for path in source.records["path_0"])
        np.testing.assert_array_equal(source.raw[0], [-1, np.nan])


def test_chexpert_test_csv_makes_valid_official(tmp_path, write_image, write_rows):
    root = make_chexpert(tmp_path, write_image, write_rows)
    rows: list[tuple] = [("Path", *PAPER_POLICY)]
    for view in ("view1_frontal", "view2_lateral"):
        path = f"test/patient64741/study1/{view}.jpg"
        write_image(root / path)
        rows.append((path, 0, 1, 0, 1, 0))
    test_csv = str(write_rows(tmp_path / "test.csv", rows))
    config = BuildConfig(source="chexpert", data_root=str(root), test_csv=test_csv, views="frontal")
    source = read_source(config)
    assert source.records["split"].tolist() == ["train"] * 3 + ["valid", "test"]


def test_chexpert_errors(tmp_path, write_image, write_rows):
    config = BuildConfig(source="chexpert", data_root=str(tmp_path))
    with pytest.raises(InputError, match=r"train\.csv: no such file"):
        read_source(config)
    make_chexpert(tmp_path, write_image, write_rows)
    config = BuildConfig(source="chexpert", data_root=str(tmp_path), observations=("Nodule",))
    with pytest.raises(InputError, match=r"train\.csv: no column 'Nodule'.*'Edema'"):
        read_source(config)
    text = (tmp_path / "valid.csv").read_text().replace("50,Lateral", "50,Sideways")
    (tmp_path / "valid.csv").write_text(text)
    config = BuildConfig(source="chexpert", data_root=str(tmp_path), views="frontal")
    with pytest.raises(InputError, match=r"valid\.csv line 3: view 'Sideways'; expected Frontal"):
        read_source(config)


def make_nih(root, write_image, header, cells="2682,2749,0.143,0.143"):
    names = ["00000001_000.png", "00000001_001.png", "00000002_000.png", "00000003_000.png"]
    labels = ["Effusion|Edema", "No Finding", "Atelectasis", "Hernia|Effusion"]
    lines = [header]
    end = "," if header.endswith(",") else ""
    for name, label, patient in zip(names, labels, ("1", "1", "2", "3"), strict=True):
        lines.append(f"{name},{label},0,{patient},58,M,PA,{cells}{end}")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    for i, name in enumerate(names):
        write_image(root / f"images_{i % 2 + 1:03d}" / "images" / name)
    return names


@pytest.mark.parametrize("header", [NIH_HEADER, NIH_HEADER_2017])
def test_chestxray14_layouts(tmp_path, write_image, header):
    names = make_nih(tmp_path, write_image, header)
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:3]))
    (tmp_path / "test_list.txt").write_text(names[3] + "\n")
    source = read_source(BuildConfig(source="chestxray14", data_root=str(tmp_path)))
    assert source.observations == tuple(PAPER_POLICY)
    assert source.records["split"].tolist() == ["train"] * 3 + ["test"]
    assert source.records["patient"].tolist() == ["1", "1", "2", "3"]
    assert all((tmp_path / path).is_file() for path in source.records["path_0"])
    expected = [[0, 0, 0, 1, 1], [0] * 5, [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(source.raw, expected)


def test_chestxray14_without_lists_and_with_other_observations(tmp_path, write_image):
    make_nih(tmp_path, write_image, NIH_HEADER)
    config = BuildConfig(
        source="chestxray14",
        data_root=str(tmp_path),
        observations=("Any finding=!No Finding", "Effusion", "Hernia"),
    )
    source = read_source(config)
    assert source.observations == ("Any finding", "Pleural Effusion", "Hernia")
    np.testing.assert_array_equal(source.raw, [[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])
    assert set(source.records["split"]) == {""}


def test_chestxray14_errors(tmp_path, write_image):
    names = make_nih(tmp_path, write_image, NIH_HEADER)
    config = BuildConfig(source="chestxray14", data_root=str(tmp_path))
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:3]))
    with pytest.raises(InputError, match=r"test_list\.txt: no such file"):
        read_source(config)
    (tmp_path / "test_list.txt").write_text(names[0])
    with pytest.raises(InputError, match=r"test_list\.txt line 1: image 00000001_000.png is in"):
        read_source(config)
    (tmp_path / "test_list.txt").write_text("none.png")
    with pytest.raises(InputError, match=r"image none\.png is not in"):
        read_source(config)
    for name in ("train_val_list.txt", "test_list.txt"):
        (tmp_path / name).unlink()
    table_file = tmp_path / "Data_Entry_2017.csv"
    table_file.write_text(table_file.read_text().replace("Hernia|", "Hernja|"))
    with pytest.raises(InputError, match=r"line 5, column 'Finding Labels': 'Hernja\|Effusion'"):
        read_source(config)


def make_mura(root, write_image):
    train = [
        "MURA-v1.1/train/XR_SHOULDER/patient00001/study1_positive/image1.png",
        "MURA-v1.1/train/XR_SHOULDER/patient00001/study2_negative/image1.png",
        "MURA-v1.1/train/XR_ELBOW/patient00001/study1_positive/image1.png",
        "MURA-v1.1/train/XR_SHOULDER/patient00002/study1_negative/image1.png",
    ]
    valid = ["MURA-v1.1/valid/XR_SHOULDER/patient11185/study1_positive/image1.png"]
    for name, paths in (("train", train), ("valid", valid)):
        root.mkdir(exist_ok=True)
        (root / f"{name}_image_paths.csv").write_text("\n".join(paths) + "\n")
        for path in paths:
            write_image(root / path.partition("/")[2])
    return root


def test_mura_without_header(tmp_path, write_image):
    root = make_mura(tmp_path / "m", write_image)
    source = read_source(BuildConfig(source="mura", data_root=str(root)))
    assert source.observations == ("Abnormal",)
    assert source.raw.ravel().tolist() == [1, 0, 0, 1]
    assert source.records["split"].tolist() == ["train"] * 3 + ["test"]
    assert all((root / path).is_file() for path in source.records["path_0"])
    every = read_source(BuildConfig(source="mura", data_root=str(root), body_part="all"))
    assert every.records["patient"].tolist().count("patient00001") == 3
    with pytest.raises(InputError, match="no image of --body_part=hand"):
        read_source(BuildConfig(source="mura", data_root=str(root), body_part="hand"))
    (root / "train_image_paths.csv").write_text("path\n")
    with pytest.raises(InputError, match=r"train_image_paths\.csv line 1: path 'path'; expected"):
        read_source(BuildConfig(source="mura", data_root=str(root)))


def read_table(path, **flags):
    flags = {"observations": ("a", "c=!b"), **flags}
    return read_source(BuildConfig(source="table", table=str(path), **flags))


def test_table_splits_renaming_and_channels(tmp_path, write_rows, capsys):
    header = ("t1", "t2", "who", "part", "a", "b")
    rows = [("1.png", "2.png", "x", "Training", 1, 0), ("3.png", "4.png", "y", "dev", -1, "")]
    path = write_rows(tmp_path / "t.tsv", [header, *rows], delimiter="\t")
    options = {"path_column": ("t1", "t2"), "patient_column": "who", "split_column": "part"}
    source = read_table(path, **options)
    assert source.channels == 2
    assert source.records["path_1"].tolist() == ["2.png", "4.png"]
    assert source.records["split"].tolist() == ["train", "valid"]
    assert source.observations == ("a", "c")
    np.testing.assert_array_equal(source.raw, [[1, 1], [-1, np.nan]])
    assert "warning" not in capsys.readouterr().out
    alone = read_table(path, path_column=("t1",))
    assert len(set(alone.records["patient"])) == 2
    assert "patient of its own" in capsys.readouterr().out
    write_rows(path, [header, (*rows[0][:3], "maybe", 1, 0)], delimiter="\t")
    with pytest.raises(InputError, match=r"t\.tsv line 2, column 'part': split 'maybe'; expected"):
        read_table(path, **options)


def test_table_refuses_repeated_images(tmp_path, write_rows):
    header = ("path", "who", "a", "b")
    path = write_rows(tmp_path / "t.csv", [header, ("1.png", "x", 1, 0), ("1.png", "y", 1, 0)])
    with pytest.raises(InputError, match=r"line 3: image 1\.png was already listed in .* line 2"):
        settle_listed_twice(read_table(path), "error")


def two_patients(root, write_image, write_rows, source):
    """A download of the source with two patients, as small as it can be; returns the flags."""
    if source == "chexpert":
        for split, patient in (("train", "patient00001"), ("valid", "patient64541")):
            path = f"{split}/{patient}/study1/view1_frontal.jpg"
            write_image(root / path, seed=int(patient[-5:]))
            rows = [("Path", *PAPER_POLICY), (f"CheXpert-v1.0/{path}", 1, "-1.0", "", 0, 0)]
            write_rows(root / f"{split}.csv", rows)
    elif source == "chestxray14":
        rows = [("Image Index", "Finding Labels", "Patient ID")]
        for name, findings in (("1_0.png", "Edema|Effusion"), ("2_0.png", "No Finding")):
            write_image(root / "images" / name)
            rows.append((name, findings, name[0]))
        write_rows(root / "Data_Entry_2017.csv", rows)
    elif source == "mura":
        studies = {"train": "patient1/study1_positive", "valid": "patient2/study1_negative"}
        for split, study in studies.items():
            path = f"{split}/XR_SHOULDER/{study}/image1.png"
            write_image(root / path, seed=int(study[7]))
            write_rows(root / f"{split}_image_paths.csv", [(f"MURA-v1.1/{path}",)])
    elif source == "table":
        rows = [("path", "patient", "label"), ("a.png", "x", 1), ("b.png", "y", "")]
        for row in rows[1:]:
            write_image(root / row[0])
        table = write_rows(root / "labels.csv", rows)
        return [f"--table={table}", "--observations=label", "--patient_column=patient"]
    elif source == "phantom":  # draws its own; one patient of each split
        return [f"--data_root={root}", "--phantom_images=4", "--limit=1"]
    else:
        pytest.fail(f"write a tiny download of the source {source} here")
    return [f"--data_root={root}"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_read_and_built(tmp_path, write_image, write_rows, run_build, source):
    entry = SOURCES[source]
    flags = two_patients(tmp_path / "download", write_image, write_rows, source)
    status, output, folder = run_build(f"--source={source}", *flags)
    assert status == 0, output
    info = DatasetInfo.load(folder)
    assert info.source == source
    assert sum(info.patients.values()) == 2
    assert info.blank_policy == entry.blank_policy
    if entry.observations:
        assert info.observations == entry.observations
    assert info.observations
    status, output, _ = run_build("--help")
    assert f"{source}: {entry.title}" in " ".join(output.split())  # --help wraps its lines


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_takes_its_own_options_and_refuses_those_of_others(source):
    fields = {field.name: field for field in dataclasses.fields(BuildConfig)}
    own = SOURCES[source].option_names()
    assert set(own) <= set(fields)
    others = {name for entry in SOURCES.values() for name in entry.option_names()} - set(own)
    required = {"data_root": "x", "table": "x"}
    base = {"source": source} | {name: required[name] for name in required if name in own}
    options.check(BuildConfig(**base))
    for name in others:
        value = {str: "x", int: 3}.get(type(fields[name].default), ("x",))
        with pytest.raises(InputError, match=rf"--{name} is for --source=.*, not for {source}$"):
            options.check(BuildConfig(**base, **{name: value}))


def test_a_phantom_of_too_few_images_names_the_flag(tmp_path):
    config = BuildConfig(source="phantom", data_root=str(tmp_path), phantom_images=3)
    with pytest.raises(InputError, match=r"--phantom_images=3: expected at least 4"):
        read_source(config)


def test_phantom_is_chexpert_and_deterministic(tmp_path):
    def make(name, images=10, seed=3):
        config = phantom.PhantomConfig(
            out=str(tmp_path / name), images=images, seed=seed, short_side=64
        )
        phantom.generate(config)
        return sorted((tmp_path / name).rglob("*.jpg"))

    first, again, other = make("a"), make("b"), make("c", seed=4)
    assert len(first) == 10
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert first[0].read_bytes() != other[0].read_bytes()
    make("a")  # a second time changes nothing
    with pytest.raises(InputError, match="choose another folder"):
        make("a", seed=9)
    source = read_source(BuildConfig(source="chexpert", data_root=str(tmp_path / "a")))
    assert len(source.records) == 10
    assert list(source.records["split"]).count("test") == 2


def test_phantom_has_every_kind_of_cell(tmp_path):
    rows = []
    for patient in range(1, 200):
        rng = np.random.default_rng([0, patient, 1])
        rows += [phantom._draw_label(rng, name, "train").cell for name in phantom.FINDINGS]
    shares = {text: rows.count(text) / len(rows) for text in set(rows)}
    assert shares["-1.0"] == pytest.approx(0.08, abs=0.03)
    assert 0.03 < shares[""] < 0.12
    assert 0.25 < shares["1.0"] < 0.45


def test_phantom_findings_change_the_picture():
    from data_prep.phantom_drawing import FINDINGS, draw, make_anatomy

    anatomy = make_anatomy(np.random.default_rng(0), False)
    for view in ("frontal", "lateral"):
        plain = dict.fromkeys(FINDINGS, 0.0)
        for name in FINDINGS:
            images = [
                draw(np.random.default_rng(1), anatomy, {**plain, name: strength}, view, (80, 64))
                for strength in (0.0, 1.0)
            ]
            assert images[0].dtype == np.uint8
            changed = np.abs(images[0].astype(int) - images[1]) > 25
            assert changed.mean() > 0.01, (view, name)


def test_an_interrupted_drawing_is_drawn_again_and_a_finished_one_kept(tmp_path, monkeypatch):
    config = phantom.PhantomConfig(out=str(tmp_path / "p"), images=6, short_side=32)
    with monkeypatch.context() as patch:
        patch.setattr(phantom.csv, "writer", None)  # stops after the images, before the tables
        with pytest.raises(TypeError):
            phantom.generate(config)
    phantom.generate(config)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*.*")}
    assert sum(path.suffix == ".jpg" for path in times) == 6
    phantom.generate(config)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*.*")}
    with pytest.raises(InputError, match=r"phantom.json: a phantom with .*'images': 6"):
        phantom.generate(phantom.PhantomConfig(out=str(tmp_path / "p"), images=7, short_side=32))
