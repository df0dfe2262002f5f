"""Pickles of plain values, read by an interpreter that imports nothing and calls no code of theirs.

Python's unpickler imports what a pickle names and calls it. This one knows the opcodes that
picklers write for numbers, text and containers (protocols 2 to 5), and a table of functions that
its caller trusts. Anything else, and a pickle that would fill the memory, is an InputError.
"""

import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from medcolor_tf.errors import InputError

# Bytes that a value takes, roughly; the opcode for it may be a single byte.
_CONTAINER, _HASH_TABLE, _ENTRY = 64, 256, 100
_MEMORY_FACTOR, _MEMORY_AT_LEAST = 16, 1 << 24
_DEEPEST = 100  # containers in one another
_LONGEST_NAME = 1000
_MOST_TUPLE_KEYS = 1000
_LATIN = ("latin1", "latin-1")
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_Dict = TypeVar("_Dict", bound=dict)
_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray)


@dataclass(frozen=True, eq=False)
class Function:
    """A function that a pickle may call: its name there, and what is called in its place."""

    name: str
    call: Callable[..., Any]

    def __str__(self) -> str:
        return self.name


class Budget:
    """The memory that a file's values may take: 16 times its size and 16 MiB."""

    def __init__(self, file_size: int):
        self._left = _MEMORY_FACTOR * file_size + _MEMORY_AT_LEAST

    def charge(self, size: int) -> None:
        """Takes `size` bytes; raises InputError where they are not left."""
        self._left -= size
        if self._left < 0:
            raise InputError(f"its values would take over {_MEMORY_FACTOR} times its own size")


class BoundedReader:
    """Reads the next `size` bytes of a file, and asks for no memory before it knows they are there.

    Attributes:
        left: bytes that are still to come.
    """

    def __init__(self, file: BinaryIO, size: int):
        self._file, self.left = file, size

    def read(self, size: int) -> bytes:
        """Returns `size` bytes; raises InputError where there are fewer."""
        data = self._file.read(size) if size <= self.left else b""
        if len(data) != size:
            raise InputError("it ends too early")
        self.left -= size
        return data

    def read_line(self) -> str:
        """Returns the text up to the next line feed."""
        data = self._file.readline(min(self.left, _LONGEST_NAME))
        self.left -= len(data)
        if not data.endswith(b"\n"):
            raise InputError("a name in it has no end")
        return _text(data[:-1])


