"""Files of torch.save give their values without PyTorch, the same as torch.load's with it."""

# Tests marked `torch` need PyTorch, which is optional and absent where types are checked.
# pyright: reportMissingImports=false

import pickle
import struct
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
from torch_files import (
    NUMPY_TYPES,
    STORAGES,
    Call,
    Name,
    Storage,
    Tensor,
    assert_same,
    example,
    legacy_bytes,
    parameter,
    pickle_file,
    saved,
    state_dict,
    tensor,
    torch_save,
    view,
    write_zip,
)

from medcolor_tf.models.torch_file import TorchDtype, read_torch_file

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


@FORMATS
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_types_of_elements(tmp_path, legacy, byteorder):
    arrays = {name: example(name) for name in NUMPY_TYPES}
    found = saved(arrays, tmp_path / "t.pth", legacy=legacy, byteorder=byteorder)
    assert_same(found, arrays)
    assert all(array.flags.aligned and array.flags.writeable for array in found.values())


@FORMATS
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_bfloat16_becomes_float32(tmp_path, legacy, byteorder):
    path, options = tmp_path / "t.pth", {"legacy": legacy, "byteorder": byteorder}
    exact = np.array([[1.5, -0.0], [np.inf, 2.0**-133], [3.140625, np.nan]], np.float32)
    assert_same(saved(tensor(exact, "bfloat16"), path, **options), exact)
    transposed = view(tensor(exact, "bfloat16"), (2, 3), (1, 2))
    assert_same(saved(transposed, path, **options), exact.T)


def test_truth_of_any_byte(tmp_path):
    """numpy would count a True of another byte than 1 wrongly."""
    storage = Storage(np.array([0, 1, 2, 255], np.uint8), "bool")
    array = saved(Tensor(storage, (4,), (1,)), tmp_path / "t.pth")
    assert_same(array, np.array([False, True, True, True]))
    np.testing.assert_array_equal(array.view(np.uint8), [0, 1, 1, 1])


@FORMATS
def test_views_of_one_storage(tmp_path, legacy):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    whole = tensor(base)
    views = {
        "transposed": (view(whole, (6, 4), (1, 6)), base.T),
        "part": (view(whole, (2, 3), (12, 2), 7), base[1::2, 1::2]),
        "row": (view(whole, (6,), (1,), 12), base[2]),
        "element": (view(whole, (), (), 23), base[3, 5]),
        "expanded": (view(whole, (3, 6), (0, 1)), np.broadcast_to(base[0], (3, 6))),
        "one long": (view(whole, (1, 6), (2**40, 1), 6), base[1:2]),
        "empty": (view(whole, (0, 6), (6, 1), 24), base[4:]),
    }
    found = saved([whole, *(part for part, _ in views.values())], tmp_path / "t.pth", legacy=legacy)
    for array, (_, expected) in zip(found, [(whole, base), *views.values()], strict=True):
        assert_same(array, np.asarray(expected))
    found[0][1, 1] = 100
    assert (found[1][1, 1], found[2][0, 0]) == (100, 100)  # one memory, as in PyTorch


@FORMATS
@pytest.mark.parametrize("size", [(), (0,), (3, 0, 2), (1, 1, 1, 1)])
def test_sizes(tmp_path, legacy, size):
    array = np.full(size, 3, np.int64)
    assert_same(saved({"t": array}, tmp_path / "t.pth", legacy=legacy), {"t": array})


