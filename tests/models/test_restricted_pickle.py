"""Malicious pickles in files of torch.save: refused by name, nothing run, no memory taken."""

import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from torch_files import (
    HOOKS,
    REBUILD,
    STORAGE,
    TENSOR,
    ZEROS,
    assert_same,
    legacy_bytes,
    pickle_file,
    refusal,
    saved,
    tensor,
    torch_save,
    view,
)

from medcolor_tf.errors import InputError
from medcolor_tf.models import restricted_pickle
from medcolor_tf.models.torch_file import read_torch_file

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


# Malicious pickles


def calls(module, name, *arguments):
    """A pickle that calls a function with texts."""
    texts = b"".join(b"X" + struct.pack("<I", len(a.encode())) + a.encode() for a in arguments)
    return b"\x80\x02c%b\n%b\n(%btR." % (module.encode(), name.encode(), texts)


TOUCH = "touch {marker}"
NAMED = {
    "os": ("os", "system", TOUCH),
    "posix": ("posix", "system", TOUCH),
    "nt": ("nt", "system", TOUCH),
    "subprocess": ("subprocess", "check_output", TOUCH),
    "eval": ("builtins", "eval", "open('{marker}', 'w')"),
    "python 2's eval": ("__builtin__", "eval", "open('{marker}', 'w')"),
    "exec": ("builtins", "exec", "open('{marker}', 'w')"),
    "open": ("builtins", "open", "{marker}", "w"),
    "io.open": ("io", "open", "{marker}", "w"),
    "getattr": ("builtins", "getattr", "a", "join"),
    "import": ("builtins", "__import__", "os"),
    "attrgetter": ("operator", "attrgetter", "system"),
    "methodcaller": ("operator", "methodcaller", "system"),
    "importlib": ("importlib", "import_module", "os"),
    "pickle in a pickle": ("pickle", "loads", "."),
    "pip": ("pip", "main", "install"),
    "webbrowser": ("webbrowser", "open", "x"),
    "torch.load": ("torch", "load", "x"),
    "torch.hub": ("torch.hub", "load", "x"),
    "storage from bytes": ("torch.storage", "_load_from_bytes", "x"),
    "neighbour by name": ("torch._utils", "_import_dotted_name", "os.system"),
    "neighbour, a type": ("torch._utils", "_rebuild_wrapper_subclass", "x"),
    "numpy's": ("numpy.core.multiarray", "_reconstruct", "x"),
    "numpy's file": ("numpy", "load", "x"),
    "method of what is allowed": ("collections", "OrderedDict.fromkeys", "x"),
    "globals of what is allowed": ("collections", "OrderedDict.__init__.__globals__", "x"),
    "module of what is allowed": ("collections", "abc", "x"),
    "codecs": ("_codecs", "decode", "x"),
    "defaultdict": ("collections", "defaultdict", "x"),
    "CUDA": ("torch.cuda", "FloatStorage", "x"),
    "a class": ("torch.nn.modules.linear", "Linear", "x"),
    "control characters": ("a\x1b[2Jb", "c\rd", "x"),
    "no module": ("", "eval", "1"),
}


@FORMATS
@pytest.mark.parametrize("kind", NAMED)
def test_other_names_are_refused(tmp_path, legacy, kind):
    module, name, *arguments = NAMED[kind]
    marker = tmp_path / "was run"
    content = calls(module, name, *(text.format(marker=marker) for text in arguments))
    reason = refusal(pickle_file(tmp_path, content, legacy))
    full = f"{module}.{name}".replace("__builtin__", "builtins")
    assert (full if full.isprintable() else ascii(full)) in reason
    assert reason.startswith("it names ")
    assert not marker.exists()


