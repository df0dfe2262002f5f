"""Files that a power cut or a full disk leaves old or new, never a part."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from medcolor_tf.errors import InputError

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
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: str | Path) -> dict:
    """Reads JSON; InputError naming the file when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