@FORMATS
def test_parameters_and_what_torch_put_off(tmp_path, legacy):
    array, numbers = example("float32"), example("complex64")
    whole = tensor(array)
    rebuild, arguments = whole.reduce()
    noted = Name("torch._utils", "_rebuild_parameter_with_state")
    buffer = (rebuild, Name("torch", "Tensor"), arguments, {"persistent": True})
    real = Storage(numbers.ravel().view(np.float32), "float32")
    values = [
        (parameter(array), array),
        (Call(noted, (whole, True, OrderedDict(), {"note": 1})), array),
        (Call(Name("torch._tensor", "_rebuild_from_type_v2"), buffer), array),
        (Tensor(tensor(numbers).storage, (2, 3), (3, 1), 0, {"conj": True}), numbers.conj()),
        (Tensor(real, (6,), (2,), 1, {"neg": True}), -numbers.imag.ravel()),
        (
            Call(Name("torch._utils", "_rebuild_tensor"), (whole.storage, 1, (2,), (3,))),
            array[:, 1],
        ),
    ]
    found = saved([value for value, _ in values], tmp_path / "t.pth", legacy=legacy)
    assert_same(found, [expected for _, expected in values])


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(tmp_path, legacy, protocol):
    shared = [1.5, "é"]
    value = {
        "numbers": [0, 255, 65535, -1, 2**31, -(2**70), 10**700, 1e300, 2 + 3j, True, False, None],
        "text": ["", "weights", "ü" * 300],
        "bytes": [b"", b"\x00\xff" * 200, bytearray(), bytearray(b"\xfe")],
        "containers": [[], {}, (), (1,), (1, 2, 3, 4), {1, "a", None}, frozenset({(2, 3)}), set()],
        "ordered": OrderedDict(z=1, a=OrderedDict()),
        7: (shared, shared, {"deep": [[[[shared]]]]}),
        (1, "a"): b"key",
    }
    found = saved(value, tmp_path / "t.pth", legacy=legacy, protocol=protocol)
    assert_same(found, value)
    assert found[7][0] is found[7][1]
    counted = saved(Counter("aab"), tmp_path / "t.pth", legacy=legacy, protocol=protocol)
    assert_same(counted, {"a": 2, "b": 1})


def test_a_state_dict_with_its_versions(tmp_path):
    state = state_dict(weight=example("float32"), bias=example("float16", (3,)))
    torch_save(state, tmp_path / "t.pth")
    with zipfile.ZipFile(tmp_path / "t.pth") as archive:
        assert pickle.BUILD in archive.read("t/data.pkl")
    assert_same(read_torch_file(tmp_path / "t.pth"), OrderedDict(state))


def test_sizes_types_and_devices_as_values(tmp_path):
    size, device = Call(Name("torch", "Size"), ((2, 3),)), Name("torch", "device")
    value = [size, Name("torch", "bfloat16"), Call(device, ("cpu",)), Call(device, ("cuda", 1))]
    expected = [(2, 3), TorchDtype("torch.bfloat16"), "cpu", "cuda:1"]
    assert_same(saved(value, tmp_path / "t.pth"), expected)


