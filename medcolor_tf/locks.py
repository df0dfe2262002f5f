"""One writer per folder: locks between processes, and who has them.

The system drops a lock with the process that holds it, on file systems that machines share too, so
a killed process leaves no lock behind. Who holds one stands in a file beside it (process, machine,
since when), for the message that the second process gets.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from medcolor_tf.errors import InputError
from medcolor_tf.files import is_alive, remove, remove_leftovers, write_atomically, writing
from medcolor_tf.progress import say

LOCK = ".lock"
NO_LOCKS = "no locks there; see that no two processes write at once"
_MISSING = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def only_writer(folder: str | Path, flag: str) -> Iterator[None]:
    """Holds a folder against every other process that asks for it here.

    The folder is made, left-overs of killed writers in it are removed, and a new one goes again
    where nothing has come of it. The lock's empty file stays: others may be looking at it.

    Args:
        folder: what is written to.
        flag: that names it, for messages.

    Raises:
        InputError: another process has it; names its number, machine and start. Or the folder
            cannot be written to.
    """
    folder = Path(folder)
    lock, is_new = FileLock(folder / LOCK, timeout=0), not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder / LOCK, f"{flag}={folder}")
    try:
        write_holder(folder / LOCK)
        remove_leftovers(folder)
        yield
    finally:
        remove(holder_file(folder / LOCK))
        with contextlib.suppress(OSError):
            if {path.name for path in folder.iterdir()} == {LOCK}:
                (folder / LOCK).unlink()
                if is_new:
                    folder.rmdir()
        lock.release()


def _acquire(lock, path: Path, what: str) -> None:
    """Takes a lock; where the file system has none, the holder's file has to do."""
    try:
        lock.acquire()
    except Timeout:
        raise refusal(what, path) from None
    except NotImplementedError:
        _warn_of_no_locks(what, path)
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        _warn_of_no_locks(what, path)


def _warn_of_no_locks(what: str, path: Path) -> None:
    holder = _read_holder(path)
    if holder and not (holder.get("host") == socket.gethostname() and not is_alive(holder["pid"])):
        raise InputError(
            f"{refusal(what, path)}. The file system has no locks: if that process is gone, delete "
            f"{holder_file(path)}"
        )
    say(f"warning: {path}: {NO_LOCKS}")


def refusal(what: str, path: Path) -> InputError:
    """Returns the error of a second process.

    Args:
        what: is being written to, such as "--run_dir=FOLDER".
        path: of the lock's file.
    """
    holder = _read_holder(path)
    who = "another process"
    if holder:
        who = f"process {holder['pid']} on {holder['host']} (since {holder['start']})"
    return InputError(f"{what}: {who} is writing there; expected one at a time: wait for its end")


def holder_file(path: Path) -> Path:
    """Returns the file that tells who has a lock."""
    return path.with_name(f"{path.name}-holder.json")


def write_holder(path: Path) -> None:
    """Writes this process' number, machine and time beside a lock that it has."""
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "start": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    write_atomically(holder_file(path), json.dumps(holder) + "\n")


def _read_holder(path: Path) -> dict:
    """Returns what :func:`write_holder` wrote; empty where it is not there yet, or damaged."""
    try:
        holder = json.loads(holder_file(path).read_text(encoding="utf-8"))
        return {"pid": int(holder["pid"]), "host": holder["host"], "start": holder["start"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@contextlib.contextmanager
def locked(
    path: Path, busy: Callable[[], None], shared: bool = False, held: bool = True
) -> Iterator[int]:
    """Holds a lock that child processes inherit and that readers can share.

    Where there are no locks (Windows, some file systems that machines share) it goes on; the latter
    with a warning.

    Args:
        path: of the lock's file.
        busy: called when another process has it; where it raises nothing, the lock is waited for.
        shared: with others that share it.
        held: say who has it, see :func:`refusal`.

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
            say(f"warning: {path}: {NO_LOCKS}")
        if held and not shared:
            write_holder(path)
        try:
            yield file.fileno()
        finally:
            if held and not shared:
                remove(holder_file(path))
