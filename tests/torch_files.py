"""Files as torch.save writes them, made without PyTorch, for tests of what reads them.

Arrays stand for tensors; what needs more (views, parameters, bfloat16, functions) is said by the
classes here. Test modules import this one by its bare name.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from medcolor_tf.errors import InputError
from medcolor_tf.models.torch_file import read_torch_file

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
STORAGES = {
    "bool": "BoolStorage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
NUMPY_TYPES = [name for name in STORAGES if name != "bfloat16"] + ["uint16", "uint32", "uint64"]
LEGACY_KEY = 94578148815744  # torch writes addresses there


@dataclass(frozen=True)
class Name:
    """A global: `Name("torch", "float32")`."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """What pickles as a call of a function with arguments."""

    function: object
    arguments: tuple


@dataclass(frozen=True, eq=False)
class Storage:
    """Elements in one row; bfloat16 as its 16 bits."""

    elements: np.ndarray
    dtype: str

    @property
    def type(self):
        untyped = Name("torch.storage", "UntypedStorage")
        return Name("torch", STORAGES[self.dtype]) if self.dtype in STORAGES else untyped

    @property
    def count(self):
        return self.elements.size if self.dtype in STORAGES else self.elements.nbytes


@dataclass(frozen=True, eq=False)
class Tensor:
    """A part of a storage; `metadata` is {"conj": True} or {"neg": True}."""

    storage: Storage
    size: tuple
    strides: tuple
    offset: int = 0
    metadata: dict = field(default_factory=dict)

    def reduce(self):
        """The function that rebuilds it and its arguments."""
        typed = self.storage.dtype in STORAGES
        arguments = (self.storage, self.offset, self.size, self.strides, False, OrderedDict())
        if not typed:
            arguments += (Name("torch", self.storage.dtype),)
        if self.metadata:
            arguments += (self.metadata,)
        return Name("torch._utils", f"_rebuild_tensor_v{2 if typed else 3}"), arguments


def tensor(array, dtype=None):
    """A contiguous tensor of an array; with dtype="bfloat16" of the upper halves of float32."""
    array = np.asarray(array)
    size, dtype = array.shape, dtype or array.dtype.name
    if dtype == "bfloat16":
        array = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    strides = tuple(int(np.prod(size[axis + 1 :])) for axis in range(len(size)))
    return Tensor(Storage(np.array(array).ravel(), dtype), size, strides)


def view(base, size, strides, offset=0):
    """Another part of a tensor's storage."""
    return replace(base, size=size, strides=strides, offset=offset)


def parameter(array):
    """A torch.nn.Parameter."""
    return Call(Name("torch._utils", "_rebuild_parameter"), (tensor(array), True, OrderedDict()))


def state_dict(**tensors) -> Any:
    """A module's state_dict; the versions of modules are an attribute of it, as in torch."""
    state: Any = OrderedDict(tensors)
    state._metadata = OrderedDict({"": {"version": 1}})
    return state


# The one in C writes no globals that cannot be imported. Its stub leaves most methods out.
_PythonPickler: Any = pickle._Pickler


class _Pickler(_PythonPickler):
    def __init__(self, file, protocol, legacy=False):
        super().__init__(file, protocol)
        self.storages, self._legacy = {}, legacy
        self._names, self._calls, self._arrays = {}, {}, {}

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            self.storages[obj] = str(len(self.storages) + (LEGACY_KEY if self._legacy else 0))
        view = (None,) if self._legacy else ()
        return ("storage", obj.type, self.storages[obj], "cpu", obj.count, *view)

    def _save_name(self, obj):
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    def _save_call(self, obj):
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)
        self.memoize(obj)

    def _save_tensor(self, obj):
        self._calls.setdefault(obj, Call(*obj.reduce()))
        self.save(self._calls[obj])

    def _save_array(self, obj):
        self._arrays.setdefault(id(obj), tensor(obj))
        self.save(self._arrays[id(obj)])

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            obj = self._names.setdefault(obj, obj)  # equal names are one object in torch
        super().save(obj, save_persistent_id)

    dispatch = _PythonPickler.dispatch | {
        Name: _save_name,
        Call: _save_call,
        Tensor: _save_tensor,
        np.ndarray: _save_array,
    }


