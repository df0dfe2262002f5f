"""Damaged files of torch.save: refused, or read as what they are; no other exception."""

import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import (
    TENSOR,
    Storage,
    Tensor,
    assert_same,
    example,
    parameter,
    pickle_file,
    refusal,
    state_dict,
    tensor,
    torch_save,
    view,
    write_zip,
)

from medcolor_tf.errors import InputError
from medcolor_tf.models.torch_file import read_torch_file

pytestmark = pytest.mark.slow

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


# Layouts that leave the storage


def laid_out(size, strides, offset=0):
    return Tensor(Storage(np.zeros(4, np.float32), "float32"), size, strides, offset)


@FORMATS
@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (((5,), (1,)), "leaves its storage of 4 elements"),
        (((2, 2), (3, 1)), "leaves its storage of 4 elements"),
        (((2,), (4,)), "leaves its storage of 4 elements"),
        (((1,), (1,), 4), "leaves its storage of 4 elements"),
        (((), (), 4), "leaves its storage of 4 elements"),
        (((2,), (1,), 2**40), "leaves its storage of 4 elements"),
        (((2,), (2**47,)), "leaves its storage of 4 elements"),
        (((-1,), (1,)), "no number from 0 to 2**48"),
        (((2,), (-1,), 3), "no number from 0 to 2**48"),
        (((2,), (1,), -1), "no number from 0 to 2**48"),
        (((2**62,), (0,)), "no number from 0 to 2**48"),
        (((10**6000,), (0,)), "no number from 0 to 2**48"),
        (((2**30, 2**30), (0, 0)), "a tensor of size (1073741824, 1073741824)"),
        (((0, 2**47, 2**47), (1, 1, 1)), "a tensor of size (0, "),
        (((2**40,), (0,)), "would take over 16 times its own size"),
        (((True,), (1,)), "no number from 0 to 2**48"),
        (((2.0,), (1,)), "no number from 0 to 2**48"),
        ((("2",), (1,)), "no number from 0 to 2**48"),
        (((2,), (1,), None), "no number from 0 to 2**48"),
        (((2, 2), (1,)), "not two tuples of one length"),
        (([2], [1]), "not two tuples of one length"),
        ((4, 1), "not two tuples of one length"),
        (((1,) * 33, (1,) * 33), "more than 32 axes"),
    ],
)
def test_layouts(tmp_path, legacy, layout, message):
    torch_save({"a": laid_out(*layout)}, tmp_path / "t.pth", legacy=legacy)
    assert message in refusal(tmp_path / "t.pth")


@pytest.mark.parametrize(
    ("metadata", "dtype"), [({"conj": True}, "int32"), ([1], "float32"), ({1: 2}, "bool")]
)
def test_what_torch_put_off_must_fit(tmp_path, metadata, dtype):
    value = Tensor(Storage(np.zeros(4, dtype), dtype), (4,), (1,), 0, metadata)
    torch_save(value, tmp_path / "t.pth")
    assert "_rebuild_tensor_v2 with arguments of the wrong kind" in refusal(tmp_path / "t.pth")


def test_types_of_elements_that_numpy_has_not(tmp_path):
    value = Tensor(Storage(np.zeros(4, np.uint8), "float8_e4m3fn"), (4,), (1,))
    torch_save(value, tmp_path / "t.pth")
    assert "torch.float8_e4m3fn" in refusal(tmp_path / "t.pth")


@pytest.mark.parametrize("length", [0, 12, 20])
def test_a_storage_of_another_length(tmp_path, length):
    path = pickle_file(tmp_path, TENSOR + b".", storages=[("0", bytes(length))])
    assert refusal(path) == f"storage 0 has {length} bytes, where a tensor says 16"
    path = pickle_file(tmp_path, TENSOR + b".", legacy=True, storages=[("0", bytes(length))])
    assert refusal(path) == f"storage 0 has {length // 4} elements, where a tensor says 4"


