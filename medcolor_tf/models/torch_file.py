"""Files of torch.save, read without PyTorch: numpy arrays in place of tensors, and no code is run.

Two formats. Since torch 1.6 a zip archive of stored members in one folder: `data.pkl`, the pickle
of the object; `data/KEY`, the bytes of each storage; `version`; `byteorder`. Before, and on request
today, four pickles in a row (magic number, protocol, system, object), a pickle of the storages'
sorted keys, and per storage its number of elements (int64) and its elements, all little-endian.
In the object's pickle a tensor is a call of a rebuilding function with a storage (a persistent id
of type, key, device and number of elements), an offset, a size and strides, counted in elements.
"""

import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from medcolor_tf.errors import InputError
from medcolor_tf.models.restricted_pickle import (
    BoundedReader,
    Budget,
    Function,
    Unpickler,
    check_plain,
    printable,
)

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ZIP_VERSIONS = range(1, 11)
_ZIP_ERRORS = (  # what zipfile raises for damaged archives
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    OverflowError,
    struct.error,
)
_MOST_AXES = 32

# Names that torch.save writes for types of elements; numpy has all but bfloat16.
_STORAGES = {
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "",  # bytes; the tensor says their type
}
_ELEMENTS = (*filter(None, _STORAGES.values()), "uint16", "uint32", "uint64")


class TorchDtype(str):
    """A torch.dtype that a file holds as a value: its name, such as "torch.float32"."""

    __slots__ = ()


def read_torch_file(path: str | Path) -> Any:
    """Reads what torch.save wrote: tensors, numbers, text, bytes and containers of them.

    Runs nothing that the file asks for. Takes the file's size of memory; where somebody made it to
    take more, not over some 30 times its size and 16 MiB.

    Args:
        path: a file of torch.save, of either of its two formats.

    Returns:
        The saved object. Tensors and parameters are numpy arrays (bfloat16 as float32; tensors that
        shared a storage share memory; their attributes are dropped), torch.Size is a tuple,
        torch.dtype a :class:`TorchDtype`, torch.device text, collections.Counter a dict.

    Raises:
        InputError: no such file, damaged, not of torch.save, or with more in it than the above,
            which is named.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a file of torch.save")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            read = _read_zip if file.read(4) == b"PK\x03\x04" else _read_legacy
            file.seek(0)
            return read(file, size)
    except InputError as error:
        raise InputError(
            f"{path}: refused, because it is damaged or holds more than tensors ({error}); "
            "expected tensors, numbers, text and containers of them, as torch.save writes them. "
            "Where you trust the file, keep its tensors alone where PyTorch is: "
            "torch.save(model.state_dict(), 'NAME.pth')"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _read_zip(file: BinaryIO, size: int) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, size)
            roots = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if len(roots) != 1:
                raise InputError("a zip archive without one FOLDER/data.pkl")
            root = roots[0].removesuffix("data.pkl")

            def read(name: str) -> bytes:
                if root + name not in members:
                    raise InputError(f"a zip archive without {printable(root + name)}")
                return archive.read(members[root + name])

            version = read("version").strip()
            if not version.isdigit() or int(version[:9]) not in _ZIP_VERSIONS:
                raise InputError(f"format version {printable(str(version))}; expected 1 to 10")
            order = read("byteorder") if f"{root}byteorder" in members else b"little"
            if order not in (b"little", b"big"):
                raise InputError(f"byte order {printable(str(order))}")
            content = read("data.pkl")
            tensors = _Tensors(lambda key: read(f"data/{key}"), size, order == b"big")
            return tensors.read(BoundedReader(io.BytesIO(content), len(content)))
    except InputError:
        raise
    except _ZIP_ERRORS as error:
        raise InputError(f"not a whole zip archive: {printable(str(error))}") from None


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = printable(info.filename)
        if info.filename in members:
            raise InputError(f"two members {name}")
        stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not stored or info.flag_bits & 1:
            raise InputError(f"{name} is compressed or encrypted; torch.save only stores")
        if info.CRC == 0:
            # torch.serialization.set_crc32_options(False): there is none. zipfile then checks none.
            info.CRC = None  # pyright: ignore[reportAttributeAccessIssue]
        members[info.filename] = info
    if sum(info.file_size for info in members.values()) > size:
        raise InputError("its members together are larger than the file")
    return members


def _read_legacy(file: BinaryIO, size: int) -> Any:
    source = BoundedReader(file, size)
    magic, protocol, _ = (_read_pickle(source, size) for _ in range(3))
    if type(magic) is not int or magic != _MAGIC or protocol != _PROTOCOL:
        raise InputError("it does not begin as a file of torch.save does")
    # The storages come after the object, and only it says of which types they are: read it twice.
    start = size - source.left
    scan = _Tensors(lambda key: None, size)
    scan.read(source)
    data = _read_legacy_storages(source, scan.storages, _read_pickle(source, size))
    file.seek(start)
    return _Tensors(lambda key: data.pop(key, b""), size).read(BoundedReader(file, size - start))


def _read_pickle(source: BoundedReader, size: int) -> Any:
    def refuse(_: Any) -> None:
        raise InputError("a storage where none should be")

    budget = Budget(size)
    value = Unpickler(source, {}, refuse, budget).load()
    check_plain(value, budget)
    return value


def _read_legacy_storages(source: BoundedReader, storages: dict, keys: Any) -> dict[str, bytes]:
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise InputError("no list of storages after its object")
    if sorted(keys) != sorted(storages):
        raise InputError("the list of its storages is not that of its tensors")
    data = {}
    for key in keys:
        count = int.from_bytes(source.read(8), "little", signed=True)
        if count != storages[key].count:
            raise InputError(
                f"storage {printable(key)} has {count} elements, "
                f"where a tensor says {storages[key].count}"
            )
        data[key] = source.read(count * storages[key].item_size)
    return data


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype or "uint8").itemsize


@dataclass(frozen=True)
class _StorageType:
    dtype: str

    def __str__(self) -> str:
        return "a storage's type"


@dataclass(eq=False)
class _Storage:
    """A storage: bytes, None while the file is scanned, and the type and number of its elements."""

    dtype: str
    count: int
    data: bytearray | None
    big_endian: bool

    def __post_init__(self):
        self._elements: dict[str, np.ndarray] = {}

    def __str__(self) -> str:
        return "a storage"

    @property
    def item_size(self) -> int:
        return _item_size(self.dtype)

    def elements(self, dtype: str) -> np.ndarray:
        """Returns the elements in one row, in the machine's byte order; made once."""
        if dtype not in self._elements:
            assert self.data is not None, "a storage that is only scanned has no elements"
            raw = np.frombuffer(self.data, np.uint8)
            raw = raw[: raw.size - raw.size % _item_size(dtype)]
            self._elements[dtype] = _decode(raw, dtype, ">" if self.big_endian else "<")
        return self._elements[dtype]