def torch_save(value, path, legacy=False, protocol=2, byteorder="little", members=()):
    """Writes a file as torch.save does.

    Args:
        value: containers, numbers, text, arrays, and this module's classes.
        path: the file.
        legacy: as torch before 1.6, in place of a zip archive.
        protocol: of the pickle.
        byteorder: of the machine that writes; the legacy format is little-endian always.
        members: {name: content} of the archive to add, or to write in place of the usual ones.
    """
    if legacy:
        path.write_bytes(legacy_bytes(value, protocol))
        return
    file = io.BytesIO()
    pickler = _Pickler(file, protocol)
    pickler.dump(value)
    content = {"data.pkl": file.getvalue(), ".format_version": b"1", "byteorder": byteorder}
    for storage, key in pickler.storages.items():
        content[f"data/{key}"] = _element_bytes(storage, byteorder)
    content |= {"version": b"3\n", ".data/serialization_id": b"0" * 40, **dict(members)}
    write_zip(path, {f"{path.stem}/{name}": data for name, data in content.items()})


def write_zip(path, content, compression=zipfile.ZIP_STORED):
    """Writes an archive of {name: content}, or of pairs of them."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items() if isinstance(content, dict) else content:
            archive.writestr(zipfile.ZipInfo(name), data, compression)


def legacy_bytes(value, protocol=2):
    """The content of a file of the format before torch 1.6."""
    file = io.BytesIO()
    for part in (MAGIC, PROTOCOL, SYSTEM):
        _Pickler(file, protocol).dump(part)
    pickler = _Pickler(file, protocol, legacy=True)
    pickler.dump(value)
    keys = {key: storage for storage, key in pickler.storages.items()}
    _Pickler(file, protocol).dump(sorted(keys))
    for key in sorted(keys):
        file.write(keys[key].count.to_bytes(8, "little", signed=True))
        file.write(_element_bytes(keys[key], "little"))
    return file.getvalue()


def _element_bytes(storage, byteorder):
    order = "<" if byteorder == "little" else ">"
    return storage.elements.astype(storage.elements.dtype.newbyteorder(order)).tobytes()


# The parts of a pickle of a float32 tensor of 4 elements in storage "0".
STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04t"
)
ZEROS = [("0", bytes(16))]
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOOKS = b"\x89ccollections\nOrderedDict\n)R"
TENSOR = REBUILD + b"(" + STORAGE + b"QK\x00K\x04\x85K\x01\x85" + HOOKS + b"tR"


def pickle_file(folder, content, legacy=False, storages=()):
    """A file of torch.save with any bytes in place of its object's pickle.

    Args:
        folder: of the file.
        content: the pickle.
        legacy: which format.
        storages: pairs of key and bytes (of 4-byte elements).
    """
    path = folder / "bad.pth"
    if not legacy:
        members = {"data.pkl": content, "version": b"3\n", "byteorder": b"little"}
        members |= {f"data/{key}": data for key, data in storages}
        write_zip(path, {f"bad/{name}": data for name, data in members.items()})
        return path
    head = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, PROTOCOL, SYSTEM))
    keys = pickle.dumps(sorted(key for key, _ in storages), protocol=2)
    data = b"".join((len(d) // 4).to_bytes(8, "little") + d for _, d in sorted(storages))
    path.write_bytes(head + content + keys + data)
    return path


def saved(value, path, **options):
    """The value after the way through a file; options of :func:`torch_save`."""
    torch_save(value, path, **options)
    return read_torch_file(path)


def refusal(path):
    """The reason why a file is refused."""
    with pytest.raises(InputError) as caught:
        read_torch_file(path)
    start, reason = str(caught.value).split("more than tensors (")
    assert start == f"{path}: refused, because it is damaged or holds "
    assert "torch.save(model.state_dict(), 'NAME.pth')" in reason
    return reason.split("); expected")[0]


def assert_same(received, expected):
    """Values, types, shapes and types of elements are equal."""
    assert type(received) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (received.dtype, received.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(received, expected)
    elif isinstance(expected, dict):
        assert list(received) == list(expected)
        for key in expected:
            assert_same(received[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(received) == len(expected)
        for pair in zip(received, expected, strict=True):
            assert_same(*pair)
    else:
        assert received == expected


def example(dtype, size=(2, 3)):
    """An array that is the same each time."""
    values = np.random.default_rng(0).integers(0, 200, (2, *size))
    imaginary = 1j * values[1] if dtype.startswith("complex") else 0
    return (values[0] + imaginary).astype(dtype)
