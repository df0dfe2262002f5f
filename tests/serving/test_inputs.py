"""What predict is given: files, folders and tables, read by data preparation's own readers."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from data_prep.images import IMAGE_SUFFIXES, read_image
from data_prep.tables import read_table
from medcolor_tf.errors import InputError
from medcolor_tf.models.spec import ModelSpec
from medcolor_tf.serving.inputs import list_inputs, read_batches

SPEC = ModelSpec("none", "paper", "ResNet18", ("Edema",), 16, 16, 1, 8, 0.5, 0.25, 0.9)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("empty", "no image in this folder"),
        ("list.csv", r"no column 'path'; the file has 'file', 'label' \(--path_column names it\)"),
        ("none.csv", "no rows"),
        ("twice.csv", "2 columns are called 'path'"),
        ("wide.csv", "line 3: expected 2 cells as in the header, got 3"),
        ("latin1.csv", "not a UTF-8 text file .*; save it as UTF-8"),
    ],
)
def test_inputs_that_are_not_there_are_named(tmp_path, inputs, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("file,label\nx.png,1\n")
    (tmp_path / "none.csv").write_text("path\n")
    (tmp_path / "twice.csv").write_text("path,path\na.png,b.png\n")
    (tmp_path / "wide.csv").write_text("path,who\na.png,x\nb.png,x,y\n")
    (tmp_path / "latin1.csv").write_bytes("path,who\na.png,M\xfcller\n".encode("latin-1"))
    with pytest.raises(InputError, match=message):
        list_inputs([str(tmp_path / inputs)], ("path",), 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("comma.csv", b'who,path\nx,"sub/a, b.png"\n'),
        ("semicolon.csv", b"who;path\r\nx;sub/a, b.png\r\n"),
        ("tab.tsv", b"who\tpath\nx\tsub/a, b.png\n"),
        ("tab.tab", b"who\tpath\nx\tsub/a, b.png\n"),
        ("mark.csv", b'\xef\xbb\xbfpath,who\n"sub/a, b.png",x\n'),
    ],
)
def test_tables_are_read_as_data_preparation_reads_them(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (listed,) = list_inputs([str(tmp_path / name)], ("path",), 1)
    assert listed.name == "sub/a, b.png"
    assert listed.files == (tmp_path / "sub/a, b.png",)
    assert listed.picture == "sub_a, b"
    assert read_table(tmp_path / name, ("path",)).columns["path"].tolist() == [listed.name]


def test_folders_without_suffixes_and_what_is_skipped(tmp_path, capsys):
    head = bytes(128) + b"DICM"
    for name in ("IM0001", "1.2.840.113", "a.dicom", "b.dic", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(head)
    (tmp_path / "d.png").write_bytes(b"")
    for name in ("._d.png", ".DS_Store", "__MACOSX/d.png", ".trash/x.png", "sub/.hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(head)
    for name in ("LICENSE", "notes.txt", "x.csv", "e.7"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "loop").symlink_to(tmp_path)
    listed = list_inputs([str(tmp_path)], ("path",), 1)
    names = [str(item.files[0].relative_to(tmp_path)) for item in listed]
    assert names == ["1.2.840.113", "IM0001", "a.dicom", "b.dic", "d.png", "sub/c"]
    said = capsys.readouterr().err
    assert "skipped 5 hidden (.* and __MACOSX), 4 of no image format" in said


def test_a_folder_of_hidden_images_says_so(tmp_path):
    (tmp_path / "._x.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image in this folder .*; 1 hidden"):
        list_inputs([str(tmp_path)], ("path",), 1)


def test_folders_are_searched_for_every_format_that_is_read(tmp_path):
    for suffix in IMAGE_SUFFIXES:
        (tmp_path / f"x{suffix.upper()}").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    listed = list_inputs([str(tmp_path)], ("path",), 1)
    assert sorted(item.files[0].suffix.lower() for item in listed) == sorted(IMAGE_SUFFIXES)


def test_images_are_spread_as_those_that_the_model_was_trained_on(tmp_path):
    dark = np.arange(256, dtype=np.uint8).reshape(16, 16) // 4 + 10
    Image.fromarray(dark).save(tmp_path / "x.png")
    inputs = list_inputs([str(tmp_path / "x.png")], ("path",), 1)
    for how in ("full", "used", "percentile"):
        spec = dataclasses.replace(SPEC, range=how)
        ((_, image, _),) = next(read_batches(inputs, spec, 1))
        assert isinstance(image, np.ndarray)
        expected = read_image(tmp_path / "x.png", 16, pixel_range=how)
        np.testing.assert_array_equal(image[..., 0], expected)
        assert image.max() == (73 if how == "full" else 255)


def test_the_range_is_part_of_the_description_only_where_it_is_spread():
    assert "range" not in SPEC.to_dict()
    assert ModelSpec.from_dict(SPEC.to_dict(), "x") == SPEC
    used = dataclasses.replace(SPEC, range="used")
    assert ModelSpec.from_dict(used.to_dict(), "x") == used