def test_python_2_wrote_names_as_bytes(tmp_path):
    """And an OrderedDict as a call with a list of pairs."""
    pairs = b"](]" + b"(U\x06weightK\x01e" + b"]" + b"(U\x04biasK\x02e" + b"e"
    path = pickle_file(tmp_path, b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R.")
    assert_same(read_torch_file(path), OrderedDict(weight=1, bias=2))


def test_an_archive_without_checksums_or_byteorder(tmp_path):
    """torch.serialization.set_crc32_options(False) writes 0 for all; torch 1.6 no byte order."""
    path = tmp_path / "t.pth"
    torch_save({"a": example("float32")}, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
        checksums = [struct.pack("<I", info.CRC) for info in archive.infolist()]
    content = path.read_bytes()
    for checksum in checksums:
        content = content.replace(checksum, bytes(4))
    path.write_bytes(content)
    assert_same(read_torch_file(path), {"a": example("float32")})
    del members["t/byteorder"]
    write_zip(path, members)
    assert_same(read_torch_file(path), {"a": example("float32")})


# Beside PyTorch


def same_as_torch(found, expected):
    """Values of this reader are those of torch.load; arrays stand for tensors."""
    import torch

    if isinstance(expected, torch.Tensor):
        expected = expected.detach().resolve_conj().resolve_neg()
        if expected.dtype == torch.bfloat16:
            expected = expected.float()
        assert_same(found, expected.numpy())
    elif isinstance(expected, dict):
        kind = dict if isinstance(expected, Counter) else type(expected)
        assert (type(found), list(found)) == (kind, list(expected))
        for key in expected:
            same_as_torch(found[key], expected[key])
    elif type(expected) in (list, tuple):
        assert (type(found), len(found)) == (type(expected), len(expected))
        for one, other in zip(found, expected, strict=True):
            same_as_torch(one, other)
    elif isinstance(expected, torch.Size):
        assert found == tuple(expected)
    elif isinstance(expected, torch.dtype | torch.device):
        assert found == str(expected)
    else:
        assert_same(found, expected)


def torch_values():
    """Values with everything that the reader knows, by what they show."""
    import torch

    types = [getattr(torch, name) for name in (*NUMPY_TYPES, "bfloat16")]
    numbers = torch.arange(6).reshape(2, 3)
    base = torch.arange(24.0).reshape(4, 6)
    complex_numbers = torch.complex(base, base + 1)
    noted = torch.ones(3)
    noted.note = "attribute"
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).half()
    layer = torch.nn.Linear(2, 3)
    adam = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    adam.step()
    return {
        "types": {str(kind): numbers.to(kind) for kind in types},
        "views": [
            base,
            base.t(),
            base[1::2, 1::2],
            base[2],
            base[3, 5],
            base[:0],
            base[:1].expand(3, 6),
        ],
        "sizes": [torch.tensor(3), torch.zeros(0), torch.zeros(3, 0, 2), torch.ones(1, 1, 1)],
        "parameters": [torch.nn.Parameter(base), torch.nn.Buffer(base[0]), noted],
        "put off": [
            complex_numbers.conj(),
            complex_numbers.clone().conj().imag,
            -complex_numbers.t().conj(),
        ],
        "state_dict": model.state_dict(),
        "optimizer": adam.state_dict(),
        "others": [base.shape, torch.float16, torch.device("cuda:1"), Counter("aab")],
        "plain": {
            "a": [1, -(2**70), 1.5, 2j, None, True, "é", b"\xff", bytearray(b"a")],
            3: {1, 2},
        },
        "one tensor": base,
        "shared": [base, {"again": base, "part": base[0]}],
    }


@pytest.mark.torch
@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_same_as_torch_saved(tmp_path, legacy, protocol):
    import torch

    path = tmp_path / "t.pth"
    for name, value in torch_values().items():
        options = {"_use_new_zipfile_serialization": not legacy, "pickle_protocol": protocol}
        torch.save(value, path, **options)
        found = read_torch_file(path)
        same_as_torch(found, value)
        if name == "shared":
            assert np.shares_memory(found[0], found[1]["part"])


@pytest.mark.torch
@FORMATS
def test_torch_reads_what_the_tests_write(tmp_path, legacy):
    """The files of the tests above are PyTorch's: it reads the same values from them."""
    import torch

    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    state = state_dict(weight=base, bias=tensor(base, "bfloat16"))
    part = view(tensor(base), (2, 3), (12, 2), 7)
    # Not uint16 to uint64: torch.load fails on them in legacy files, and leaves their bytes as they
    # are in big-endian ones.
    arrays = {name: example(name) for name in STORAGES if name != "bfloat16"}
    value = {"model": state, "arrays": arrays, "part": part, "parameter": parameter(base)}
    for byteorder in ["little"] if legacy else ["little", "big"]:
        torch_save(value, tmp_path / "t.pth", legacy=legacy, byteorder=byteorder)
        same_as_torch(
            read_torch_file(tmp_path / "t.pth"), torch.load(tmp_path / "t.pth", weights_only=True)
        )


@pytest.mark.torch
def test_the_tests_write_what_torch_writes(tmp_path):
    """Byte for byte, as far as PyTorch's own files are the same twice."""
    import torch

    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {
        "a": torch.from_numpy(base),
        "b": [torch.ones(2, dtype=torch.float64), torch.float32],
    }
    tensors["c"] = torch.nn.Parameter(tensors["a"].clone())
    arrays = {"a": base, "b": [np.ones(2), Name("torch", "float32")], "c": parameter(base)}
    for folder, save, value in (("theirs", torch.save, tensors), ("ours", torch_save, arrays)):
        (tmp_path / folder).mkdir()
        save(value, tmp_path / folder / "t.pth")
    theirs, ours = (zipfile.ZipFile(tmp_path / name / "t.pth") for name in ("theirs", "ours"))
    for name in ("data.pkl", "data/0", "data/1", "data/2", "version", "byteorder"):
        assert ours.read(f"t/{name}") == theirs.read(f"t/{name}"), name
    torch.save({"a": 1}, tmp_path / "t.pth", _use_new_zipfile_serialization=False)
    assert (tmp_path / "t.pth").read_bytes() == legacy_bytes({"a": 1})