class Runs:
    """What a malicious object is: unpickling it calls this."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_alone_is_refused_and_not_run(tmp_path, protocol):
    path, marker = tmp_path / "bare.pth", tmp_path / "was run"
    path.write_bytes(pickle.dumps({"model": {}, "learner": Runs(marker)}, protocol=protocol))
    refusal(path)
    assert not marker.exists()
    for part in range(3):  # in place of the magic number, the protocol, the system
        parts = [pickle.dumps(value, protocol) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
        parts[part] = pickle.dumps(Runs(marker), protocol)
        path.write_bytes(b"".join(parts))
        refusal(path)
    assert not marker.exists()


def test_code_after_the_object_of_a_legacy_file(tmp_path):
    path, marker = tmp_path / "t.pth", tmp_path / "was run"
    keys = pickle.dumps([], protocol=2)
    head = legacy_bytes({"a": 1}).removesuffix(keys)
    path.write_bytes(head + pickle.dumps(Runs(marker), protocol=2))
    assert refusal(path) == "it names io.open, no dense tensor or plain value"
    assert not marker.exists()


OPCODES = {
    "INST": (b"(S'x'\nios\nsystem\n.", "opcode STRING"),
    "INST alone": (b"(ios\nsystem\n.", "opcode INST"),
    "OBJ": (b"(ccollections\nOrderedDict\no.", "opcode OBJ"),
    "EXT1": (b"\x82\x01.", "opcode EXT1"),
    "EXT2": (b"\x83\x01\x00.", "opcode EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00.", "opcode EXT4"),
    "NEWOBJ": (b"ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ_EX"),
    "PERSID": (b"Pstorage\n.", "opcode PERSID"),
    "DUP": (b"]2\x86.", "opcode DUP"),
    "POP": (b"]]0.", "opcode POP"),
    "NEXT_BUFFER": (b"\x97.", "opcode NEXT_BUFFER"),
    "READONLY_BUFFER": (b"B\x00\x00\x00\x00\x98.", "opcode READONLY_BUFFER"),
    "PUT": (b"]p0\n.", "opcode PUT"),
    "unknown": (b"\xff.", "no pickle is where one should be"),
    "protocol 0": (b"\x80\x00N.", "of protocol 0; expected 2 to 5"),
    "protocol 9": (b"\x80\x09N.", "of protocol 9; expected 2 to 5"),
    "BUILD of a dict": (b"}}X\x0c\x00\x00\x00__setstate__Nsb.", "sets the state of a dict"),
    "BUILD of a tensor": (TENSOR + b"}X\x01\x00\x00\x00xNsb.", "sets the state of a ndarray"),
    "BUILD of a function": (REBUILD + b"}b.", "sets the state of a Function"),
    "BUILD with slots": (b"ccollections\nOrderedDict\n)R}}\x86b.", "state of a OrderedDict"),
    "a function as value": (REBUILD + b".", "_rebuild_tensor_v2 outside of a tensor"),
    "a type as value": (b"ctorch\nTensor\n.", "the type torch.Tensor outside of a tensor"),
    "a storage's type as value": (b"ctorch\nFloatStorage\n\x85.", "a storage's type outside"),
    "a storage as value": (STORAGE + b"Q.", "a storage outside of a tensor"),
    "call of a text": (b"X\x01\x00\x00\x00a)R.", "it calls a str"),
    "call of an array": (TENSOR + b")R.", "it calls a ndarray"),
    "call of a type": (b"ctorch\nFloatStorage\n)R.", "it calls a _StorageType"),
    "call with a list": (REBUILD + b"]R.", "it calls a Function"),
    "too few arguments": (REBUILD + b")R.", "_rebuild_tensor_v2 with arguments of the wrong kind"),
    "no storage": (REBUILD + b"(NK\x00))" + HOOKS + b"tR.", "arguments of the wrong kind"),
    "parameter of text": (
        b"ctorch._utils\n_rebuild_parameter\n(X\x01\x00\x00\x00a\x89NtR.",
        "_rebuild_parameter with arguments of the wrong kind",
    ),
    "attributes of another type": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ccollections\nOrderedDict\nctorch\nTensor\n)}tR.",
        "_rebuild_from_type_v2 with arguments of the wrong kind",
    ),
    "bytes of a length": (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "builtins.bytes with"),
    "bytearray of a length": (
        b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        "bytearray with",
    ),
    "complex of text": (b"c__builtin__\ncomplex\nX\x01\x00\x00\x001K\x01\x86R.", "complex with"),
    "encode with a codec": (calls("_codecs", "encode", "x", "zlib"), "_codecs.encode with"),
    "encode what is not Latin": (calls("_codecs", "encode", "☃", "latin1"), "_codecs.encode with"),
    "size of text": (b"ctorch\nSize\nX\x01\x00\x00\x00a\x85R.", "torch.Size with"),
    "device of a list": (b"ctorch\ndevice\n]\x85R.", "torch.device with"),
    "set of a number": (b"c__builtin__\nset\nK\x01\x85R.", "makes a set of a int"),
    "OrderedDict of text": (b"ccollections\nOrderedDict\n](X\x02\x00\x00\x00abe\x85R.", "pairs"),
    "Counter of a list": (b"ccollections\nCounter\n]\x85R.", "makes a Counter of a list"),
    "name from a number": (b"K\x01K\x02\x93.", "a name in it is not text"),
    "name without an end": (b"cos", "a name in it has no end"),
    "name of 10,000": (b"c" + b"a" * 10_000 + b"\nb\n.", "a name in it has no end"),
    "append to a tuple": (b")Na.", "puts values into a tuple"),
    "append to a set": (b"\x8fNa.", "puts values into a set"),
    "extend an array": (TENSOR + b"(Ne.", "puts values into a ndarray"),
    "key of a list": (b"]K\x00Ns.", "puts values into a list"),
    "add to a dict": (b"}(K\x01\x90.", "puts values into a dict"),
    "a list as key": (b"}]Ns.", "is of type list"),
    "an array as key": (b"}" + TENSOR + b"Ns.", "is of type ndarray"),
    "a deep tuple as key": (b"}))\x86\x85Ns.", "is of type tuple"),
    "a long number as key": (b"}\x8a\x09" + b"\x01" * 9 + b"Ns.", "more than 64 bits"),
    "a key without a value": (b"}(K\x01u.", "a key without a value"),
    "an array in a set": (b"\x8f(" + TENSOR + b"\x90.", "is of type ndarray"),
    "empty stack": (b".", "takes a value that is not there"),
    "pop behind a mark": (b"N(\x85.", "takes a value that is not there"),
    "no mark": (b"Nt.", "takes values that are not there"),
    "no memo": (b"h\x05.", "recalls a value that is not there"),
    "no long memo": (b"j\xff\xff\xff\xff.", "recalls a value that is not there"),
    "two values": (b"NN.", "ends with more than one value"),
    "open mark": (b"(N.", "ends with more than one value"),
    "not UTF-8": (b"X\x02\x00\x00\x00\xed\xa0.", "not UTF-8"),
    "half a surrogate": (b"X\x03\x00\x00\x00\xed\xa0\x80.", "not UTF-8"),
    "holds itself": (b"]q\x00h\x00a.", "holds itself"),
    "dict holds itself": (b"}q\x00X\x05\x00\x00\x00modelh\x00s.", "holds itself"),
    "holds itself far inside": (b"]q\x00]h\x00\x85\x85aa.", "holds itself"),
    "persistent text": (b"X\x07\x00\x00\x00storageQ.", "not to a storage"),
    "persistent number": (b"K\x01Q.", "not to a storage"),
    "persistent None": (b"NQ.", "not to a storage"),
    "persistent array": (TENSOR + b"Q.", "not to a storage"),
    "persistent empty": (b")Q.", "not to a storage"),
    "persistent tuple of arrays": (b"(" + 5 * TENSOR + b"tQ.", "not to a storage"),
    "persistent list": (b"]" + STORAGE + b"aQ.", "not to a storage"),
    "persistent module": (
        STORAGE.replace(b"\x07\0\0\0storage", b"\x06\0\0\0module") + b"Q.",
        "not",
    ),
    "storage of another type": (
        STORAGE.replace(b"ctorch\nFloatStorage\n", REBUILD) + b"Q.",
        "not to a storage",
    ),
    "storage with a number as key": (
        STORAGE.replace(b"X\x01\x00\x00\x000", b"K\x00") + b"Q.",
        "key",
    ),
    "negative storage": (STORAGE.replace(b"K\x04", b"J\xff\xff\xff\xff") + b"Q.", "from 0 on"),
    "storage of true elements": (STORAGE.replace(b"K\x04", b"\x88") + b"Q.", "from 0 on"),
    "huge storage": (STORAGE.replace(b"K\x04", b"\x8a\x08" + b"\x7f" * 8) + b"Q.", "larger than"),
    "view of a storage": (STORAGE[:-1] + b"X\x01\x00\x00\x00aK\x00K\x01\x87tQ.", "before 0.4"),
    "array as view": (STORAGE[:-1] + TENSOR + b"tQ.", "before 0.4"),
    "storage of two types": (
        TENSOR + STORAGE.replace(b"Float", b"Int") + b"Q\x86.",
        "storage 0 is of two types or lengths",
    ),
    "storage of two lengths": (
        TENSOR + STORAGE.replace(b"K\x04", b"K\x03") + b"Q\x86.",
        "storage 0 is of two types or lengths",
    ),
}


@FORMATS
@pytest.mark.parametrize("kind", OPCODES)
def test_other_opcodes_and_structures_are_refused(tmp_path, legacy, kind):
    content, message = OPCODES[kind]
    assert message in refusal(pickle_file(tmp_path, content, legacy, ZEROS))


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"N", b"X\x02", b"X\x02\x00\x00\x00a", b"\x95\x00"]
)
def test_pickles_that_end_early_are_refused(tmp_path, content):
    assert refusal(pickle_file(tmp_path, content)) == "it ends too early"


def test_the_base_of_the_cases_above_is_good(tmp_path):
    for legacy in (False, True):
        path = pickle_file(tmp_path, TENSOR + b".", legacy, ZEROS)
        assert_same(read_torch_file(path), np.zeros(4, np.float32))


def test_containers_are_not_too_deep(tmp_path):
    def nested(depth):
        return read_torch_file(pickle_file(tmp_path, b"]" + b"\x85" * (depth - 1) + b"."))

    assert nested(100) is not None
    for depth in (101, 5000):
        with pytest.raises(InputError, match="more than 100 deep in one another"):
            nested(depth)
    shared = b"]" + b"\x85" * 60 + b"q\x00" + b"\x85" * 60 + b"h\x00\x86."
    assert "100 deep" in refusal(pickle_file(tmp_path, shared))
    reversed_order = b"]" + b"\x85" * 60 + b"q\x00h\x00" + b"\x85" * 60 + b"\x86."
    assert "100 deep" in refusal(pickle_file(tmp_path, reversed_order))
    assert "100 deep" in refusal(pickle_file(tmp_path, b"(" * 10_000))


def test_calls_within_calls_are_no_way_to_recurse(tmp_path):
    names = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00ctorch\nTensor\nq\x01"
    levels = b"(h\x00h\x01h\x02}tq\x02" * 2000
    content = b"(" + names + b")q\x02" + levels + b"h\x00h\x02Rt."
    assert refusal(pickle_file(tmp_path, content)) == (
        "it calls torch._tensor._rebuild_from_type_v2 with arguments of the wrong kind"
    )


# Memory and time


def repeated(start, unit, count=40_000):
    return b"\x80\x02" + start + unit * count + b"."


TEXT = b"X\x10\x27\x00\x00" + b"a" * 10_000
LATIN = b"X\x06\x00\x00\x00latin1"
LIST = b"](" + b"".join(b"M" + struct.pack("<H", n) for n in range(5_000)) + b"e"
TOO_LARGE, TOO_SHORT = "its values would take over 16 times its own size", "it ends too early"
BOMBS = {
    "lists": (repeated(b"", b"]"), TOO_LARGE),
    "dicts": (repeated(b"", b"}"), TOO_LARGE),
    "sets": (repeated(b"", b"\x8f"), TOO_LARGE),
    "frozensets": (repeated(b"", b"(\x91"), TOO_LARGE),
    "deep tuples": (repeated(b"N", b"\x85"), TOO_LARGE),
    "memo": (repeated(b"N", b"\x94"), TOO_LARGE),
    "memo far apart": (
        b"N" + b"".join(b"r" + struct.pack("<I", n << 15) for n in range(100_000)) + b".",
        TOO_LARGE,
    ),
    "OrderedDicts": (repeated(b"ccollections\nOrderedDict\nq\x00", b"h\x00)R"), TOO_LARGE),
    "sets of one list": (
        repeated(b"c__builtin__\nset\nq\x00" + LIST + b"q\x01", b"h\x00h\x01\x85R"),
        TOO_LARGE,
    ),
    "texts to bytes": (
        repeated(
            b"c_codecs\nencode\nq\x00" + TEXT + b"q\x01" + LATIN + b"q\x02", b"h\0h\1h\2\x86R"
        ),
        TOO_LARGE,
    ),
    "bytearrays": (
        repeated(b"c__builtin__\nbytearray\nq\x00" + b"B" + TEXT[1:] + b"q\x01", b"h\0h\1\x85R"),
        TOO_LARGE,
    ),
    "an expanded element": (
        TENSOR.replace(b"K\x04\x85K\x01", b"\x8a\x06" + b"\x01" * 6 + b"\x85K\x00") + b".",
        TOO_LARGE,
    ),
    "shared lists": (
        b"(]" + b"".join(b"q%c](%be" % (n, b"h%c" % n * 10) for n in range(40)) + b"t.",
        TOO_LARGE,
    ),
    "a text of 2**62 bytes": (b"\x8d" + struct.pack("<Q", 2**62), TOO_SHORT),
    "bytes of 2**62": (b"\x8e" + struct.pack("<Q", 2**62), TOO_SHORT),
    "a bytearray of 2**62 bytes": (b"\x96" + struct.pack("<Q", 2**62), TOO_SHORT),
    "a text of 2**31 bytes": (b"T" + struct.pack("<I", 2**31) + b"a", TOO_SHORT),
    "a number of 2**31 bytes": (b"\x8b" + struct.pack("<I", 2**31) + b"a", TOO_SHORT),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_small_files_do_not_become_large(tmp_path, monkeypatch, kind):
    """With 1 MiB free in place of 16, so that small files, which are quick, show it."""
    monkeypatch.setattr(restricted_pickle, "_MEMORY_AT_LEAST", 1 << 20)
    content, message = BOMBS[kind]
    path = pickle_file(tmp_path, content, storages=ZEROS)
    tracemalloc.start()
    try:
        assert refusal(path) == message
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**21 + 30 * path.stat().st_size


def test_a_storage_in_many_tensors(tmp_path):
    """A few times is usual (tied weights); thousands of times would be gigabytes once copied."""
    whole = tensor(np.zeros(100_000, np.float32))
    times = [view(whole, (100_000,), (1,)) for _ in range(10)]
    assert len(saved(times, tmp_path / "t.pth")) == 10
    times = [view(whole, (100_000,), (1,)) for _ in range(1000)]
    torch_save(times, tmp_path / "t.pth")
    assert "would take over 16 times its own size" in refusal(tmp_path / "t.pth")


def test_many_keys_of_one_hash(tmp_path):
    """Tuples can be made to collide, which takes quadratic time."""
    assert len(saved({(n,): n for n in range(1000)}, tmp_path / "t.pth")) == 1000
    torch_save({(n,): n for n in range(1001)}, tmp_path / "t.pth")
    assert "more than 1000 keys" in refusal(tmp_path / "t.pth")


def test_large_files_need_little_more_than_themselves(tmp_path):
    path = tmp_path / "t.pth"
    for legacy in (False, True):
        torch_save({f"w{n}": np.ones(2**18, np.float32) for n in range(16)}, path, legacy=legacy)
        tracemalloc.start()
        value = read_torch_file(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert value["w15"].sum() == 2**18
        assert peak < 1.3 * path.stat().st_size
