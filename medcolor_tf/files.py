"""Files that a power cut or a full disk leaves old or new, never a part; JSON with limits."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcolor_tf.errors import InputError

# Of a file that we read; the description of a data set of 100,000 shards has 30 MB.
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 64
SEAL = "sha256"
# Of this process: another one may have had its number before, in a container above all.
_OWN = secrets.token_hex(4)
_HOST = re.sub(r"[^A-Za-z0-9-]", "", socket.gethostname())[:40] or "host"
_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)@(?P<host>[A-Za-z0-9-]+)-(?P<own>[0-9a-f]{8})\d*\.tmp")
# Of another machine it is not known whether the process lives; no file takes that long to write.
OLD_SECONDS = 24 * 3600.0
_counter = iter(range(2**63))


def temporary_for(path: str | Path) -> Path:
    """Returns a hidden name beside ``path`` that no other writer has, in no process or thread."""
    path = Path(path)
    # Names of files have 255 bytes; the end of a long one is left out.
    name = path.name.encode("utf-8", "surrogateescape")[:150].decode("utf-8", "surrogateescape")
    return path.with_name(f".{name}.{os.getpid()}@{_HOST}-{_OWN}{next(_counter)}.tmp")


def remove_leftovers(folder: str | Path, name: str = "") -> None:
    """Removes what killed processes have left in a folder under :func:`temporary_for`'s names.

    Those of a process of this machine that lives are left alone, and so are those of another
    machine that are younger than a day.

    Args:
        folder: which need not be there.
        name: of the file whose temporary ones are meant; "" for all.
    """
    for path in Path(folder).glob(".*.tmp"):
        if path.name.startswith(f".{name}") and _is_left_over(path):
            remove(path)


def _is_left_over(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match and match["host"] == _HOST:
        pid = int(match["pid"])
        # A fork has its parent's token, and another number.
        if match["own"] != _OWN if pid == os.getpid() else not is_alive(pid):
            return True
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    return False


def is_alive(pid: int) -> bool:
    """Tells whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file or a folder with all it holds; nothing where there is none."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns an OSError inside (disk full, quota, read-only, ...) into InputError that names a file.

    Args:
        path: of the file or folder; where the error names another file, that one is named.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | Path, error: OSError) -> InputError:
    """Returns the error of a file that cannot be written, with its cause and what is kept."""
    named = error.filename
    if isinstance(named, str | bytes) and not Path(os.fsdecode(named)).name.endswith(".tmp"):
        path = os.fsdecode(named)
    return InputError(
        f"{path}: cannot be written ({error.strerror or error}). What was there before is whole; "
        "mend this and give the same command again"
    )


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a new name to write a file or folder to, which becomes ``path`` at the end.

    A file is on the disk before it has its name. Whatever is raised inside, nothing is left of it.

    Raises:
        InputError: it cannot be written.
    """
    temporary = temporary_for(path)
    try:
        with writing(path):
            yield temporary
            if temporary.is_file():
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def write_atomically(path: str | Path, content: str | bytes, mode: int = 0o666) -> None:
    """Writes a file aside, flushes it to the disk and renames it.

    Args:
        path: the file.
        content: text (stored as UTF-8) or bytes.
        mode: permissions before the umask; they hold from the first byte on.

    Raises:
        InputError: it cannot be written; what was there before is whole.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as temporary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)


def write_json(path: str | Path, content) -> None:
    """Writes JSON; a power cut leaves the old file or the new one."""
    write_atomically(path, json_text(content))


def json_text(content) -> str:
    """Returns the text of a JSON file: sorted names, two spaces per level, a newline at the end."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


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
