"""Loads Keras model files that may be anybody's: no code, and no more memory than they fill."""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from medcolor_tf.errors import InputError
from medcolor_tf.files import MAX_JSON_BYTES, parse_json

MOST_MEMBERS = 1000
# A file may unpack to so many times its size; weights hardly shrink.
MOST_EXPANSION, ALWAYS_ALLOWED_BYTES = 20, 64 * 2**20


def load_model(path: Path) -> Any:
    """Loads a ``.keras`` file; what it declares is compared with what it holds before it is built.

    Safe mode: no Lambda layers, so that opening somebody's file runs none of their code.

    Raises:
        InputError: too many or too large parts, or layers of more weights than the file holds.
    """
    with _limited_weights(path, _stored_bytes(path)):
        return keras.saving.load_model(path, compile=False, safe_mode=True)


def _stored_bytes(path: Path) -> int:
    """Bytes that the file unpacks to."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        most = max(ALWAYS_ALLOWED_BYTES, MOST_EXPANSION * path.stat().st_size)
        if len(members) > MOST_MEMBERS or size > most:
            raise InputError(
                f"{path}: {len(members):,} parts of {size:,} bytes, expected at most "
                f"{MOST_MEMBERS:,} parts of {most:,} bytes"
            )
        for member in members:
            if not member.filename.endswith(".json"):
                continue
            where = f"{path}: {member.filename}"
            if member.file_size > MAX_JSON_BYTES:
                raise InputError(
                    f"{where}: {member.file_size:,} bytes, expected at most {MAX_JSON_BYTES:,}"
                )
            parse_json(archive.read(member), where)
    return size


@contextlib.contextmanager
def _limited_weights(path: Path, stored: int) -> Iterator[None]:
    """While it holds, layers may be built with as many weights as ``stored`` bytes can fill.

    A weight fills a byte at least. The shapes that layers get follow from one another, so they are
    known when each asks for its weights, not from the file's text.
    """
    layer: Any = keras.layers.Layer
    original, total = layer.add_weight, 0

    def add_weight(self, shape=None, *arguments, **options):
        nonlocal total
        total += math.prod(shape or ())
        if total > stored:
            raise InputError(
                f"{path}: layer {self.name} declares weights of shape {tuple(shape or ())}, "
                f"{total:,} in all so far, but the file holds {stored:,} bytes"
            )
        return original(self, shape, *arguments, **options)

    layer.add_weight = add_weight
    try:
        yield
    finally:
        layer.add_weight = original
