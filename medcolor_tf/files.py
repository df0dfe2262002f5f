"""Files that a power cut leaves old or new, never a part, and locks between processes."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from medcolor_tf.errors import InputError


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


def read_json(path: str | Path) -> dict:
    """Reads JSON; InputError naming the file when it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


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
