"""Where the pictures are: folders that are searched, and what a path means on the disk."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.sources.source import Source, Texts
from medcolor_tf.errors import InputError

SHOWN = 5


def walk_files(root: Path, allow_outside: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yields (folder, file names) below a root, links to folders included, each folder once.

    Folders and names come in order, so that a folder with two names has the same one on every run;
    a link to a folder that was seen already, such as a loop, is not followed.

    Args:
        root: folder to search.
        allow_outside: follow links to folders that are not below the root; else they are said.
    """
    real_root, seen, outside = os.path.realpath(root), set(), []
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        if not allow_outside and not is_inside(real, real_root):
            outside.append(folder)
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{folder}: cannot be searched ({error.strerror})") from None
        is_folder = {entry.name: _is_folder(entry) for entry in entries}
        yield folder, [name for name, inner in is_folder.items() if not inner]
        folders += [entry.path for entry in reversed(entries) if is_folder[entry.name]]
    if outside:
        print(
            f"note: {len(outside):,} links to folders outside {root} are not followed "
            f"({', '.join(outside[:SHOWN])}); --allow_outside_root follows them"
        )


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_inside(path: str, root: str) -> bool:
    """Tells whether a resolved path is a resolved root or below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def resolve_paths(root: str | os.PathLike, paths: Texts) -> list[str]:
    """Returns what each path means on the disk: absolute, without links, dots and doubled slashes.

    A folder's links are looked up once, however many files it has.
    """
    folders: dict[str, str] = {}
    resolved = []
    for path in paths:
        folder, name = os.path.split(os.path.join(root, path))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        full = os.path.join(folders[folder], name)
        if name in ("", ".", "..") or os.path.islink(full):
            full = os.path.realpath(full)
        resolved.append(full)
    return resolved


def resolve_source(source: Source) -> list[tuple[str, ...]]:
    """Returns the resolved path per channel of each of the N images."""
    records = source.records
    columns = [resolve_paths(source.root, records[name].to_numpy()) for name in source.path_columns]
    return list(zip(*columns, strict=True))


def refuse_unusable_paths(source: Source, allow_outside: bool) -> None:
    """Raises InputError, with the rows, for paths that no file has or that leave the root."""
    records = source.records
    for name in source.path_columns:
        for where, path in zip(records["where"], records[name], strict=True):
            if "\0" in path:
                raise InputError(f"{where}: image path {path!r}; expected no zero byte")
    if allow_outside:
        return
    root = os.path.realpath(source.root)
    resolved = resolve_source(source)
    outside = [
        row
        for row, paths in enumerate(resolved)
        if not all(is_inside(path, root) for path in paths)
    ]
    if not outside:
        return
    lines = []
    for row in outside[:SHOWN]:
        channel = next(c for c, path in enumerate(resolved[row]) if not is_inside(path, root))
        path = records[f"path_{channel}"].iloc[row]
        lines.append(f"  {records['where'].iloc[row]}: {path} is {resolved[row][channel]}")
    more = [f"  and {len(outside) - SHOWN:,} more"] if len(outside) > SHOWN else []
    raise InputError(
        "\n".join(
            (
                f"{len(outside):,} of {len(records):,} image paths leave the root folder {root}:",
                *lines,
                *more,
                "expected paths below it; --allow_outside_root accepts them",
            )
        )
    )


def take_present(source: Source) -> Source:
    """Returns the source without the images whose files are not there, and says how many.

    Raises:
        InputError: none is there.
    """
    records = source.records
    present = np.ones(len(records), bool)
    for name in source.path_columns:
        present &= [os.path.isfile(os.path.join(source.root, path)) for path in records[name]]
    if not present.any():
        raise InputError(
            f"{source.root}: none of the {len(records):,} image files is there, the first is "
            f"{records['path_0'].iloc[0]} ({records['where'].iloc[0]})"
        )
    if not present.all():
        print(
            f"note: {(~present).sum():,} of {len(records):,} images are left out because their "
            f"files are not there (--missing=skip); left are {_count_by_split(records, present)}"
        )
    return source.take(present)


def _count_by_split(records, rows: np.ndarray) -> str:
    counts = records["split"][rows].value_counts(sort=False)
    everything = records["split"].value_counts(sort=False)
    return ", ".join(
        f"{counts.get(split, 0):,} of {total:,}" + (f" of the official {split}" if split else "")
        for split, total in everything.items()
    )