@pytest.mark.parametrize("keys", [[], ["1"], ["0", "0"], ["0", "1"], [0], {"0": 1}, "0", None])
def test_the_list_of_a_legacy_files_storages(tmp_path, keys):
    path = pickle_file(tmp_path, TENSOR + b".", legacy=True)
    content = path.read_bytes().removesuffix(pickle.dumps([], protocol=2))
    path.write_bytes(content + pickle.dumps(keys, protocol=2) + bytes(100))
    assert "storages" in refusal(path)


# Archives


def archive_of(tmp_path, change, compression=zipfile.ZIP_STORED):
    path = tmp_path / "t.pth"
    torch_save({"a": example("float32")}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    write_zip(path, change(members), compression)
    return path


def renamed(old, new):
    return lambda members: [(name.replace(old, new), data) for name, data in members]


def replaced(name, content):
    return lambda members: [(n, content if n == name else data) for n, data in members]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("data.pkl", "constants.pkl"), "without one FOLDER/data.pkl"),
        (renamed("t/", ""), "without one FOLDER/data.pkl"),
        (renamed("t/data.pkl", "t/t/data.pkl"), "without one FOLDER/data.pkl"),
        (lambda m: [*m, ("u/data.pkl", b"N.")], "without one FOLDER/data.pkl"),
        (lambda m: [*m, m[0]], "two members t/data.pkl"),
        (lambda m: [*m, ("t/data/0", bytes(24))], "two members t/data/0"),
        (renamed("data/0", "data/1"), "a zip archive without t/data/0"),
        (renamed("data/0", "data/../0"), "a zip archive without t/data/0"),
        (renamed("t/data/0", "/data/0"), "a zip archive without t/data/0"),
        (renamed("t/data/0", "t\\data\\0"), "a zip archive without t/data/0"),
        (renamed("version", "vision"), "a zip archive without t/version"),
        (replaced("t/version", b"11"), "format version b'11'; expected 1 to 10"),
        (replaced("t/version", b"three"), "format version b'three'"),
        (replaced("t/version", b"9" * 10_000), "format version b'9999"),
        (replaced("t/byteorder", b"middle"), "byte order b'middle'"),
        (replaced("t/data.pkl", b""), "it ends too early"),
    ],
)
def test_archives_of_other_members(tmp_path, change, message):
    assert message in refusal(archive_of(tmp_path, change))