def printable(text: str) -> str:
    """Returns text from a file as a message may show it: short, without control characters."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 100 else f"{text[:100]}…"


class Unpickler:
    """Reads one pickle.

    Args:
        source: where it begins; it is read up to the end of the pickle and no further.
        names: "module.name" → what the pickle gets for it, a :class:`Function` where it may call
            it. Plain containers' own names are known without it.
        load_persistent: given a persistent id, returns its value.
        budget: of the file.
    """

    def __init__(
        self,
        source: BoundedReader,
        names: Mapping[str, Any],
        load_persistent: Callable[[Any], Any],
        budget: Budget,
    ):
        self._source, self._load_persistent, self._budget = source, load_persistent, budget
        containers = {
            "collections.OrderedDict": self._ordered_dict,
            "collections.Counter": self._counter,
            "builtins.set": lambda items: set(self._members(items)),
            "builtins.frozenset": lambda items: frozenset(self._members(items)),
            "builtins.complex": _complex,
            "builtins.bytes": _bytes,
            "builtins.bytearray": _bytearray,
            "_codecs.encode": _encode,
        }
        functions = {name: Function(name, call) for name, call in containers.items()}
        self._names: dict[str, Any] = {**functions, **names}
        self._stack: list = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._tuple_keys = 0

    def load(self) -> Any:
        """Returns the pickle's value; see :func:`check_plain`.

        Raises:
            InputError: damaged, or with something that is not allowed, which it names.
        """
        while (code := self._source.read(1)) != pickle.STOP:
            if code not in _ACTIONS:
                known = _OPCODES.get(code.decode("latin-1"))
                raise InputError(
                    f"it uses the pickle opcode {known.name}, which no plain value needs"
                    if known
                    else "no pickle is where one should be"
                )
            action, *arguments = _ACTIONS[code]
            action(self, *arguments)
        value = self._pop()
        if self._stack or self._marks:
            raise InputError("a pickle in it ends with more than one value")
        return value

    # The stack

    def _top(self, *kinds: type) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise InputError("a pickle in it takes a value that is not there")
        top = self._stack[-1]
        if kinds and type(top) not in kinds:
            raise InputError(f"a pickle in it puts values into a {type(top).__name__}")
        return top

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _push(self, value: Any, size: int = 0) -> None:
        self._budget.charge(size)
        self._stack.append(value)

    def _mark(self) -> None:
        if len(self._marks) == 2 * _DEEPEST:
            raise InputError(f"its values are more than {_DEEPEST} deep in one another")
        self._marks.append(len(self._stack))

    def _pop_mark(self) -> list:
        if not self._marks:
            raise InputError("a pickle in it takes values that are not there")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    # Numbers, text, containers

    def _read_number(self, layout: str) -> Any:
        return struct.unpack(layout, self._source.read(struct.calcsize(layout)))[0]

    def _number(self, layout: str) -> None:
        self._push(self._read_number(layout))

    def _sized(self, layout: str, decode: Callable[[bytes], Any]) -> None:
        self._push(decode(self._source.read(self._read_number(layout))))

    def _empty(self, kind: type) -> None:
        self._push(kind(), _HASH_TABLE if kind is set else _CONTAINER)

    def _tuple(self, length: int) -> None:
        items = [self._pop() for _ in range(length)]
        self._push(tuple(reversed(items)), _CONTAINER)

    def _tuple_from_mark(self) -> None:
        self._push(tuple(self._pop_mark()), _CONTAINER)

    def _append(self) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _append_from_mark(self) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._fill(self._top(dict, OrderedDict), [(key, value)])

    def _set_items_from_mark(self) -> None:
        items = self._pop_mark()
        if len(items) % 2:
            raise InputError("a pickle in it gives a dict a key without a value")
        pairs = zip(items[::2], items[1::2], strict=True)
        self._fill(self._top(dict, OrderedDict), pairs)

    def _add_items_from_mark(self) -> None:
        items = self._members(self._pop_mark())
        self._top(set).update(items)

    def _frozenset_from_mark(self) -> None:
        self._push(frozenset(self._members(self._pop_mark())), _HASH_TABLE)

    def _fill(self, target: _Dict, pairs: Iterable[tuple[Any, Any]]) -> _Dict:
        for key, value in pairs:
            self._budget.charge(_ENTRY)
            self._check_key(key)
            target[key] = value
        return target

    def _members(self, items) -> list:
        if type(items) is not list:
            raise InputError(f"it makes a set of a {type(items).__name__}")
        self._budget.charge(_ENTRY * len(items))
        for item in items:
            self._check_key(item)
        return items

    def _check_key(self, key: Any) -> None:
        """Refuses keys that are slow to hash or to tell apart: deep tuples, long numbers."""
        parts = (key,)
        if type(key) is tuple:
            self._tuple_keys += 1
            parts = key
        for part in parts:
            if type(part) not in (type(None), bool, int, float, str, bytes):
                raise InputError(f"a key or a set's member is of type {type(part).__name__}")
            if type(part) is int and not -(2**63) <= part < 2**64:
                raise InputError("a key or a set's member is a number of more than 64 bits")
        if self._tuple_keys > _MOST_TUPLE_KEYS:
            raise InputError(f"more than {_MOST_TUPLE_KEYS} keys or sets' members are tuples")

    def _ordered_dict(self, items: Any = ()) -> OrderedDict:
        pairs: list[Any] = list(items) if type(items) in (list, tuple) else [None]
        if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
            raise InputError("it makes an OrderedDict of something other than pairs")
        return self._fill(OrderedDict(), pairs)

    def _counter(self, counts: Any) -> dict:
        if type(counts) is not dict:
            raise InputError(f"it makes a Counter of a {type(counts).__name__}")
        return self._fill({}, counts.items())

    # Memo, names, calls

    def _put(self, layout: str = "") -> None:
        self._budget.charge(_ENTRY)
        index = self._read_number(layout) if layout else len(self._memo)
        self._memo[index] = self._top()

    def _get(self, layout: str) -> None:
        index = self._read_number(layout)
        if index not in self._memo:
            raise InputError("a pickle in it recalls a value that is not there")
        self._push(self._memo[index])

    def _global(self) -> None:
        self._push_named(self._source.read_line(), self._source.read_line())

    def _global_from_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise InputError("a name in it is not text")
        self._push_named(module, name)

    def _push_named(self, module: str, name: str) -> None:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in self._names:
            raise InputError(f"it names {printable(full)}, no dense tensor or plain value")
        self._push(self._names[full])

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise InputError(f"it calls a {type(function).__name__}")
        size = sum(2 * len(a) for a in arguments if type(a) in (str, bytes, bytearray))
        self._budget.charge(_HASH_TABLE + size)
        try:
            result = function.call(*arguments)
        except TypeError:
            raise InputError(f"it calls {function} with arguments of the wrong kind") from None
        self._push(result)

    def _persistent(self) -> None:
        self._push(self._load_persistent(self._pop()))

    def _build(self) -> None:
        """Drops an OrderedDict's attributes: a state_dict has its modules' versions there."""
        state = self._pop()
        target = self._top()
        if type(target) is not OrderedDict or type(state) is not dict:
            raise InputError(f"it sets the state of a {type(target).__name__}")

    def _protocol(self) -> None:
        version = self._read_number("<B")
        if not 2 <= version <= 5:
            raise InputError(f"a pickle in it is of protocol {version}; expected 2 to 5")

    def _frame(self) -> None:
        self._source.read(8)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("a text in it is not UTF-8") from None


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError
    return complex(real, imaginary)


def _bytes() -> bytes:
    return b""  # protocol 2 writes bytes() for them; bytes(n) would be n zeros


def _bytearray(content: Any = b"", encoding: Any = "latin-1") -> bytearray:
    if type(content) is not bytes:  # a number would be a length
        content = _encode(content, encoding)
    return bytearray(content)


def _encode(text: Any, encoding: Any) -> bytes:
    """Returns bytes that protocol 2 writes as text."""
    if type(text) is not str or type(encoding) is not str or encoding not in _LATIN:
        raise TypeError
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise TypeError from None


_ACTIONS: dict[bytes, tuple] = {
    pickle.PROTO: (Unpickler._protocol,),
    pickle.FRAME: (Unpickler._frame,),
    pickle.NONE: (Unpickler._push, None),
    pickle.NEWTRUE: (Unpickler._push, True),
    pickle.NEWFALSE: (Unpickler._push, False),
    pickle.BININT1: (Unpickler._number, "<B"),
    pickle.BININT2: (Unpickler._number, "<H"),
    pickle.BININT: (Unpickler._number, "<i"),
    pickle.BINFLOAT: (Unpickler._number, ">d"),
    pickle.LONG1: (Unpickler._sized, "<B", _long),
    pickle.LONG4: (Unpickler._sized, "<I", _long),
    pickle.SHORT_BINUNICODE: (Unpickler._sized, "<B", _text),
    pickle.BINUNICODE: (Unpickler._sized, "<I", _text),
    pickle.BINUNICODE8: (Unpickler._sized, "<Q", _text),
    pickle.SHORT_BINSTRING: (Unpickler._sized, "<B", _text),
    pickle.BINSTRING: (Unpickler._sized, "<I", _text),
    pickle.SHORT_BINBYTES: (Unpickler._sized, "<B", bytes),
    pickle.BINBYTES: (Unpickler._sized, "<I", bytes),
    pickle.BINBYTES8: (Unpickler._sized, "<Q", bytes),
    pickle.BYTEARRAY8: (Unpickler._sized, "<Q", bytearray),
    pickle.MARK: (Unpickler._mark,),
    pickle.EMPTY_TUPLE: (Unpickler._push, ()),
    pickle.TUPLE1: (Unpickler._tuple, 1),
    pickle.TUPLE2: (Unpickler._tuple, 2),
    pickle.TUPLE3: (Unpickler._tuple, 3),
    pickle.TUPLE: (Unpickler._tuple_from_mark,),
    pickle.EMPTY_LIST: (Unpickler._empty, list),
    pickle.APPEND: (Unpickler._append,),
    pickle.APPENDS: (Unpickler._append_from_mark,),
    pickle.EMPTY_DICT: (Unpickler._empty, dict),
    pickle.SETITEM: (Unpickler._set_item,),
    pickle.SETITEMS: (Unpickler._set_items_from_mark,),
    pickle.EMPTY_SET: (Unpickler._empty, set),
    pickle.ADDITEMS: (Unpickler._add_items_from_mark,),
    pickle.FROZENSET: (Unpickler._frozenset_from_mark,),
    pickle.BINPUT: (Unpickler._put, "<B"),
    pickle.LONG_BINPUT: (Unpickler._put, "<I"),
    pickle.MEMOIZE: (Unpickler._put,),
    pickle.BINGET: (Unpickler._get, "<B"),
    pickle.LONG_BINGET: (Unpickler._get, "<I"),
    pickle.GLOBAL: (Unpickler._global,),
    pickle.STACK_GLOBAL: (Unpickler._global_from_stack,),
    pickle.REDUCE: (Unpickler._call,),
    pickle.BINPERSID: (Unpickler._persistent,),
    pickle.BUILD: (Unpickler._build,),
}


def check_plain(value: Any, budget: Budget, leaves: tuple[type, ...] = ()) -> None:
    """Checks that a value is of plain types alone, that nothing holds itself and all ends soon.

    A list of ten times the same list, and so on, is small until somebody walks through it: each
    time that a walk meets a value counts as one byte.

    Args:
        value: of an :class:`Unpickler`.
        budget: of the file.
        leaves: further types that are allowed.

    Raises:
        InputError: something else in it, a container in itself, too deep or too long a walk.
    """
    measures: dict[int, tuple[int, int] | None] = {}  # None: not finished

    def measure(value: Any, above: int) -> tuple[int, int]:
        """Returns (containers in one another, values on a walk)."""
        if type(value) in (*_SCALARS, *leaves):
            return 0, 1
        if type(value) not in (dict, OrderedDict, list, tuple, set, frozenset):
            raise InputError(f"it holds {printable(str(value))} outside of a tensor")
        if id(value) not in measures:
            measures[id(value)] = None
            parts = value.values() if isinstance(value, dict) else value
            inner = [measure(part, above + 1) for part in parts] if above < _DEEPEST else [(1, 0)]
            depths, sizes = zip(*inner, strict=True) if inner else ((0,), (0,))
            measures[id(value)] = 1 + max(depths), 1 + sum(sizes)
        result = measures[id(value)]
        if result is None:
            raise InputError("a container in it holds itself")
        if above + result[0] > _DEEPEST:
            raise InputError(f"its values are more than {_DEEPEST} deep in one another")
        return result

    budget.charge(measure(value, 0)[1])
