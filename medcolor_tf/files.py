"""Files that a power cut leaves old or new, JSON with limits and a seal, and locks."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medcolor_tf.errors import InputError

# Of a file that we read; the description of a data set of 100,000 shards has 30 MB.
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 64
SEAL = "sha256"


def write_atomically(path: str | Path, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file aside, flushes it to the disk and renames it.

    Args:
        path: the file.
        content: text (stored as UTF-8) or bytes.
        mode: permissions before the umask; they hold from the first byte on.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: str | Path, content) -> None:
    """Writes JSON; a power cut leaves the old file or the new one."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: str | Path, most_bytes: int | None = None) -> dict:
    """Reads a JSON object.

    Args:
        path: the file.
        most_bytes: that it may have; None: MAX_JSON_BYTES.

    Raises:
        InputError: naming the file: it is missing, damaged, no object, or beyond the limits.
    """
    path = Path(path)
    try:
        most = most_bytes or MAX_JSON_BYTES
        if path.stat().st_size > most:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes, expected at most {most:,}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    content = parse_json(data, path, most)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: cannot be read (expected a JSON object, received {type(content).__name__})"
        )
    return content


def parse_json(data: str | bytes, origin: str | Path, most_bytes: int | None = None) -> Any:
    """Parses JSON that may be anybody's.

    Args:
        data: the text, UTF-8 where it is bytes.
        origin: the file, for messages.
        most_bytes: as in :func:`read_json`.

    Raises:
        InputError: no JSON, or longer than MAX_JSON_BYTES or nested deeper than MAX_JSON_DEPTH.
    """
    most = most_bytes or MAX_JSON_BYTES
    if len(data) > most:
        raise InputError(f"{origin}: {len(data):,} bytes of JSON, expected at most {most:,}")
    try:
        content = json.loads(data)
        depth = _depth(content)
    except RecursionError:
        depth = MAX_JSON_DEPTH + 1
    except ValueError as error:
        raise InputError(f"{origin}: cannot be read ({error})") from None
    if depth > MAX_JSON_DEPTH:
        raise InputError(
            f"{origin}: cannot be read (JSON nested deeper than {MAX_JSON_DEPTH} levels)"
        )
    return content


def _depth(content: Any) -> int:
    """Levels of lists and objects; counted up to one more than is allowed."""
    level, depth = [content], 0
    while level and depth <= MAX_JSON_DEPTH:
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        depth += 1
    return depth


def sealed(content: Mapping) -> dict:
    """Returns an object for a JSON file with the SHA-256 of itself, under SEAL."""
    return {**content, SEAL: _seal(content)}


def unsealed(content: Mapping, origin: str | Path) -> dict:
    """Returns what :func:`sealed` was given; an object without a seal as it is.

    Raises:
        InputError: the seal is not that of the content; names ``origin``.
    """
    bare = {name: value for name, value in content.items() if name != SEAL}
    if SEAL in content and content[SEAL] != _seal(bare):
        raise InputError(
            f"{origin}: its SHA-256 is not that of its content: the file is damaged or was "
            "changed by hand; restore it from a copy"
        )
    return bare


def _seal(content: Mapping) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], None], shared: bool = False) -> Iterator[int]:
    """Holds a lock that the system drops with the last process that has its file open.

    Where there are no locks (Windows, some file systems that machines share) it goes on; the latter
    with a warning.

    Args:
        path: of the lock's file.
        busy: called when another process has it; where it raises nothing, the lock is waited for.
        shared: with others that share it.

    Yields:
        The file's descriptor; a child process that inherits it holds the lock too.
    """
    with path.open("w") as file:
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield file.fileno()
            return
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(file, kind)
        except OSError:
            tqdm.write(f"warning: {path}: no locks there; see that no two processes write at once")
        yield file.fileno()