@pytest.mark.parametrize("kind", ["ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_compressed_members_are_refused(tmp_path, kind):
    path = archive_of(tmp_path, lambda m: [*m, ("t/more", bytes(10**6))], getattr(zipfile, kind))
    assert "is compressed or encrypted" in refusal(path)


def test_paths_in_an_archive_reach_nothing_outside_of_it(tmp_path):
    """A storage's key is looked up among the members' names and nowhere else."""
    (tmp_path / "0").write_bytes(bytes(16))
    for key in ("../0", str(tmp_path / "0"), "..\\0"):
        text = b"X" + struct.pack("<I", len(key)) + key.encode()
        content = TENSOR.replace(b"X\x01\x00\x00\x000", text) + b"."
        assert "a zip archive without bad/data/" in refusal(pickle_file(tmp_path, content))
    before = sorted(tmp_path.iterdir())
    members = renamed("t/", "../")
    assert_same(read_torch_file(archive_of(tmp_path, members)), {"a": example("float32")})
    assert sorted({*tmp_path.iterdir()} - {*before}) == [tmp_path / "t.pth"]


def test_members_on_one_another(tmp_path):
    """Thousands of names for the same bytes are no way to multiply them."""
    path = tmp_path / "t.pth"
    torch_save([tensor(np.zeros(25_000, np.float32)) for _ in range(2)], path)
    content = bytearray(path.read_bytes())
    first, second = content.rindex(b"t/data/0") - 46, content.rindex(b"t/data/1") - 46
    assert content[second : second + 4] == b"PK\x01\x02"
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    path.write_bytes(content)
    assert "not a whole zip archive" in refusal(path)
    directory = content.index(b"PK\x01\x02")
    entries = [
        b"".join([b"PK\x01\x02", bytes(content[first + 4 : first + 46]), b"t/data/%d"]) % n
        for n in range(10)
    ]
    end = bytearray(content[content.rindex(b"PK\x05\x06") :])
    joined = b"".join(entries)
    struct.pack_into("<HHII", end, 8, 10, 10, len(joined), directory)
    path.write_bytes(bytes(content[:directory]) + joined + end)
    assert "its members together are larger than the file" in refusal(path)


# Damaged files


@pytest.fixture(scope="module")
def good_files(tmp_path_factory):
    """(folder, {name: content}) of small files of both formats."""
    folder = tmp_path_factory.mktemp("good")
    state = state_dict(
        weight=view(tensor(np.arange(6, dtype=np.float32)), (3, 2), (1, 3)),
        half=example("float16"),
        wide=example("uint16"),
        scale=parameter(np.ones(2)),
    )
    value = {"model": state, "opt": {"betas": (0.9, 0.99), "seen": {1, 2}, "raw": b"\xff"}}
    content = {}
    for name, options in {"zip": {}, "zip4": {"protocol": 4}, "legacy": {"legacy": True}}.items():
        torch_save(value, folder / "t.pth", **options)
        content[name] = (folder / "t.pth").read_bytes()
    return folder, content


def is_read(path):
    """Whether a file is read; it is refused otherwise, and nothing else happens."""
    try:
        read_torch_file(path)
    except InputError as error:
        return not str(error).startswith(f"{path}: refused, ")
    return True


@pytest.mark.parametrize("name", ["zip", "zip4", "legacy"])
def test_cut_files_are_refused(good_files, name):
    folder, content = good_files
    path = folder / "cut.pth"
    path.write_bytes(content[name])
    assert is_read(path)
    end = len(content[name])
    for length in {*range(0, end, 9), *range(end - 60, end)}:
        path.write_bytes(content[name][:length])
        assert not is_read(path), length


@pytest.mark.parametrize("name", ["zip", "zip4", "legacy"])
@settings(max_examples=300)
@given(data=st.data())
def test_changed_bytes_give_a_value_or_a_refusal(good_files, name, data):
    folder, content = good_files
    changed = bytearray(content[name])
    places = st.integers(0, len(changed) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        changed[place] = byte
    start, length = data.draw(st.tuples(places, st.integers(0, 40)))
    kind = data.draw(st.sampled_from(["keep", "remove", "repeat"]))
    if kind != "keep":
        part = changed[start : start + length]
        changed[start : start + length] = b"" if kind == "remove" else part + part
    path = folder / "changed.pth"
    path.write_bytes(changed)
    is_read(path)


@settings(max_examples=300)
@given(data=st.data())
def test_changed_pickles_give_a_value_or_a_refusal(good_files, data):
    """In an archive with right checksums, so that every change arrives at the interpreter."""
    folder, content = good_files
    path = folder / "t.pth"
    path.write_bytes(content[data.draw(st.sampled_from(["zip", "zip4"]))])
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    changed = bytearray(members["t/data.pkl"])
    places = st.integers(0, len(changed) - 1)
    opcodes = st.sampled_from(b"(])}te.asuRQqhrjKMNGX\x85\x86\x87\x88\x8f\x90\x91\x93\x94bc")
    for place, byte in data.draw(st.lists(st.tuples(places, opcodes), min_size=1, max_size=6)):
        changed[place] = byte
    write_zip(path, members | {"t/data.pkl": bytes(changed)})
    is_read(path)


@settings(max_examples=200)
@given(content=st.binary(max_size=200), legacy=st.booleans())
def test_any_bytes_as_a_pickle(good_files, content, legacy):
    folder, _ = good_files
    is_read(pickle_file(folder, content, legacy))


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"none.pth: no such file; expected a file of torch.save"):
        read_torch_file(tmp_path / "none.pth")
    with pytest.raises(InputError, match="no such file"):
        read_torch_file(tmp_path)
    for content in (b"", b"x", b"PK\x03\x04", b"\x89HDF\r\n", pickle.dumps(3, 2) * 4):
        (tmp_path / "t.pth").write_bytes(content)
        refusal(tmp_path / "t.pth")