def _decode(raw: np.ndarray, dtype: str, order: Literal["<", ">"]) -> np.ndarray:
    if dtype == "bfloat16":  # the upper half of a float32
        return (raw.view(f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "bool":
        return raw != 0
    native = np.dtype(dtype)
    return raw.view(native.newbyteorder(order)).astype(native, copy=False)


class _Tensors:
    """Rebuilds the tensors of a file.

    Args:
        load: key → the bytes of a storage, or None to check its tensors alone.
        file_size: bytes of the file.
        big_endian: how the elements are stored.

    Attributes:
        storages: those that were met, by their keys.
    """

    def __init__(
        self,
        load: Callable[[str], bytes | None],
        file_size: int,
        big_endian: bool = False,
    ):
        self._load, self._big_endian = load, big_endian
        self._budget, self._file_size = Budget(file_size), file_size
        self.storages: dict[str, _Storage] = {}

    def read(self, source: BoundedReader) -> Any:
        """Returns the object that a pickle holds, with arrays in place of its tensors."""
        value = Unpickler(source, self._names(), self._storage, self._budget).load()
        check_plain(value, self._budget, (np.ndarray, TorchDtype))
        return value

    def _names(self) -> dict[str, Any]:
        functions = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor_v2,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
            "torch.Size": _size,
            "torch.device": _device,
        }
        return (
            {name: Function(name, call) for name, call in functions.items()}
            | {name: _StorageType(dtype) for name, dtype in _STORAGES.items()}
            | {f"torch.{name}": TorchDtype(f"torch.{name}") for name in _ELEMENTS}
            | {"torch.Tensor": _TENSOR}
        )

    def _storage(self, identity: Any) -> _Storage:
        """Returns the storage that a persistent id names: ("storage", type, key, device, count)."""
        if type(identity) is not tuple or len(identity) not in (5, 6):
            raise InputError("a reference in it is not to a storage")
        word, kind, key, _, count, *view = identity
        if type(word) is not str or word != "storage" or not isinstance(kind, _StorageType):
            raise InputError("a reference in it is not to a storage")
        if type(key) is not str or type(count) is not int or count < 0:
            raise InputError("a storage's key is not text or its length not a number from 0 on")
        if view and view[0] is not None:
            raise InputError("a view of a storage, as torch wrote before 0.4")
        if key not in self.storages:
            self.storages[key] = self._load_storage(kind.dtype, key, count)
        storage = self.storages[key]
        if (storage.dtype, storage.count) != (kind.dtype, count):
            raise InputError(f"storage {printable(key)} is of two types or lengths")
        return storage

    def _load_storage(self, dtype: str, key: str, count: int) -> _Storage:
        length = count * _item_size(dtype)
        if length > self._file_size:
            raise InputError(f"storage {printable(key)} would be larger than the file")
        data = self._load(key)
        if data is not None and len(data) // _item_size(dtype) != count:
            raise InputError(
                f"storage {printable(key)} has {len(data)} bytes, where a tensor says {length}"
            )
        return _Storage(dtype, count, data if data is None else bytearray(data), self._big_endian)

    def _tensor(self, storage: Any, offset: Any, size: Any, strides: Any) -> np.ndarray:
        if not isinstance(storage, _Storage):
            raise TypeError
        return self._view(storage, storage.dtype or "uint8", offset, size, strides)

    def _tensor_v2(self, storage, offset, size, strides, gradient, hooks, metadata=None):
        return self._resolve(self._tensor(storage, offset, size, strides), metadata)

    def _tensor_v3(self, storage, offset, size, strides, gradient, hooks, dtype, metadata=None):
        if not isinstance(storage, _Storage) or storage.dtype or not isinstance(dtype, TorchDtype):
            raise TypeError
        name = dtype.removeprefix("torch.")
        return self._resolve(self._view(storage, name, offset, size, strides), metadata)

    def _view(self, storage: _Storage, dtype: str, offset, size, strides) -> np.ndarray:
        """Returns the part of a storage that a tensor is, after a check that it lies inside."""
        count = storage.count * storage.item_size // _item_size(dtype)
        last = offset + _check_layout(offset, size, strides)
        item = np.dtype("float32" if dtype == "bfloat16" else dtype)
        if 0 in size:
            return np.empty(size, item)
        if last >= count:
            raise InputError(
                f"a tensor of size {size}, strides {strides} and offset {offset} leaves its "
                f"storage of {count} elements"
            )
        self._budget.charge(math.prod(size) * item.itemsize)  # what a copy of it would take
        if storage.data is None:
            return np.empty(0, item)
        steps = [item.itemsize * step for step in strides]
        return np.ndarray(size, item, storage.elements(dtype), offset * item.itemsize, steps)

    def _resolve(self, array: np.ndarray, metadata: Any) -> np.ndarray:
        """Carries out what torch put off: {"conj": True} conjugates, {"neg": True} negates."""
        if metadata is None or metadata == {}:
            return array
        if type(metadata) is not dict or array.dtype.kind not in "fc":
            raise TypeError
        self._budget.charge(2 * array.nbytes)
        array = np.asarray(np.conj(array)) if metadata.get("conj") is True else array
        return np.asarray(np.negative(array)) if metadata.get("neg") is True else array


def _check_layout(offset: Any, size: Any, strides: Any) -> int:
    """Returns by how much the last element lies behind the first."""
    if type(size) is not tuple or type(strides) is not tuple or len(size) != len(strides):
        raise InputError("a tensor's size and strides are not two tuples of one length")
    if len(size) > _MOST_AXES:
        raise InputError(f"a tensor of more than {_MOST_AXES} axes")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in (offset, *size, *strides)):
        raise InputError("a tensor's size, strides or offset is no number from 0 to 2**48")
    if math.prod(max(n, 1) for n in size) >= 2**48:
        raise InputError(f"a tensor of size {size}")
    return sum(max(n - 1, 0) * step for n, step in zip(size, strides, strict=True))


class _TensorType:
    def __str__(self) -> str:
        return "the type torch.Tensor"


_TENSOR = _TensorType()


def _parameter(array: Any, gradient: Any, hooks: Any, state: Any = None) -> np.ndarray:
    if type(array) is not np.ndarray:
        raise TypeError
    return array


def _tensor_with_attributes(rebuild: Any, kind: Any, arguments: Any, state: Any) -> np.ndarray:
    """Returns a tensor without the attributes that somebody gave it."""
    known = isinstance(rebuild, Function) and rebuild.name.startswith("torch._utils._rebuild_")
    if not known or kind is not _TENSOR or type(arguments) is not tuple:
        raise TypeError
    array = rebuild.call(*arguments)
    if type(array) is not np.ndarray:
        raise TypeError
    return array


def _size(lengths: Any) -> tuple[int, ...]:
    if type(lengths) is not tuple or any(type(n) is not int for n in lengths):
        raise TypeError
    return lengths


def _device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or not (index is None or type(index) is int):
        raise TypeError
    return kind if index is None else f"{kind}:{index}"
