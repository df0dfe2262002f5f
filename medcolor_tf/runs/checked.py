"""A folder whose files are compared with their manifest when they are read; imports no Keras."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from medcolor_tf.errors import InputError
from medcolor_tf.files import json_text, read_json
from medcolor_tf.runs.manifest import Manifest, write_files


@dataclasses.dataclass(frozen=True)
class CheckedFolder:
    """A folder, which need not be there yet."""

    folder: Path

    def _manifest_path(self, name: str) -> Path:
        """Returns the manifest that lists a file of that name."""
        raise NotImplementedError

    def _new_manifest(self, path: Path) -> Manifest:
        """Returns what a manifest that is not there yet begins with."""
        raise NotImplementedError

    def _check_content(self, path: Path, content: dict) -> None:
        """Raises InputError where a JSON file does not hold what it has to."""

    def manifest(self, name: str) -> Manifest | None:
        """Returns the manifest that a file belongs to; None where the folder has none.

        Raises:
            InputError: it is damaged.
        """
        return Manifest.load(self._manifest_path(name))

    def lists(self, name: str) -> bool:
        """Whether the manifest says that there is such a file."""
        manifest = self.manifest(name)
        return manifest is not None and manifest.lists(name)

    def checked(self, file: str | Path) -> Path:
        """Returns the path of a file that is what the manifest says.

        Args:
            file: its name, or its path in this folder.

        Raises:
            InputError: it is not there, damaged, another run's, or a link that leaves the folder.
        """
        path = self.folder / file if isinstance(file, str) else file
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(
                f"{path}: a link to {path.resolve()}, which is outside the run folder; expected "
                "the file itself"
            )
        manifest = self.manifest(path.name)
        problem = manifest.problem(path.name) if manifest else ""
        if not problem and not path.is_file():
            problem = "no such file"
        if problem:
            raise InputError(f"{path}: {problem}")
        return path

    def read_json(self, file: str | Path) -> dict:
        """Reads a JSON file; InputError names it, see :meth:`checked`."""
        path = self.checked(file)
        content = read_json(path)
        self._check_content(path, content)
        return content

    def write(self, files: Mapping[str, bytes | str | Path | dict], log: str = "") -> None:
        """Writes files, in order, and their manifest.

        A power cut leaves each of them old or new, and the folder readable.

        Args:
            files: name -> text, bytes, the content of a JSON file, or the path of a file in this
                folder that stays as it is; all of one manifest.
            log: the whole log, where it is among them.
        """
        if not files:
            return
        path = self._manifest_path(next(iter(files)))
        manifest = Manifest.load(path) or self._new_manifest(path)
        write_files(manifest, {name: _encoded(content) for name, content in files.items()}, log)


def _encoded(content: bytes | str | Path | dict) -> bytes | Path:
    if isinstance(content, dict):
        content = json_text(content)
    return content.encode() if isinstance(content, str) else content
