"""The unfinished CSV of predict: rows are on the disk as they come, and the same command goes on.

Beside ``OUT.partial``, which holds the rows, stands ``OUT.partial.json``: of which weights,
options, programs and input files they are. Rows of anything else are never mixed with ours.
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from medcolor_tf.errors import InputError
from medcolor_tf.files import write_atomically
from medcolor_tf.runs import folder as runs
from medcolor_tf.serving.inputs import InputImage, decode_name, encode_name

PARTIAL, RECORD = ".partial", ".partial.json"
# Options that decide what a row is. In another batch a probability may have another last digit.
OPTIONS = (
    *("weights", "batch_size", "mixed_precision", "path_column"),
    *("colorized_dir", "explain", "explain_observations", "heat_map", "dicom_out"),
)


@dataclasses.dataclass(frozen=True)
class PartialRecord:
    """Of what the rows are.

    Attributes:
        weights: SHA-256 of each file that makes the model, by name.
        options: those of :data:`OPTIONS`, by name.
        versions: of the programs that a probability depends on.
        names: of the images, in the order of the rows.
        states: size and modification time of each image's files.
        decision: SHA-256 of the decision whose columns there are, "" without one.
    """

    weights: dict
    options: dict
    versions: dict
    names: list[str]
    states: list[str]
    decision: str = ""

    @classmethod
    def from_command(
        cls, config, inputs: Sequence[InputImage], decision: str = ""
    ) -> "PartialRecord":
        """Returns the record of a command.

        Args:
            config: :class:`medcolor_tf.predict.PredictConfig`.
            inputs: its images.
            decision: SHA-256 of its decision, "" without one.
        """
        options = {name: getattr(config, name) for name in OPTIONS}
        return cls(
            runs.weights_digests(config.run_dir, config.weights),
            json.loads(json.dumps(options)),
            runs.versions(),
            [item.name for item in inputs],
            [" ".join(map(_state, item.files)) for item in inputs],
            decision,
        )

    def difference(self, other: "PartialRecord") -> str:
        """Says how another command differs from the one of this record; "" when it does not."""
        changed = [
            f"--{name}={_spell(value)} there, {_spell(other.options.get(name))} here"
            for name, value in self.options.items()
            if value != other.options.get(name)
        ]
        if self.weights != other.weights:
            changed.append("other weights (--run_dir)")
        if self.decision != other.decision:
            changed.append("another decision (--decision)")
        changed += [
            f"{name} {self.versions.get(name)} there, {other.versions.get(name)} here"
            for name in sorted(self.versions.keys() | other.versions.keys())
            if self.versions.get(name) != other.versions.get(name)
        ]
        if self.names != other.names:
            changed.append(self._other_inputs(other.names))
        return "; ".join(changed)

    def _other_inputs(self, names: list[str]) -> str:
        pairs = enumerate(zip([*self.names, None], [*names, None], strict=False), start=1)
        number, (there, here) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        return (
            f"other inputs: {len(self.names)} images there, {len(names)} here; number {number} is "
            f"{there or 'none'} there, {here or 'none'} here"
        )


class PartialTable:
    """The rows so far, and where the next go.

    Args:
        out: the CSV file that it becomes.
        header: names of the columns; the first is the image's name.
        picture_columns: positions of those with a path of a picture.

    Attributes:
        rows: those on the disk.
    """

    def __init__(self, out: Path, header: list[str], picture_columns: Iterable[int]):
        self.path = out.with_name(out.name + PARTIAL)
        self._record_path = out.with_name(out.name + RECORD)
        self._out, self._header, self._pictures = out, header, tuple(picture_columns)
        self.rows: list[list[str]] = []

    def recorded(self) -> PartialRecord | None:
        """Returns the record of the rows that are there; None where there are none.

        Raises:
            InputError: rows without a record that can be read.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        try:
            content = json.loads(self._record_path.read_text(encoding="utf-8"))
            return PartialRecord(**content)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"--out={self._out}: {self.path} is there, and {self._record_path}, which says of "
                f"what it is, cannot be read ({error}); delete {self.path} to start anew"
            ) from None

    def open(self, record: PartialRecord, batch_size: int) -> None:
        """Begins the file, or reads the rows of whole batches and cuts off what comes after them.

        Args:
            record: of this command.
            batch_size: images per batch; batches are computed as without the interruption.

        Raises:
            InputError: the rows are those of another command, or an image has changed since.
        """
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        try:
            self._lock()
            self._open_rows(record, batch_size)
        except OSError as error:
            self.close()
            raise _cannot_write(self.path, error) from None
        except InputError:
            self.close()
            raise

    def _lock(self) -> None:
        """Holds the file against other processes, where the system can, until it is closed."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--out={self._out}: another process is writing {self.path}; expected one"
            ) from None
        except OSError:  # a file system without locks
            return

    def _open_rows(self, record: PartialRecord, batch_size: int) -> None:
        there = self.recorded()
        start = _to_csv([self._header])
        if there is None:
            write_atomically(self._record_path, json.dumps(dataclasses.asdict(record)))
            self._write(start)
            return
        if difference := there.difference(record):
            raise InputError(
                f"--out={self._out}: {self.path} holds rows of another command ({difference}); "
                f"expected the same command, or another --out; delete {self.path} to start anew"
            )
        content = self.path.read_bytes()
        rows = self._whole_rows(content, start, record.names)
        whole = len(rows) // batch_size * batch_size
        self.rows = rows if len(rows) == len(record.names) else rows[:whole]
        for row, old, new in zip(self.rows, there.states, record.states, strict=False):
            if old != new:
                raise InputError(
                    f"--out={self._out}: {row[0]} has changed since its row was written to "
                    f"{self.path}; delete {self.path} to start anew"
                )
        write_atomically(self._record_path, json.dumps(dataclasses.asdict(record)))
        if content.startswith(start):
            self._file.truncate(len(start + _to_csv(self.rows)))
        else:  # not even the header was whole
            self._file.truncate(0)
            self._write(start)

    def _whole_rows(self, content: bytes, start: bytes, names: list[str]) -> list[list[str]]:
        """Returns the rows up to the first that is torn or whose picture is missing."""
        rows: list[list[str]] = []
        if not content.startswith(start):
            return rows
        at = len(start)
        text = content[at:].decode("utf-8", errors="replace")
        try:
            for row, name in zip(csv.reader(io.StringIO(text, newline="")), names, strict=False):
                written = _to_csv([row])
                whole = len(row) == len(self._header) and row[0] == encode_name(name)
                if not (whole and content.startswith(written, at) and self._has_pictures(row)):
                    break
                at += len(written)
                rows.append(row)
        except csv.Error:
            pass  # torn
        return rows

    def _has_pictures(self, row: list[str]) -> bool:
        files = [Path(decode_name(row[column])) for column in self._pictures if row[column]]
        return all(file.is_file() and file.stat().st_size for file in files)

    def append(self, rows: list[list[str]]) -> None:
        """Writes the rows of a batch; they are on the disk when it returns.

        Raises:
            InputError: they cannot be written.
        """
        try:
            self._write(_to_csv(rows))
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        self.rows += rows

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file; what it holds stays."""
        self._file.close()

    def finish(self) -> None:
        """Gives the file its name."""
        self.close()
        os.replace(self.path, self._out)
        self._record_path.unlink(missing_ok=True)

    def advice(self) -> str:
        """Returns the end of a message when something went wrong: what is kept, what to do."""
        return f"{len(self.rows):,} rows are kept in {self.path}; the same command goes on there"


def _to_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", errors="backslashreplace")


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error})")


def _spell(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"
