"""The same image twice: by what its path means on the disk, and by the content of its file.

An image that two rows name could be trained on and tested on, so it is an error, or the first row
is taken. Files of different sizes differ; of the others SHA-256 is compared. Digests are kept in
the build's folder, under a hash of the file's path, size and time, so that a build that continues
reads no file for them again.
"""

import collections
import concurrent.futures
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np

from data_prep.building.shards import BUILD_FOLDER
from data_prep.sources.paths import resolve_source
from data_prep.sources.source import Source
from medcolor_tf.errors import InputError
from medcolor_tf.files import file_sha256, read_json, write_atomically
from medcolor_tf.progress import Progress

POLICIES = ("error", "keep_first")
SHOWN = 5
AT_ONCE = 1024
MOST_BYTES = 2**32  # of our own list, which has a line per image


class ContentDigests:
    """SHA-256 of files, each read once in the life of a build."""

    def __init__(self, folder: Path, part: str = ""):
        """Opens what earlier runs of the build in ``folder`` found out.

        Args:
            folder: the data set's.
            part: "2/8" or "", which has a file of its own.
        """
        suffix = part.replace("/", "-of-")
        self._path = folder / BUILD_FOLDER / f"digests{'-' if suffix else ''}{suffix}.json"
        self._known: dict[str, str] = {}
        self._is_saved = True
        for path in sorted(self._path.parent.glob("digests*.json")):
            try:
                self._known.update(read_json(path, MOST_BYTES))
            except (OSError, ValueError, TypeError):
                continue  # cut off by a power cut: the files are read again

    def save(self) -> None:
        """Writes what was found out into the build's folder, which exists by now."""
        if not self._is_saved:
            write_atomically(self._path, json.dumps(self._known), mode=0o600)
            self._is_saved = True

    def of_files(self, files: Sequence[str], workers: int = 0) -> dict[str, str]:
        """Returns file -> SHA-256 of those whose size another one has; the others are unique.

        Files that are empty or cannot be read are left out: the build rejects them.

        Args:
            files: resolved paths; may repeat.
            workers: threads that read; 0: one per core.
        """
        states = {file: state for file in set(files) if (state := _size_and_time(file))}
        sizes = collections.Counter(size for size, _ in states.values())
        names = {
            file: _state_name(file, size, time)
            for file, (size, time) in states.items()
            if size and sizes[size] > 1
        }
        unread = [file for file in sorted(names) if names[file] not in self._known]
        for file, digest in _read_digests(unread, workers or os.cpu_count() or 1):
            self._known[names[file]] = digest
            self._is_saved = False
        return {file: self._known[name] for file, name in names.items() if name in self._known}


def _read_digests(files: Sequence[str], workers: int):
    """Yields (file, SHA-256); hashing leaves Python's lock, so threads share the work."""
    if not files:
        return
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        Progress("comparing contents", len(files)) as progress,
    ):
        for start in range(0, len(files), AT_ONCE):
            some = files[start : start + AT_ONCE]
            for file, digest in zip(some, pool.map(_digest, some), strict=True):
                progress.update()
                if digest:
                    yield file, digest


def _digest(file: str) -> str:
    try:
        return file_sha256(Path(file))
    except OSError:
        return ""


def _size_and_time(file: str) -> tuple[int, int] | None:
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _state_name(file: str, size: int, time: int) -> str:
    # A hash, so that the build's folder names no source file.
    text = f"{file}\0{size}\0{time}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def settle_listed_twice(source: Source, policy: str) -> Source:
    """Returns the source without rows of the same files: same resolved paths, in order.

    Raises:
        InputError: there are some, and ``policy`` is "error" or they are in different splits.
    """
    return _settle(source, resolve_source(source), policy, "was already listed in {first}")


def settle_same_content(
    source: Source, policy: str, digests: ContentDigests, workers: int = 0
) -> Source:
    """Returns the source without rows whose files have the content of an earlier row's.

    Raises:
        InputError: there are some, and ``policy`` is "error" or they are in different splits.
    """
    paths = resolve_source(source)
    contents = digests.of_files([path for row in paths for path in row], workers)
    keys = [tuple(contents.get(path, path) for path in row) for row in paths]
    return _settle(source, keys, policy, "has the same content as {path} in {first}")


def _settle(source: Source, keys: Sequence[Hashable], policy: str, message: str) -> Source:
    """Refuses or leaves out rows whose key an earlier row has."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    repeated = [rows for rows in groups.values() if len(rows) > 1]
    if not repeated:
        return source
    splits = source.records["split"].to_numpy()
    across = [rows for rows in repeated if len({splits[row] for row in rows} - {""}) > 1]
    if across:
        # The first row, and the first one of another split.
        pairs = [
            (first, next(row for row in rows if splits[row] not in ("", splits[first])))
            for rows in across
            for first in [next(row for row in rows if splits[row])]
        ]
        _refuse(
            source,
            pairs,
            message,
            "expected an image in one official split alone; take it out of one of them",
            lambda row: f" ({splits[row]})",
        )
    later = np.sort([row for rows in repeated for row in rows[1:]])
    if policy == "error":
        first_of = {row: rows[0] for rows in repeated for row in rows[1:]}
        _refuse(
            source,
            [(first_of[row], row) for row in later],
            message,
            "expected every image once; --duplicates=keep_first takes the first row of each",
        )
    _say_left_out(source, repeated, len(later))
    kept = np.ones(len(keys), bool)
    kept[later] = False
    return source.take(kept)


def _refuse(
    source: Source,
    pairs: Sequence[tuple[int, int]],
    message: str,
    expected: str,
    note: Callable[[int], str] = lambda row: "",
) -> None:
    """Raises InputError that names the rows (earlier, later) of each pair."""
    where, path = (source.records[name].to_numpy() for name in ("where", "path_0"))
    lines = [
        f"{where[row]}{note(row)}: image {path[row]} "
        + message.format(path=path[first], first=f"{where[first]}{note(first)}")
        for first, row in pairs[:SHOWN]
    ]
    more = [f"and {len(pairs) - SHOWN:,} more"] if len(pairs) > SHOWN else []
    raise InputError("\n".join((*lines, *more, expected)))


def _say_left_out(source: Source, repeated: Sequence[Sequence[int]], count: int) -> None:
    patients, raw = source.records["patient"].to_numpy(), source.raw
    others = sum(patients[row] != patients[rows[0]] for rows in repeated for row in rows[1:])
    labels = sum(
        not np.array_equal(raw[row], raw[rows[0]], equal_nan=True)
        for rows in repeated
        for row in rows[1:]
    )
    print(
        f"note: {count:,} of {len(patients):,} rows are left out because an earlier one has the "
        f"same image (--duplicates=keep_first); {others:,} of them named another patient, "
        f"{labels:,} other labels"
    )
