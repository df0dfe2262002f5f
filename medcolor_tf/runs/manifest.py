"""The SHA-256 of every file of a folder, in one JSON file that is written with them.

Files and manifest cannot change in one step, so a change has three: the manifest says what each
file is about to become (``next``), the files are replaced one by one, the manifest says what they
are. Wherever the power goes, each file is one that the manifest allows. Only one process at a time
may write to a folder. Imports no Keras.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medcolor_tf import schema_check as schema
from medcolor_tf.errors import InputError
from medcolor_tf.files import (
    file_sha256,
    read_json,
    remove,
    replacing,
    sealed,
    unsealed,
    write_atomically,
    write_json,
)

FORMAT_VERSION = 1
_DIGEST = schema.text(64, schema.SHA256, "a SHA-256 in hexadecimal digits")
_FILE = schema.text(255, re.compile(r"[^/\\]+"), "a file's name without folders")
_SCHEMA = schema.record(
    {
        "format_version": schema.one_of((FORMAT_VERSION,)),
        "files": schema.mapping_of(schema.record({}, {"sha256": _DIGEST, "next": _DIGEST}), 10_000),
    },
    {"log": schema.text(32 * 2**20)},
)


@dataclass(frozen=True)
class Entry:
    """What a file may be.

    Attributes:
        sha256: what it is; "" where it was not there before the change at hand.
        next: what a change that may not be complete makes of it; "" without one.
    """

    sha256: str = ""
    next: str = ""

    @property
    def allowed(self) -> set[str]:
        """The digests that the file may have."""
        return {self.sha256, self.next} - {""}


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds.

    Attributes:
        path: of the manifest.
        files: name -> what the file may be.
        log: a copy of the run's log, so that a damaged one loses no row.
    """

    path: Path
    files: Mapping[str, Entry] = field(default_factory=dict)
    log: str = ""

    @classmethod
    def load(cls, path: Path) -> "Manifest | None":
        """Reads a manifest; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        if not path.is_file():
            return None
        try:
            stored = read_json(path)
            if "sha256" not in stored:
                raise InputError(f"{path}: no sha256, that of its content")
            content = unsealed(stored, path)
            _SCHEMA(content, str(path))
            for name in content["files"]:
                _FILE(name, f"{path}: files")
        except InputError as error:
            raise InputError(
                f"{error}. Delete {path.name} to have the files beside it read as they are, "
                "unchecked"
            ) from None
        files = {name: Entry(**entry) for name, entry in content["files"].items()}
        return cls(path, files, content.get("log", ""))

    @classmethod
    def of_files(cls, path: Path, names: Iterable[str], log: str = "") -> "Manifest":
        """Takes the files that are there as they are, for a folder that has no manifest."""
        present = (path.parent / name for name in names)
        files = {file.name: Entry(file_sha256(file)) for file in present if file.is_file()}
        return cls(path, files, log)

    def save(self) -> None:
        """Writes it; a power cut leaves the old one or the new one."""
        files = {
            name: {key: value for key, value in vars(entry).items() if value}
            for name, entry in self.files.items()
        }
        content = {"format_version": FORMAT_VERSION, "files": files}
        if self.log:
            content["log"] = self.log
        write_json(self.path, sealed(content))

    def lists(self, name: str) -> bool:
        """Whether the file was there when the last change began, or was complete."""
        return bool(self.files.get(name, Entry()).sha256)

    def problem(self, name: str) -> str:
        """Says what is wrong with a file, "" where it is what the manifest says.

        A file that another process replaces meanwhile is looked at again.
        """
        manifest: Manifest | None = self
        while manifest is not None:
            problem = manifest._problem(name)
            if not problem:
                return ""
            later = Manifest.load(self.path)
            if later == manifest:
                return problem
            manifest = later
        return ""

    def _problem(self, name: str) -> str:
        path, entry = self.path.parent / name, self.files.get(name, Entry())
        if not path.is_file():
            return f"no such file, but {self.path.name} lists it" if entry.sha256 else ""
        if not entry.allowed:
            return (
                f"{self.path.name} does not list it: it is another folder's. Take it away, or "
                f"delete {self.path.name} to have all files read as they are"
            )
        try:
            digest = file_sha256(path)
        except OSError as error:
            return f"cannot be read ({error})"
        if digest in entry.allowed:
            return ""
        expected = " or ".join(sorted(f"{digest[:12]}..." for digest in entry.allowed))
        return (
            f"damaged, or another run's file: SHA-256 {digest[:12]}..., expected {expected} "
            f"({self.path.name}); restore it from a copy"
        )

    def resolved(self) -> "Manifest":
        """What it is after a change that may not have been completed."""
        files = {}
        for name, entry in self.files.items():
            path = self.path.parent / name
            if entry.next and path.is_file():
                digest = file_sha256(path)
                entry = Entry(digest) if digest in entry.allowed else entry
            elif entry.next:
                entry = Entry(entry.sha256)
            if entry.allowed:
                files[name] = entry
        return replace(self, files=files)

    def without(self, names: Iterable[str]) -> "Manifest":
        """The same without some files."""
        names = set(names)
        return replace(self, files={n: e for n, e in self.files.items() if n not in names})


def write_files(manifest: Manifest, contents: Mapping[str, bytes | Path], log: str = "") -> None:
    """Writes files, in order, and their manifest.

    Args:
        manifest: of the folder, as it is.
        contents: name -> content, or another file of the folder, which stays as it is.
        log: new copy of the log; "" keeps the old one.
    """
    manifest, folder = manifest.resolved(), manifest.path.parent
    digests = {
        name: hashlib.sha256(content).hexdigest()
        if isinstance(content, bytes)
        else manifest.files.get(content.name, Entry()).sha256 or file_sha256(content)
        for name, content in contents.items()
    }
    log = log or manifest.log
    old = {name: manifest.files.get(name, Entry()).sha256 for name in contents}
    begun = {name: Entry(old[name], digest) for name, digest in digests.items()}
    replace(manifest, files={**manifest.files, **begun}, log=log).save()
    for name, content in contents.items():
        if isinstance(content, bytes):
            write_atomically(folder / name, content)
        else:
            _link(content, folder / name)
    done = {name: Entry(digest) for name, digest in digests.items()}
    replace(manifest, files={**manifest.files, **done}, log=log).save()


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name; a copy where the file system has no links."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
    remove(temporary)  # where both were the same file, nothing was moved
